"""`check_class`: a layer over NumPy with `forward`, `backward` and its parameters on itself."""

import ast
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report
from backhand.checking.running.program import Source, parameters_of
from backhand.checking.running.sandbox import sandbox
from backhand.checking.running.tracked import Tracked, wrapped
from backhand.checking.sources.numpy_truths import Call, Called, plainly, run_plainly
from backhand.checking.sources.overnumpy import OverNumpy, drawn, is_float, moved
from backhand.checking.sources.pairs import Wiring, named_inputs
from backhand.checking.sources.returned import Returned, as_tuple, loss_among, tensor_named
from backhand.checking.sources.roles import calls_of, judging
from backhand.errors import CheckError

# Layers hold layers, in lists; deeper than this lies no parameter.
DEPTH = 4
# What has a `__dict__` of something else than the state of a layer.
NO_HOLDERS = (type, FunctionType, MethodType, ModuleType, partial)


def check_class(
    layer: Any,
    inputs: Mapping[str, Any] | Sequence[Any] | Callable[[np.random.Generator], Any],
    *,
    draws: int = 3,
    seed: int = 0,
) -> Report:
    """Compare the backward of a layer with the true gradients, of its input and of its parameters.

    Its parameters are the floating-point arrays on it that have a gradient there after the backward, as `W`
    and `dW` are, `params[0]` and `grads[0]`, `gamma` and `grad_gamma`. They are drawn anew each time.

    Args:
        layer: an object with `forward(x)` and `backward(dout)`; it is copied for each call.
        inputs: of `forward` by name or in order, or a function of a `numpy.random.Generator` that draws them.
        draws: how many independent sets of inputs and parameters to try.
        seed: of the draws and the upstream gradients.

    Returns:
        A frozen `Report` with a row for every input and parameter that has a gradient.

    Raises:
        CheckError: the layer cannot be run, or has no gradient.

    >>> class Scale:
    ...     def __init__(self, size):
    ...         self.gain = np.ones(size)
    ...     def forward(self, x):
    ...         self.x = x
    ...         return x * self.gain
    ...     def backward(self, dout):
    ...         self.dgain = dout.sum(axis=0)
    ...         return dout * self.gain
    >>> report = check_class(Scale(3), lambda rng: [rng.normal(size=(4, 3))])
    >>> [(row.gradient, row.verdict) for row in report.rows]
    [('dx', 'right'), ('dgain', 'wrong')]
    """
    return judge_class(layer, inputs, draws=draws, seed=seed, given={})


def judge_class(layer: Any, inputs: Any, *, draws: int, seed: int, given: Mapping[str, Any]) -> Report:
    """Do what `check_class` does; of what a call of the backward had the first draw has the upstream."""
    forward = getattr(layer, (calls_of(type(layer)) or ("forward",))[0])
    named = named_inputs(list(parameters_of(forward)), type(layer).__name__, inputs)
    with sandbox(), judging():
        found = Class.of(layer, drawn(named, seed), seed)

        def draw(rng: np.random.Generator) -> dict[str, Any]:
            inputs = drawn(named, int(rng.integers(2**31)))
            return inputs | {n: found.drawn_parameter(n, rng) for n in found.parameters}

        arriving = found.wiring.arriving(given, found.outputs)
        return OverNumpy.of(found, draw, seed, arriving).report(draws=draws, seed=seed)


