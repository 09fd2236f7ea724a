"""`check_function`: a custom autograd Function, or any differentiable callable, against a plain reference."""

import copy
import inspect
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from backhand.checking.judging import check_pass
from backhand.checking.report import Report
from backhand.checking.reshaping import in_shapes
from backhand.checking.running.complexes import as_complex, as_reals, is_differentiable
from backhand.checking.running.containers import each_tensor, flatten
from backhand.checking.running.names import nearest
from backhand.checking.running.precision import (
    COMPUTED_IN_LESS,
    MEASURED,
    ON_AVERAGE,
    RELATIVE,
    Asked,
    lowest,
    unit,
)
from backhand.checking.running.private import backward_of, function_of_operator, nothing_arriving
from backhand.checking.running.sandbox import running
from backhand.checking.running.tracing import apart_from, as_leaf, changes_a_leaf, copied, leaf_inputs
from backhand.checking.running.trials import sets_of
from backhand.checking.sources.calling import Call, Called, ClosedError
from backhand.checking.sources.locating import Opening, at_fault, located
from backhand.checking.sources.opened import is_custom, opened
from backhand.checking.sources.parameters import ByParameters, in_dtype_of, with_parameters
from backhand.checking.sources.protocol import ForwardError, ForwardsDifferError, Halfway, Pass
from backhand.checking.sources.usages import usages, with_added
from backhand.checking.sources.wrapping import Seen
from backhand.checking.stressing import refusable
from backhand.checking.verdicts.comparing import (
    allclose,
    close,
    coarser,
    largest_difference,
    off,
    root_mean_square,
)
from backhand.checking.verdicts.truths import BEYOND, is_another_rounding, moved
from backhand.errors import CheckError

Tensors = Mapping[str, Tensor]


def check_function(
    fn: Any,
    reference: Callable[..., Any],
    inputs: Mapping[str, Any] | Sequence[Any] | Callable[..., Any],
    *,
    shapes: Sequence[int | Sequence[int]] = (),
    draws: int = 3,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    no_gradient: Collection[str] = (),
    allow: Collection[str] = (),
) -> Report:
    """Compare a function that has its own backward with a plain reference that autograd differentiates.

    The upstream gradient is drawn at random. Besides the gradient of every input: linearity in the upstream
    gradient, transposed, strided, expanded and offset tensors, tensors changed in place, repeated runs,
    dtypes and the error in the inputs' own dtype against the reference's.

    Args:
        fn: a subclass of `torch.autograd.Function`, an operator of `torch.library.custom_op`, a callable, or
            a module: then its parameters are judged as well, by their names.
        reference: a callable of the same arguments, in plain torch operations; beside a module one with the
            same parameters. What it closes over, it may hold in another dtype.
        inputs: the arguments, by the reference's parameter names or in order, or a function that draws them
            from a `torch.Generator`. A list of several such dictionaries or functions: of other shapes.
        shapes: other sizes to try, given to that function after the generator; it is judged in full with the
            first, and what is wrong only with others is told with their shapes.
        draws: how many independent sets of inputs to try.
        seed: of the draws and the upstream gradients.
        dtype: judge in this one; by default in the finest in which the function is as accurate as that.
        rtol, atol: how far each element of an output and of a gradient may be off, `atol + rtol *
            |expected|`; by default a small multiple of the error that the reference makes in that dtype.
        no_gradient: the inputs that have none on purpose, though autograd would give them one: a target.
        allow: what the function may refuse with an exception, such as `"layout"`: the kinds of failure under
            stress. It is then said to be untried; what gives wrong numbers fails all the same.

    Returns:
        A `Report` with a row for every floating-point input.

    Raises:
        CheckError: the function raises, or gives another output than the reference.

    >>> class Double(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         return 2 * x
    ...     @staticmethod
    ...     def backward(ctx, dy):
    ...         return dy
    >>> check_function(Double, lambda x: 2 * x, {"x": torch.randn(4)})["x"].mistake.kind
    'scale'
    """
    left = [no_gradient] if isinstance(no_gradient, str) else no_gradient
    asked = Asked(dtype, rtol, atol)
    with closing(Function(fn, reference, frozenset(left), asked)) as function:
        given = list(in_shapes(inputs, shapes))
        first, *others = map(function.as_pass, given)
        chosen = replace(
            first,
            elsewhere=tuple(other.inputs for other in others),
            allow=refusable(allow),
        )
        report = check_pass(chosen, function.title, draws=draws, seed=seed)
        if not report.culprits:
            return report
        return located(report, partial(function.openings, given[0], chosen, draws, seed), draws, seed)


