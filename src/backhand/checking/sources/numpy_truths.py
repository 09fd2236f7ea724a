"""Where the true gradients of code over NumPy come from: autograd on torch's NumPy layer, or differences."""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.arrays import as_arrays
from backhand.checking.running.differences import along, by_differences, has_kink
from backhand.checking.running.importing import is_the_users
from backhand.checking.running.private import differentiated
from backhand.checking.running.program import plain_function
from backhand.checking.running.standin import tracking
from backhand.checking.running.tracked import Tracked, UntrackedError, wrapped
from backhand.checking.sources.held import holders_of
from backhand.checking.sources.protocol import ForwardError
from backhand.errors import CheckError

# Outputs of one forward, computed in another order in float64; those of one that is float32 somewhere.
SAME, SAME_IN_FLOAT32 = 1e-9, 1e-4
# What is added against zero, and changes a gradient by no more than that: not the 1e-5 of a batch norm.
EPSILON = 1e-6
# A difference in one direction agrees with the gradients to this part, unless it steps over a kink.
AGREES = 1e-5
# Elements of the inputs times those of the outputs of which all differences are kept: 4 MB for each draw.
MOST_KEPT = 500_000
# Functions, classes and modules of the user's are looked through for NumPy; more of them than any course has.
MOST_SPACES = 200

Call = Callable[[Callable[..., Any], Mapping[str, Any]], Any]