@dataclass(frozen=True)
class Class:
    """A layer, as `overnumpy.Subject`.

    Attributes:
        layer: the object, which is copied for each call.
        calls: the names of its forward and its backward; of a model those of its loss and of what gives the
            gradients, perhaps the same.
        wiring: what the backward's parameters receive.
        outputs: the names of the outputs.
        parameters: where on the layer each parameter lies, by its name.
        shapes: of the parameters.
        returned: the gradients that are returned.
        stored: where on the layer each other gradient lies afterwards, by its name; in parts where several
            layers share a parameter.
        named: which input or parameter each gradient belongs to.
        unjudged: arrays on the layer that change its output, and of which no gradient is found.
    """

    layer: Any
    calls: tuple[str, str]
    wiring: Wiring
    outputs: tuple[str, ...]
    parameters: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    returned: Returned
    stored: Mapping[str, tuple[str, ...]]
    named: Mapping[str, str]
    unjudged: tuple[str, ...] = ()

    @property
    def over_torch(self) -> bool:
        """It is over NumPy."""
        return False

    @property
    def title(self) -> str:
        """The class's name."""
        return type(self.layer).__name__

    @staticmethod
    def of(layer: Any, inputs: Mapping[str, Any], seed: int) -> "Class":
        """Return the layer, after one call has shown where its gradients are.

        Raises:
            CheckError: there are none.
        """
        calls = calls_of(type(layer)) or ("forward", "backward")
        backward = getattr(layer, calls[1])
        wiring = Wiring.of(backward, list(inputs), cached=False)
        outputs = wiring.outputs(list(inputs))
        plain = Class(layer, calls, wiring, outputs, {}, {}, Returned(backward, {}, {}, 0), {}, {})
        outs = run_plainly(plain, inputs, seed)
        if len(outs) < len(outputs):
            raise CheckError(
                f"{plain.title}.{calls[1]} asks for {listed(list(wiring.upstream))}, but {calls[0]} gives "
                f"{len(outs)} of which an upstream gradient may arrive: what the rest is, is not known."
            )
        kept = plain.kept_by_a_call(inputs, seed)
        after, given = plain.tried(inputs, outs, seed)
        # a sum over all axes leaves a number, which may be a gradient, but no parameter
        found = {where: a for where, a in arrays_of(layer) if a.ndim and is_float(a)}
        before = {where: a for where, a in found.items() if where not in kept}
        taken = {*inputs, *outputs, *wiring.upstream}
        floats = {n: v for n, v in inputs.items() if is_float(v)}
        held = {plain_name(where, inputs): where for where in _once(before)}
        returned = Returned.of(backward, given, floats, taken, parameters=held, loss=calls[0] == calls[1])
        parameters = {n: held[n] for n in returned.named.values() if n not in floats}
        stored, named, left = {}, {}, dict(arrays_of(after))
        for gradient, where in pairs_of(list(before), list(left)):
            same = [n for n, w in parameters.items() if before[where] is before[w]]
            if not same:
                name, told = plain_name(where, inputs), plain_name(gradient, [*returned.named, *taken])
                parameters[name], stored[told], named[told] = where, (gradient,), name
            elif told := next((g for g, n in named.items() if n == same[0]), ""):  # else it is returned
                stored[told] += (gradient,) * _is_another_part(stored[told], gradient, left)
        if not returned.places and not stored:
            raise CheckError(f"{plain.title} returns no gradient, and leaves none on itself.")
        others = {w: a for w, a in before.items() if not any(a is before[p] for p in parameters.values())}
        return replace(
            plain,
            parameters=parameters,
            unjudged=tuple(
                plain_name(w, []) for w in _once(others) if plain.depends_on(w, inputs, outs, seed)
            ),
            shapes={n: before[where].shape for n, where in parameters.items()},
            returned=returned,
            stored=stored,
            named={**returned.named, **named},
        )

    def kept_by_a_call(self, inputs: Mapping[str, Any], seed: int) -> set[str]:
        """Return where something lies that the last call has left, such as its input: it is no parameter."""
        rng = np.random.default_rng(seed)
        others = {n: moved(v, rng) if is_float(v) else v for n, v in inputs.items()}
        try:
            after = dict(arrays_of(self.forward(copy.deepcopy(others)).state[0]))
        except Exception:  # it asks for the very numbers that it was given
            return set()
        return {w for w, a in arrays_of(self.layer) if w not in after or not np.array_equal(a, after[w])}

    def depends_on(
        self, where: str, inputs: Mapping[str, Any], outputs: Sequence[np.ndarray], seed: int
    ) -> bool:
        """Tell whether an array on the layer, moved a little, changes the outputs."""
        layer = copy.deepcopy(self.layer)
        put(layer, where, moved(dict(arrays_of(layer))[where], np.random.default_rng(seed)))
        try:
            after = run_plainly(replace(self, layer=layer), inputs, seed)
        except CheckError:  # it may be numbers of another kind, such as sorted ones
            return False
        return not all(map(np.array_equal, after, outputs))

    def tried(self, inputs: Mapping[str, Any], outputs: Sequence[np.ndarray], seed: int) -> tuple[Any, Any]:
        """Call the two once; return the layer afterwards, and the tuple it gave, `...` if it raised."""
        rng = np.random.default_rng(seed)
        called = self.forward(copy.deepcopy(dict(inputs)))
        upstream = {f"d{n}": rng.normal(size=out.shape) for n, out in zip(self.outputs, outputs, strict=True)}
        backward, arguments = self.backward(called, upstream)
        try:
            return called.state[0], as_tuple(plainly(backward, arguments))
        except Exception:  # it will be told with its line
            return called.state[0], ...

    def drawn_parameter(self, name: str, rng: np.random.Generator) -> np.ndarray:
        """Return a parameter; a model's of a size that keeps what it computes near one."""
        shape = self.shapes[name]
        fan_in = np.prod(shape) / max(shape, default=1) if self.outputs == ("loss",) else 1
        return np.asarray(rng.normal(size=shape)) / np.sqrt(max(fan_in, 1))

    @property
    def arrives(self) -> Mapping[str, str]:
        """By which parameter of the backward the upstream gradient of each output arrives."""
        return self.wiring.arrives(self.outputs)

    def functions(self) -> Sequence[Callable[..., Any]]:
        """Return the two methods, the backward last."""
        return getattr(self.layer, self.calls[0]), getattr(self.layer, self.calls[1])

    def forward(self, inputs: Mapping[str, Any], call: Call = plainly) -> Called:
        """Run the forward of a copy that has these parameters."""
        layer = copy.deepcopy(self.layer)
        for name, where in self.parameters.items():
            put(layer, where, inputs[name])
        if any(isinstance(v, Tracked) for v in inputs.values()):
            others = {w: a for w, a in arrays_of(layer) if a.ndim and is_float(a)}
            for where in _once(others):  # what is held twice stays one
                put(layer, where, wrapped(others[where]))
        given = {n: v for n, v in inputs.items() if n not in self.parameters}
        # a model's gradients come from a call of their own, which begins where this one did
        after = layer if self.calls == ("forward", "backward") else copy.deepcopy(layer)
        found = _outputs(call(getattr(layer, self.calls[0]), given))
        first = loss_among(found) or 0 if self.outputs == ("loss",) else 0
        return Called(found[first : first + len(self.outputs)], (after, given))

    def backward(
        self, called: Called, upstream: Mapping[str, Any]
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the backward of that copy, with its arguments."""
        pairs = zip(self.wiring.upstream, self.outputs, strict=False)
        layer, inputs = called.state
        arguments = {p: upstream[f"d{o}"] for p, o in pairs}
        return getattr(layer, self.calls[1]), arguments | {n: inputs[n] for n in self.wiring.shared}

    def gradients(self, returned: Any, called: Called) -> Mapping[str, Any]:
        """Return what was returned, and what was left on the layer, by name."""
        left = dict(arrays_of(called.state[0]))
        sums = {
            name: sum(left[where] for where in places) if all(where in left for where in places) else None
            for name, places in self.stored.items()
        }
        return self.returned.gradients(returned) | sums

    @property
    def source(self) -> Source | None:
        """The backward's statements, at whose end the gradients are returned by name."""
        return self._source

    @cached_property
    def _source(self) -> Source | None:
        source = self.returned.source()
        if source is None or source.definition is None or not self.stored:
            return source
        owner = source.definition.args.args[0].arg
        places = {name: [f"{owner}.{where}" for where in wheres] for name, wheres in self.stored.items()}
        return self.returned.source({name: " + ".join(wheres) for name, wheres in places.items()})


def _once(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return one path for each array, the shortest."""
    first: dict[int, str] = {}
    for where in sorted(arrays, key=lambda path: len(re.findall(r"\w+", path))):
        first.setdefault(id(arrays[where]), where)
    return [where for where in arrays if where in first.values()]


def _is_another_part(places: Sequence[str], gradient: str, left: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a gradient is what another layer adds to that of a parameter which both have."""
    if any(left[gradient] is left[place] for place in places):
        return False
    first, other = (
        {re.sub(r"\d+", "0", where) for where, array in left.items() if array is left[one]}
        for one in (places[0], gradient)
    )
    return bool(first & other)  # as `layers[0].grads[0]` and `layers[1].grads[0]` are


def _outputs(returned: Any) -> tuple[Any, ...]:
    return returned if isinstance(returned, tuple) else (returned,)


def arrays_of(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of numbers on an object, in lists and on objects that it holds, by their path."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "fiub":
            yield path, np.asarray(value)
    elif depth <= DEPTH:
        items: list[tuple[str, Any]] = []
        if isinstance(value, dict):
            items = [(f"{path}[{key!r}]", v) for key, v in value.items() if isinstance(key, str | int)]
        elif isinstance(value, list | tuple):
            items = [(f"{path}[{i}]", v) for i, v in enumerate(value)]
        elif hasattr(value, "__dict__") and not isinstance(value, NO_HOLDERS):  # `layer(x)` may be a call
            items = [(f"{path}.{name}" if path else name, v) for name, v in vars(value).items()]
        for inner, item in items:
            yield from arrays_of(item, inner, depth + 1)


def put(layer: Any, path: str, value: Any) -> None:
    """Put an array where another one is, wherever else that is held too."""
    there = {"layer": layer}
    old = eval(f"layer.{path}", there)
    places = [where for where, array in arrays_of(layer) if array is old] or [path]
    for where in places:
        try:
            exec(f"layer.{where} = value", there | {"value": value})
        except TypeError:  # within a tuple: it is held elsewhere as well, or it is no parameter
            continue


def pairs_of(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each gradient's path with its parameter's.

    >>> list(pairs_of(["W", "params[0]"], ["W", "params[0]", "dW", "grads[0]"]))
    [('dW', 'W'), ('grads[0]', 'params[0]')]
    """
    taken: set[str] = set()
    for gradient in after:
        for where in _parameters_of(gradient):
            if where in before and where not in taken and where != gradient:
                taken.add(where)
                yield gradient, where
                break


def _parameters_of(gradient: str) -> Iterator[str]:
    """Yield where the parameter of a gradient may lie."""
    match = re.fullmatch(r"((?:.*\.)?)(\w+)((?:\[[^]]*\])?)", gradient)
    if match is None:
        return
    owner, name, item = match.groups()
    if name.startswith("_"):  # `_gradient_weights`, of `weights` or of `_weights`
        for where in _parameters_of(f"{owner}{name.lstrip('_')}{item}"):
            own = where.removeprefix(owner)
            yield from (where, f"{owner}_{own}")
        return
    if item and re.match(r"d|grad", name):
        yield from (f"{owner}{container}{item}" for container in ("params", "parameters", "weights", "W"))
        key = ast.literal_eval(item[1:-1])
        if isinstance(key, str):
            for tensor in (key, *tensor_named(key)):
                yield from (f"{owner}{tensor}", f"{owner}params[{tensor!r}]")
    if not item and name in ("grad", "gradient", "d"):
        yield from (f"{owner}{value}" for value in ("value", "data", "weight", "w"))
    if not item:
        for tensor in (*tensor_named(name), *tensor_named(name.replace("gradient", "grad"))):
            yield from (f"{owner}{tensor}", f"{owner}{tensor.rstrip('s')}", f"{owner}{tensor}s")


def plain_name(path: str, taken: Sequence[str] | Mapping[str, Any]) -> str:
    """Return a path as a name.

    >>> plain_name("layers[0].W", []), plain_name("params['W1']", [])
    ('layers_0_W', 'W1')
    """
    short = re.fullmatch(r"\w+\['(\w+)'\]", path)
    name = short.group(1) if short else "_".join(re.findall(r"\w+", path))
    return f"own_{name}" if name in taken else name