class Function:
    """A differentiable function beside its reference, whose outputs and gradients are taken for true.

    Attributes:
        fn: the function as it was given.
        call, reference: the two, as plain callables.
        title: the function's name.
        no_gradient: the inputs that have none on purpose.
        asked: what the caller says of the precision.
        parameters: those of a module beside a module, by name.
    """

    def __init__(
        self,
        fn: Any,
        reference: Callable[..., Any],
        no_gradient: frozenset[str] = frozenset(),
        asked: Asked = MEASURED,
    ):
        owner = getattr(fn, "__self__", None)
        fn = owner if is_custom(owner) and fn == owner.apply else fn  # `apply` is asked for by the Function
        self.call: Callable[..., Any] = fn.apply if is_custom(fn) else fn
        self.fn: Any = fn
        self.reference: Callable[..., Any] = reference
        self.parameters: dict[str, Tensor] = {}
        if isinstance(fn, nn.Module) and isinstance(reference, nn.Module):
            self.parameters, self.call, self.reference = with_parameters(fn, reference)
        self._named = reference.forward if isinstance(reference, nn.Module) else reference
        self._operator = function_of_operator(fn)
        self.title: str = getattr(self._operator or fn, "__name__", type(fn).__name__)
        self.no_gradient: frozenset[str] = no_gradient
        self.asked: Asked = asked
        self._in_pairs = True  # whether complex numbers are judged as pairs of real ones
        self._complex: set[str] = set()  # the inputs that are given as such pairs
        self._sees_complex = False
        self._given = torch.float64  # the dtype of the inputs
        self._takes_leaves = True
        self._apart: frozenset[str] = frozenset()  # the inputs with which it refuses to be differentiated
        self._turns = itertools.count(1)
        self._count = 1

    def close(self) -> None:
        """Give modules back what they held before."""
        for call in (self.call, self.reference):
            if isinstance(call, ByParameters):
                call.close()

    def as_pass(self, inputs: Any) -> Pass:
        """Return the pass whose forward is the reference, and whose backward differentiates the function."""
        named = (lambda g: self.named(inputs(g))) if callable(inputs) else self.named(inputs)
        return Pass(
            forward=self.forward,
            backward=self.backward,
            inputs=named,
            out=None,
            names={},
            wanted=None,
            optional=frozenset(),
            forward_source=None,
            backward_source=None,
            contract="returned",
            promotes=False,
            no_gradient=self.no_gradient,
            asked=self.asked,
            usages=usages(
                self.fn,
                partial(self._outputs, self.call, self.title),
                partial(self._outputs, self.reference, "the reference"),
                self.no_gradient,
                frozenset(self.parameters),
            ),
        )

    def openings(self, given: Any, chosen: Pass, draws: int, seed: int) -> Iterator[Opening]:
        """Yield the Functions at fault, to be looked into: itself, or those that are called within.

        Args:
            given: the inputs as they were given.
            chosen: the pass as it is judged.
            draws, seed: of the check.

        Raises:
            ClosedError: there are none.
        """
        if self._sees_complex:
            alone = self._with_complex()
            chosen = replace(alone.as_pass(given), elsewhere=chosen.elsewhere, allow=chosen.allow)
            yield from alone.openings(given, chosen, draws, seed)
            return
        inputs = next(sets_of(chosen.inputs, dict, 1, seed))
        fn = self._operator or self.fn
        if is_custom(fn):
            yield Opening(partial(self._opened, chosen, Called.directly(fn, list(inputs)), seed), inputs)
            return
        leaves, seen = self._heard(inputs, seed)
        hold = self.call.hold if isinstance(self.call, ByParameters) else lambda inputs: None
        if (called := seen.alone(leaves, hold, frozenset(self.parameters))) is not None:
            yield Opening(partial(self._opened, chosen, called, seed), inputs)
            return
        if not seen.calls:
            raise ClosedError("it calls no `torch.autograd.Function`")
        wrong = at_fault(seen.functions, chosen, draws, seed)
        for fn, (node, call) in itertools.product(wrong, seen.calls.items()):
            if call.fn is fn:
                within = partial(_within, call, seen.arrived.get(node, ()), chosen.asked, seed)
                yield Opening(within, call.named, fn, seen.made_of(fn))

    def _heard(self, inputs: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], Seen]:
        """Return leaves of some inputs, and which Functions are called with them.

        In float64 where it runs, so that what else they are called with is as precise.

        Raises:
            ClosedError: it cannot be told.
        """
        for dtype in (torch.float64, None):
            leaves = leaf_inputs(inputs, dtype)
            try:
                with running(dtype, seed, promote=False):
                    return leaves, Seen.of(partial(self._outputs, self.call, self.title), leaves)
            except Exception as error:  # the user's code may raise anything
                if dtype is None:
                    raise ClosedError("what it calls cannot be told") from error
        raise AssertionError

    def _opened(
        self, chosen: Pass, called: Called, seed: int, *, helpers: bool = True, whole: bool = False
    ) -> Pass:
        given = chosen, called, self.reference, self.told, seed, self._apart
        return opened(*given, helpers=helpers, whole=whole)

    def _with_complex(self) -> "Function":
        """Return it with complex numbers as they are, for its statements see them so."""
        found = copy.copy(self)
        found._in_pairs, found._complex, found._sees_complex = False, set(), False
        return found

    def named(self, inputs: Any) -> dict[str, Any]:
        """Return the arguments by name, in order, then the parameters of a module.

        Beside parameters all arguments are to have a gradient too, unless some are said to.

        Raises:
            CheckError: the inputs are no arguments, or one has the name of a parameter.
        """
        found = self._arguments(inputs)
        self._given = lowest(found)
        if self._in_pairs:
            self._complex |= {n for n, v in found.items() if isinstance(v, Tensor) and v.is_complex()}
            self._sees_complex |= bool(self._complex)
        found = {n: as_reals(v) if n in self._complex else v for n, v in found.items()}
        sparse = {n for n, v in found.items() if isinstance(v, Tensor) and v.layout != torch.strided}
        chosen = any(isinstance(v, Tensor) and v.requires_grad for v in found.values())
        if (self.parameters or sparse) and not chosen:
            found = {n: v if n in sparse else as_leaf(v) for n, v in found.items()}
        for name in sparse - self.no_gradient:
            if not chosen or found[name].requires_grad:
                raise CheckError(
                    f"{name} is sparse: its gradient is not judged. Name it in no_gradient=, or give it "
                    "dense and make it sparse within."
                )
        if both := found.keys() & self.parameters.keys():
            raise CheckError(f"{', '.join(sorted(both))} is the name of an input and of a parameter.")
        return found | self.parameters

    def _arguments(self, inputs: Any) -> dict[str, Any]:
        try:
            names = list(inspect.signature(self._named).parameters)
        except ValueError:  # a builtin, such as torch.matmul, does not tell them
            names = []
        if isinstance(inputs, Mapping):  # called by position, so that names are put in the order of those
            known = inputs.keys() <= set(names)
            return {n: inputs[n] for n in names if n in inputs} if known else dict(inputs)
        if isinstance(inputs, Tensor):
            inputs = [inputs]
        if not isinstance(inputs, Sequence):
            raise CheckError(
                f"inputs are {type(inputs).__name__}; expected the arguments, by name or in order."
            )
        return {names[i] if i < len(names) else f"input{i}": value for i, value in enumerate(inputs)}

    def forward(self, /, **inputs: Any) -> dict[str, Tensor]:
        """Return the reference's outputs by name."""
        if not any(isinstance(v, Tensor) and v.requires_grad for v in flatten(inputs).values()):
            raise CheckError(f"no input of {self.title} needs a gradient; expected a floating-point tensor.")
        for name in self.no_gradient - set(inputs):
            raise CheckError(f"no_gradient names {name!r}, which is no input{nearest(name, inputs)}")
        held = apart_from(inputs, self.no_gradient)
        found = _differentiable(self._outputs(self.reference, "the reference", held))
        if not found:
            raise CheckError(
                f"the reference of {self.title} gives no output that needs a gradient; one is expected. "
                "Where the gradient is another than autograd's on purpose, the reference is to have that one."
            )
        return found

    def backward(self, inputs: Mapping[str, Any], outputs: Tensors, upstream: Tensors) -> dict[str, Any]:
        """Return the function's own gradients of the inputs that are leaves which need one.

        Raises:
            CheckError: its outputs are not those of the reference.
            Halfway: autograd refuses what its backward returned.
        """
        leaves = {k: v for k, v in flatten(inputs).items() if isinstance(v, Tensor) and v.requires_grad}
        with torch.enable_grad():
            own = self._outputs(self.call, self.title, inputs)
        self._compare(inputs, own, outputs)
        given = {name: _the_same(value, outputs[name]) for name, value in own.items() if name in outputs}
        # other random numbers each time: the forward's were the same, and a backward needs none of its own
        torch.default_generator.manual_seed(next(self._turns))
        own = _differentiable(own)
        arriving = {n: upstream[f"d{n}"] for n in own if f"d{n}" in upstream}
        ends = {n: get_gradient_edge(own[n]) for n in arriving}
        if not ends:
            raise CheckError(
                f"{self.title} gives no output that needs a gradient, so that nothing it is made of gets one."
            )
        del own  # a large output need not lie beside what the backward makes
        try:
            found = with_added(ends.values(), arriving.values(), leaves.values())
        except RuntimeError as error:
            returned = _returned(self.fn, leaves, ends, arriving)
            if not returned:
                raise
            raise Halfway(returned, error) from error
        return {f"d{name}": gradient for name, gradient in zip(leaves, found, strict=True)} | given

    def _outputs(self, call: Callable[..., Any], what: str, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors that may have a gradient by name; None and integers are no part of this."""
        values = {n: as_complex(v) if n in self._complex else v for n, v in inputs.items()}
        try:
            if call is self.reference:
                result = in_dtype_of(call, list(values.values()))(*values.values())
            else:
                result = self._own(values)
        except Exception as error:  # the user's code may raise anything
            besides = self._refusal(values) if call is not self.reference else ""
            raise ForwardError(what, error, besides) from error
        if call is self.reference:
            self._count = len(_floats(result))
        return self.told(inputs, result)

    def _own(self, values: Mapping[str, Any]) -> Any:
        """Call the function; with copies of leaves where it takes none, as what says `mark_dirty` of them.

        Where it refuses one that has no gradient on purpose, it is differentiated by the others alone.
        """
        try:
            return self._called(values, self._apart)
        except Exception as error:
            if self._takes_leaves and isinstance(error, RuntimeError) and changes_a_leaf(error):
                self._takes_leaves = False
                return self._own(values)
            if self.no_gradient <= self._apart:
                raise
            found = self._called(values, self.no_gradient)
        self._apart = self.no_gradient
        return found

    def _refusal(self, values: Mapping[str, Any]) -> str:
        """Say that the function runs where nothing needs a gradient, if that is so."""
        try:
            self._called(values, values)
        except Exception:  # the user's code may raise anything
            return ""
        return ". It runs if no input needs a gradient: name those that are to have none in no_gradient="

    def _called(self, values: Mapping[str, Any], apart: Collection[str]) -> Any:
        given = apart_from(values, apart).values()
        return self.call(*(given if self._takes_leaves else map(copied, given)))

    def told(self, inputs: Iterable[str], result: Any) -> dict[str, Tensor]:
        """Return what a call gave by name: as many tensors as the reference has; the rest is for itself."""
        stem = next(s for s in _stems() if not any(_is_taken(s, name) for name in inputs))
        several, found = self._count > 1, _floats(result)[: self._count]
        self._sees_complex |= self._in_pairs and any(r.is_complex() for r in found)
        return {
            f"{stem}{i}" if several else stem: as_reals(r) if self._in_pairs else r
            for i, r in enumerate(found)
        }

    def _compare(self, inputs: Mapping[str, Any], own: Tensors, right: Tensors) -> None:
        for name, expected in right.items():
            got = own.get(name)
            if got is None or got.shape != expected.shape:
                shape = None if got is None else tuple(got.shape)
                raise CheckError(
                    f"{self.title} gives an output of shape {shape}, its reference {tuple(expected.shape)}: "
                    "the forwards differ, so that there is no gradient to compare."
                )
            alike = _agree(got.detach(), expected.detach(), self.asked.tolerance)
            if not alike and not self._rounds(inputs, name, got.detach(), expected.detach()):
                worst = largest_difference(got.detach(), expected.detach())
                raise ForwardsDifferError(
                    f"{self.title} and its reference give different outputs (by {worst:.3g}): mend the "
                    "forward first, or give the reference that is meant, or the dtype in which it computes "
                    "as dtype=."
                )

    def _rounds(self, inputs: Mapping[str, Any], name: str, own: Tensor, right: Tensor) -> bool:
        """Tell whether an output is off by rounding alone, of code that computes in less than its dtype.

        So do tensor cores that read ten bits of a float32 (TF32), and what makes bfloat16 of it.
        """
        dtype, size, error = lowest(inputs), root_mean_square(right), off(own, right)
        finer = dtype == torch.float64 or unit(dtype) < unit(self.asked.dtype or self._given)
        if finer or not 0 < error <= COMPUTED_IN_LESS * size:  # finer: it is tried in its own dtype yet
            return False
        generator = torch.Generator().manual_seed(0)
        there = each_tensor(dict(inputs), lambda t: moved(t, BEYOND * error / size, generator))
        found = []
        for call, what in ((self.call, self.title), (self.reference, "the reference")):
            with running(None, 0, promote=False):
                found.append(self._outputs(call, what, there)[name])
        return is_another_rounding(own.double() - right.double(), found[0].double() - found[1].double())


def _within(
    call: Call,
    arrived: Sequence[Tensor | None],
    asked: Asked,
    seed: int,
    *,
    helpers: bool = True,
    whole: bool = False,
) -> Pass:
    """Return the pass of the statements of a Function that is called within something, as if it was alone.

    What is true of it is what its own forward makes, for what went into it and what came to it.
    """
    inputs = call.named
    reached = frozenset(i for i, gradient in enumerate(arrived) if gradient is not None)
    own = Function(call.fn, partial(call.plain, reached or None))._with_complex()
    try:
        with running(lowest(inputs), seed, promote=False), torch.no_grad():
            made = call.made(call.before)
    except Exception as error:  # the user's code may raise anything
        raise ClosedError("it does not run by itself") from error
    own._count = len(_floats(made))
    names = {id(value): name for name, value in own.told(inputs, made).items()}
    arriving = {f"d{names[id(made[i])]}": arrived[i] for i in reached if id(made[i]) in names}
    chosen = replace(own.as_pass(inputs), asked=asked, arriving={seed: arriving}, slack=call.truth.slack)
    called = Called.directly(call.fn, list(inputs))
    return own._opened(chosen, called, seed, helpers=helpers, whole=whole)


def _floats(result: Any) -> list[Tensor]:
    results = result if isinstance(result, tuple | list) else [result]
    return [r for r in results if is_differentiable(r)]


def _the_same(own: Tensor, other: Tensor) -> Tensor:
    """Return the function's output; the reference's if they are equal, so that a large one is kept once."""
    equal = own.dtype == other.dtype and own.device == other.device and torch.equal(own, other)
    return (other if equal else own).detach()


def _differentiable(outputs: Tensors) -> dict[str, Tensor]:
    return {name: value for name, value in outputs.items() if value.requires_grad}


def _agree(own: Tensor, right: Tensor, asked: tuple[float, float] | None) -> bool:
    """Tell whether two forwards are one function in the dtype of the coarser of them, or as far as asked."""
    if asked is not None and allclose(own, right, *asked):
        return True
    dtype = coarser(own.dtype, right.dtype)
    if dtype == torch.float64 or not right.isfinite().all():
        return close(own, right)
    return close(own, right, noise=ON_AVERAGE * RELATIVE[dtype] * root_mean_square(right))


def _stems() -> Iterator[str]:
    """Yield what outputs may be called, plainest first."""
    yield from ("y", "out", "output")
    name = "output_"
    while True:
        yield name
        name += "_"


def _is_taken(stem: str, name: str) -> bool:
    """Tell whether an input has the name of such an output or of its upstream gradient: `y`, `y1`, `dy`."""
    return re.fullmatch(rf"d?{stem}\d*", name) is not None


def _returned(
    fn: object, leaves: Tensors, outputs: Mapping[str, GradientEdge], upstream: Tensors
) -> dict[str, Tensor | None]:
    """Return what a custom Function's backward itself returns, before autograd looks at the shapes.

    Only where the outputs are those of one Function, and only for the arguments that go into it as they are.
    """
    nodes = {r.node for r in outputs.values()}
    node: Any = nodes.pop()
    backward = backward_of(node, fn)
    if nodes or backward is None:
        return {}
    arriving: list[Tensor | None] = [*nothing_arriving(node)]
    arriving += [None] * (1 + max(r.output_nr for r in outputs.values()) - len(arriving))
    for name, r in outputs.items():
        arriving[r.output_nr] = upstream[name]
    try:
        with torch.no_grad():
            raw = backward(*arriving)
    except Exception:  # the user's code may raise anything, as where it asks for None instead of zeros
        return {}
    raw = raw if isinstance(raw, tuple) else (raw,)
    returned = [g for g, needed in zip(raw, node.needs_input_grad, strict=False) if needed]
    into = [edge for edge, _ in node.next_functions if edge is not None]
    names = {id(v): k for k, v in leaves.items()}
    by_leaf = {id(getattr(edge, "variable", None)): g for edge, g in zip(into, returned, strict=False)}
    return {f"d{names[i]}": g.detach() for i, g in by_leaf.items() if i in names and isinstance(g, Tensor)}