def plainly(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function by its parameters' names."""
    return function(**arguments)


@dataclass(frozen=True)
class Called:
    """What a forward gave: its outputs, and what its backward needs besides the upstream gradients."""

    outputs: tuple[Any, ...]
    state: Any


class Forward(Protocol):
    """The forward of something over NumPy, of whichever kind."""

    @property
    def title(self) -> str:
        """What it is called."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs."""
        ...

    def forward(self, inputs: Mapping[str, Any], call: Call = plainly) -> Called:
        """Run it on inputs by name, arrays or tracked ones, which it may change."""
        ...

    def functions(self) -> Sequence[Callable[..., Any]]:
        """Return the user's functions that it calls."""
        ...

    @property
    def over_torch(self) -> bool:
        """Whether its arrays are torch's tensors."""
        ...


class Tracking:
    """Autograd, on the forward as it runs on torch's NumPy layer.

    Args:
        subject: whose forward it is.
    """

    told: str = "autograd"
    slack: float = 1.0

    def __init__(self, subject: Forward):
        self.subject = subject
        self._spaces = spaces_of(subject.functions())

    def __call__(self, inputs: Mapping[str, Any], call: Call = plainly) -> tuple[Tensor, ...]:
        """Return the outputs, with autograd's graph, for inputs of which some are tensors.

        Raises:
            UntrackedError: the layer does not know all that the forward uses.
        """
        with tracking(self._spaces), torch.enable_grad():
            values = {
                k: Tracked(v) if isinstance(v, Tensor) else wrapped(copy.deepcopy(v))
                for k, v in inputs.items()
            }
            outputs = self.subject.forward(values, call).outputs
        if not all(isinstance(out, Tracked) for out in outputs):
            raise UntrackedError("an output that is not made of the inputs")
        return tuple(out.tensor for out in outputs)


class Direct:
    """Autograd, on a forward over torch's tensors as it stands."""

    told: str = "autograd"
    slack: float = 1.0

    def __init__(self, subject: Forward):
        self.subject = subject

    def __call__(self, inputs: Mapping[str, Any], call: Call = plainly) -> tuple[Tensor, ...]:
        """Return the outputs, with autograd's graph, for inputs of which some are tensors."""
        return self.subject.forward(dict(inputs), call).outputs


class Differing:
    """Central differences of the forward itself, in float64.

    Args:
        subject: whose forward it is.
        known: where they are kept for every element of the inputs and of the outputs, for other upstream
            gradients; by where the random numbers stood.
    """

    told: str = "central differences"
    slack: float = 1e3  # they are right to ten digits, where autograd has fifteen

    def __init__(self, subject: Forward, known: dict[bytes, dict[bytes, np.ndarray]] | None = None):
        self.subject = subject
        self._known = known

    def __call__(self, inputs: Mapping[str, Any], call: Call = plainly) -> tuple[Tensor, ...]:
        """Return the outputs, as those of one operation of autograd."""
        names = [k for k, v in inputs.items() if isinstance(v, Tensor)]
        rest = {k: v for k, v in inputs.items() if k not in names}
        state: Any = np.random.get_state()  # the same masks each time
        of_torch = torch.get_rng_state()

        def function(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
            np.random.set_state(state)
            torch.set_rng_state(of_torch)
            given = copy.deepcopy({**rest, **dict(zip(names, arrays, strict=True))})
            return as_arrays(self.subject.forward({k: given[k] for k in inputs}).outputs)

        drawn = of_torch.numpy().tobytes() + state[1].tobytes() + repr(state[2:]).encode()
        known = None if self._known is None else self._known.setdefault(drawn, {})
        return by_differences(function, *(inputs[n] for n in names), known=known)


Truth = Tracking | Direct | Differing


@dataclass(frozen=True)
class Chosen:
    """A truth, and what was noticed on the way to it.

    Attributes:
        truth: where gradients come from.
        in_float32: the forward computes in float32 somewhere, whatever it is given.
        at_kink: the inputs lie where the forward has no derivative, such as relu at 0.
    """

    truth: Truth
    in_float32: bool = False
    at_kink: bool = False


def choose(subject: Forward, inputs: Mapping[str, Any], wanted: Sequence[str], seed: int) -> Chosen:
    """Return autograd's truth if it is that of the forward as NumPy runs it, otherwise differences.

    Args:
        subject: whose forward it is.
        inputs: one set of them, in NumPy.
        wanted: those with a gradient.
        seed: of the upstream gradients and the direction in which the two are compared.

    Raises:
        CheckError: nothing tells the gradients.
    """
    once, twice = (run_plainly(subject, inputs, seed) for _ in range(2))
    if not all(map(_equal, once, twice)):
        raise CheckError(
            f"{subject.title}: the forward gives other outputs each time, so that there is no gradient to "
            "compare: draw random numbers with np.random, whose state is kept."
        )
    rng = np.random.default_rng(seed + 1)
    upstream = [rng.normal(size=np.shape(out)) for out in once]
    direction = {n: rng.normal(size=np.shape(inputs[n])) for n in wanted}

    def scalar(at: Mapping[str, np.ndarray]) -> float:
        outputs = run_plainly(subject, {**inputs, **at}, seed)
        return float(sum(np.sum(u * out) for u, out in zip(upstream, outputs, strict=True)))

    at = {n: np.asarray(inputs[n], np.float64) for n in wanted}
    followed = Direct if subject.over_torch else Tracking
    distance, slope = _followed_slope(followed(subject), inputs, once, upstream, direction, seed)
    # an embedding of float32 hands on what it was given to the last digit, and no difference tells its slope
    single = any(out.dtype.kind == "f" and out.dtype.itemsize < np.dtype(float).itemsize for out in once)
    if (distance > SAME or single) and distance <= SAME_IN_FLOAT32:
        return Chosen(followed(subject), in_float32=True)
    at_kink = has_kink(scalar, at, direction)
    few = sum(v.size for v in at.values()) * sum(out.size for out in once) <= MOST_KEPT
    differing = Differing(
        subject, {} if few else None
    )  # else each upstream gradient takes them all once more
    if distance > SAME or slope is None:
        return Chosen(differing, at_kink=at_kink)
    real = along(scalar, at, direction)
    agrees = abs(real - slope) <= AGREES * max(abs(real), abs(slope), 1e-3)
    return Chosen(followed(subject) if agrees or at_kink else differing, at_kink=at_kink)


def _followed_slope(
    truth: Tracking | Direct,
    inputs: Mapping[str, Any],
    real: Sequence[Any],
    upstream: Sequence[np.ndarray],
    direction: Mapping[str, np.ndarray],
    seed: int,
) -> tuple[float, float | None]:
    """Return how far the outputs that autograd follows are from the real ones, and their slope."""
    leaves = {n: torch.tensor(np.asarray(inputs[n], np.float64), requires_grad=True) for n in direction}
    try:
        _seed(seed)
        outputs = truth({k: leaves.get(k, v) for k, v in inputs.items()})
        distance = max(map(_distance, (o.detach().numpy() for o in outputs), real))
        arriving = [torch.from_numpy(u) for u in upstream]
        with_graph = [(o, u) for o, u in zip(outputs, arriving, strict=True) if o.requires_grad]
        if not with_graph:
            return distance, 0.0
        ends, above = zip(*with_graph, strict=True)
        found = differentiated(ends, above, leaves.values())
    except Exception:  # whatever the layer does not know, or does otherwise
        return float("inf"), None
    pairs = zip(found, direction.values(), strict=True)
    return distance, float(sum((g.numpy() * d).sum() for g, d in pairs if g is not None))


def run_plainly(subject: Forward, inputs: Mapping[str, Any], seed: int) -> tuple[np.ndarray, ...]:
    """Return the outputs for copies of the inputs, with random numbers from a seed."""
    _seed(seed)
    try:
        called = subject.forward(copy.deepcopy(dict(inputs)))
    except CheckError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ForwardError(f"the forward of {subject.title}", error) from error
    try:
        outputs = tuple(np.asarray(as_arrays(out)) for out in called.outputs)
    except ValueError:  # lists of arrays of several shapes
        outputs = (np.array(None),)
    if any(out.dtype.kind not in "fiub" for out in outputs):
        found = ", ".join(type(out).__name__ for out in called.outputs)
        raise CheckError(f"the forward of {subject.title} gives {found}, no array: is it written yet?")
    return outputs


def _seed(seed: int) -> None:
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def _distance(a: np.ndarray, b: Any) -> float:
    """Return the largest difference beside the largest element; infinity where the shapes differ."""
    b = np.asarray(b)
    if a.shape != b.shape:
        return float("inf")
    if not a.size or _equal(a, b):
        return 0.0
    found = float(np.max(np.abs(a - b)) / max(float(np.max(np.abs(b))), 1e-300))
    return found if np.isfinite(found) else float("inf")


def spaces_of(functions: Sequence[Callable[..., Any]]) -> list[MutableMapping[str, Any]]:
    """Return the global variables of the modules of some functions and of all that they may call."""
    found: dict[int, MutableMapping[str, Any]] = {}
    stack: list[Any] = list(functions)
    while stack and len(found) < MOST_SPACES:
        value = stack.pop()
        for space in _spaces(value):
            if id(space) not in found and is_the_users(space):
                found[id(space)] = space
                stack += [v for v in list(space.values()) if isinstance(v, FunctionType | type | ModuleType)]
    return list(found.values())


@contextlib.contextmanager
def numpy_itself() -> Iterator[None]:
    """Let NumPy be as it was, where an imported package has changed it: `nnfs.init()` lets `dot` round."""
    changed = [(space, n, vars(space)[n]) for (space, n), f in _OWN.items() if vars(space).get(n) is not f]
    try:
        for space, name, _ in changed:
            setattr(space, name, _OWN[space, name])
        yield
    finally:
        for space, name, value in changed:
            setattr(space, name, value)


_OWN = {(space, name): f for space in (np, np.random) for name, f in vars(space).items() if callable(f)}


@contextlib.contextmanager
def without_epsilons(functions: Sequence[Callable[..., Any]]) -> Iterator[list[str]]:
    """Let tiny constants in the users' functions be zero, such as the 1e-7 within a logarithm; give them.

    They may stand there, be a default, a global variable, or lie on the object.
    """
    called = reached(functions)
    with contextlib.ExitStack() as stack:
        found = {v for f in called for v in stack.enter_context(_zero_within(f))}
        spaces = [(f.__globals__, f.__code__.co_names) for f in called]
        spaces += [(vars(o), (*vars(o),)) for f in functions for o in _holders(f)]
        for space, names in spaces:
            tiny = {n: space[n] for n in names if _is_epsilon(space.get(n))}
            stack.callback(space.update, tiny)
            space.update(dict.fromkeys(tiny, 0.0))
            found |= {*tiny.values()}
        yield sorted(map(repr, found))


@contextlib.contextmanager
def _zero_within(function: FunctionType) -> Iterator[set[float]]:
    """Let a function's own tiny constants and defaults be zero."""
    code, defaults, named = function.__code__, function.__defaults__, function.__kwdefaults__
    try:
        function.__code__ = code.replace(co_consts=tuple(map(_zero, code.co_consts)))
        function.__defaults__ = defaults and tuple(map(_zero, defaults))
        function.__kwdefaults__ = named and {n: _zero(v) for n, v in named.items()}
        yield {v for v in (*code.co_consts, *(defaults or ()), *(named or {}).values()) if _is_epsilon(v)}
    finally:
        function.__code__, function.__defaults__, function.__kwdefaults__ = code, defaults, named


@contextlib.contextmanager
def in_float64(functions: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Let the users' functions get float64 where they ask for float32, as in `dtype="f"` or `np.float32`."""
    before = {f: f.__code__ for f in reached(functions)}
    try:
        for f, code in before.items():
            constants = tuple("d" if c in ("f", "f4", "float32") else c for c in code.co_consts)
            names = tuple("float64" if n == "float32" else n for n in code.co_names)
            f.__code__ = code.replace(co_consts=constants, co_names=names)
        yield
    finally:
        for f, code in before.items():
            f.__code__ = code


def _zero(constant: Any) -> Any:
    return 0.0 if _is_epsilon(constant) else constant


def _is_epsilon(constant: Any) -> bool:
    return isinstance(constant, float) and 0 < abs(constant) <= EPSILON


def reached(functions: Sequence[Callable[..., Any]]) -> set[FunctionType]:
    """Return functions with those of the user's that they call, and the methods of all classes on the way."""
    stack: list[Any] = list(functions)
    found: set[FunctionType] = set()
    while stack and len(found) < MOST_SPACES:
        value = stack.pop()
        if not _is_of_python(value):
            continue
        classes = [c for o in _holders(value) for c in type(o).__mro__]
        stack += [f for c in classes for f in vars(c).values() if isinstance(f, FunctionType)]
        plain = plain_function(value)[0]
        if plain not in found and is_the_users(plain.__globals__):
            found.add(plain)
            called = [plain.__globals__.get(name) for name in plain.__code__.co_names]
            stack += [f for f in called if isinstance(f, FunctionType)]
            classes = [c for c in called if isinstance(c, type)]
            stack += [f for c in classes for f in vars(c).values() if isinstance(f, FunctionType)]
    return found


def _holders(function: Any) -> Iterator[Any]:
    """Yield the object whose method a function is, and those that it holds."""
    owner = getattr(function, "__self__", None)
    return holders_of(owner) if owner is not None else iter(())


def _spaces(value: Any) -> list[MutableMapping[str, Any]]:
    if isinstance(value, ModuleType):
        return [vars(value)]
    if isinstance(value, type):
        return [f.__globals__ for f in vars(value).values() if isinstance(f, FunctionType)]
    return [plain_function(value)[0].__globals__] if _is_of_python(value) else []


def _is_of_python(value: Any) -> bool:
    """Tell whether a value is a function with source: IPython's `open` is a wrapper of one that has none."""
    return callable(value) and isinstance(inspect.unwrap(value), FunctionType | MethodType)
