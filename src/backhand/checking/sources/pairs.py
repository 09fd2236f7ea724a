"""`check_pair`: a pair over NumPy, `out, cache = f(x, w)` and `dx, dw = f_backward(dout, cache)`."""

import copy
import inspect
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backhand.checking.report import Report
from backhand.checking.running.arrays import as_arrays, as_tensors
from backhand.checking.running.containers import each, flatten
from backhand.checking.running.program import parameters_of, plain_function
from backhand.checking.running.sandbox import running
from backhand.checking.sources.inner import Part, reported
from backhand.checking.sources.numpy_truths import Call, Called, plainly, reached, run_plainly, spaces_of
from backhand.checking.sources.overnumpy import OverNumpy, Subject, is_float, judged_over_numpy
from backhand.checking.sources.paired import Functions
from backhand.checking.sources.returned import (
    Returned,
    Returning,
    as_tuple,
    loss_among,
    names_returned,
    tensor_named,
)
from backhand.checking.sources.roles import forward_of, returns_its_gradients
from backhand.errors import CheckError


def check_pair(
    forward: Callable[..., Any],
    backward: Callable[..., Any] | None,
    inputs: Mapping[str, Any] | Sequence[Any] | Callable[[np.random.Generator], Any],
    *,
    draws: int = 3,
    seed: int = 0,
) -> Report:
    """Compare a backward over NumPy with the true gradients, and find the line at fault.

    The backward runs in NumPy, on random upstream gradients. The truth is autograd's, by running the forward
    on torch's NumPy layer, where that gives the forward's own output and agrees with a difference in a random
    direction; otherwise it is found by differences, element by element. The report says which.

    Args:
        forward: returns its outputs and, last, the cache: `out, cache = f(x, w, b)`.
        backward: takes the upstream gradients and the cache, and returns the gradients of the inputs. None
            where the forward itself returns a loss and its gradients, as `softmax_loss(x, y)` does.
        inputs: the forward's arguments by name or in order, or a function of a `numpy.random.Generator` that
            draws them. Where they are torch's tensors, the two are over torch.
        draws: how many independent sets of inputs to try; given inputs are varied for the second and later.
        seed: of the draws and the upstream gradients.

    Returns:
        A frozen `Report` with a row for every input of which a gradient is returned.

    Raises:
        CheckError: the two do not fit together, or the forward raises.

    >>> def affine_forward(x, w, b):
    ...     return x @ w + b, (x, w)
    >>> def affine_backward(dout, cache):
    ...     x, w = cache
    ...     return dout @ w.T, x.T @ dout, dout.mean(axis=0)
    >>> def inputs(rng):
    ...     return rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)
    >>> report = check_pair(affine_forward, affine_backward, inputs)
    >>> [row.gradient for row in report.culprits]
    ['db']
    """
    return judge_pair(Functions.of(forward, backward), inputs, draws=draws, seed=seed, given={})


def judge_pair(
    functions: Functions, inputs: Any, *, draws: int, seed: int, given: Mapping[str, Any]
) -> Report:
    """Do what `check_pair` does; of what a call of the backward was given the first draw has the upstream."""
    named = named_inputs(functions.parameters, functions.title, inputs)
    with judged_over_numpy(named, seed) as first:
        functions = functions.holding(first)
        first, named = functions.unpacked(first), _unpacking(functions, named)
        over_torch = functions.over_torch or _are_tensors(inputs, seed)
        functions = replace(functions, over_torch=over_torch)
        with running(torch.float64, seed, promote=True) if over_torch else nullcontext():
            pair = Pair.of(functions, first, seed)
            arriving = pair.wiring.arriving(given, pair.outputs) if pair.wiring is not None else {}
            found = OverNumpy.of(pair, named, seed, arriving)
        return reported(found, pairs_within(pair), draws=draws, seed=seed)


def pairs_within(whole: Subject) -> list[Part]:
    """Return the pairs, and the losses that return their gradients, that the functions of something call."""
    functions = whole.functions()
    called = reached(functions) - {plain_function(f)[0] for f in functions}
    spaces = spaces_of(functions)
    there = {n: f for space in spaces for n, f in space.items() if isinstance(f, FunctionType)}
    named = {n: f for n, f in there.items() if inspect.unwrap(f) in called}
    pairs = []
    for name, function in named.items():
        if "backward" in name and (forward := forward_of(name, named)) is not None:
            pairs.append(Functions.of(named[forward], function))
        elif "backward" not in name and returns_its_gradients(function):
            pairs.append(Functions.of(function, None))
    return [_part(pair, spaces) for pair in pairs if not pair.context and pair.over_torch == whole.over_torch]


def _part(functions: Functions, spaces: Sequence[MutableMapping[str, Any]]) -> Part:
    """Return a pair as a part of what calls it."""
    forward, backward = functions.forward, functions.backward or functions.forward
    own = enumerate((forward, backward))
    places = [(s, n, i) for i, function in own for s in spaces for n, f in s.items() if f is function]

    def put_both(*both: Callable[..., Any]) -> None:
        for space, name, i in places:
            space[name] = both[i]

    known: dict[tuple[Any, ...], Pair] = {}  # a step is called in each turn of a loop

    def subject(_: Any, inputs: Mapping[str, Any]) -> tuple[Pair, Mapping[str, Any]]:
        inputs = as_arrays(dict(inputs))
        holding = functions.holding(inputs)
        given = holding.unpacked(inputs)
        shapes = tuple((name, np.shape(value)) for name, value in given.items() if is_float(value))
        if shapes not in known:
            known[shapes] = Pair.of(holding, given, 0)
        return known[shapes], given

    def judge(_: Any, inputs: Mapping[str, Any], **options: Any) -> Report:
        return judge_pair(functions, inputs, **options)

    return Part(functions.title, forward, backward, put_both, False, subject, judge)


def _unpacking(functions: Functions, inputs: Any) -> Any:
    if callable(inputs):
        return lambda rng: functions.unpacked(inputs(rng))  # type: ignore[arg-type]
    return functions.unpacked(inputs)


def _are_tensors(inputs: Any, seed: int) -> bool:
    """Tell whether inputs, or what draws them, are torch's tensors."""
    one = inputs(np.random.default_rng(seed)) if callable(inputs) else inputs
    return any(isinstance(v, Tensor) for v in flatten({"inputs": one}).values())


def named_inputs(names: Sequence[str], title: str, inputs: Any) -> Any:
    """Return inputs by the names of a forward's parameters, as arrays in float64, or what draws such."""
    if callable(inputs):
        return lambda rng: named_inputs(names, title, inputs(rng))
    inputs = as_arrays(inputs)
    if isinstance(inputs, np.ndarray) and len(names) == 1:
        inputs = [inputs]
    if not isinstance(inputs, Mapping | Sequence):
        raise CheckError(f"inputs are {type(inputs).__name__}; expected the arguments, by name or in order.")
    found = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=False))
    if strange := [n for n in found if n not in names]:
        raise CheckError(f"{title} has no parameter {', '.join(strange)}: it has {', '.join(names)}.")
    return {k: each(v, _in_float64) for k, v in found.items()}


def _in_float64(value: Any) -> Any:
    return value.astype(np.float64) if is_float(value) else value


# What parameters of a backward receive of what its forward gives after so many outputs; None if nothing fits.
Keeps = Callable[[Sequence[str], int], dict[str, Any] | None]


@dataclass(frozen=True)
class Wiring:
    """What the backward's parameters receive.

    Attributes:
        upstream: those that receive upstream gradients, one for each output.
        cache: the one that receives what the forward returns last; empty where there is none.
        shared: those that are called as an input of the forward, or as its output.
        renamed: those that receive an input of the forward, or its output, which is called otherwise there,
            with that.
        kept: those that receive, one by one, what the forward returns after its outputs, or what its cache
            holds.
    """

    upstream: tuple[str, ...]
    cache: str
    shared: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    @staticmethod
    def of(
        backward: Callable[..., Any],
        inputs: Sequence[str],
        *,
        cached: bool = True,
        keeps: Keeps = lambda *_: None,
    ) -> "Wiring":
        """Tell it from their names; where these do not tell, the cache comes last, if there is one.

        Args:
            backward: the user's.
            inputs: of the forward.
            cached: it is handed what the forward left.
            keeps: tells what parameters receive of what the forward gives after so many outputs.
        """
        parameters = [
            p for p in parameters_of(backward).values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        shared = tuple(p.name for p in parameters if p.name in inputs)
        rest = [p.name for p in parameters if p.name not in inputs and p.default is p.empty]
        if not cached:
            return Wiring(tuple(rest), "", shared)
        arriving = [n for n in rest if re.match(r"d_?[A-Za-z]|grad|upstream|delta", n)]
        caches = [n for n in rest if n not in arriving]
        if len(caches) > 1 and arriving and keeps(caches, len(arriving)) is not None:
            return Wiring(tuple(arriving), "", shared, kept=tuple(caches))
        if len(caches) > 1 or (not caches and not shared):
            arriving, caches = rest[:-1], rest[-1:]
        return Wiring(tuple(arriving), caches[0] if caches else "", shared)

    def taking(
        self, made: Mapping[str, np.ndarray], inputs: Mapping[str, Any], asked: Sequence[str]
    ) -> "Wiring | None":
        """Return the same for a forward that gives fewer outputs than the backward seems to ask for.

        The first parameters receive the upstream gradients; the others the outputs of their names, and the
        arrays among the inputs that the backward does not ask for by name. None where these are more or
        fewer, or may be an output as well, by their shapes. If it asks for as many as there are of both,
        they are the outputs and then the inputs, in their order, whatever their names are.

        Args:
            made: the outputs by their names in the forward's text.
            inputs: of the forward.
            asked: the backward's parameters, in their order.
        """
        rest = self.upstream[len(made) :]
        others = [p for p in rest if p not in made]
        left = [n for n, v in inputs.items() if is_float(v) and n not in self.shared]
        shapes = {out.shape for out in made.values()}
        if made and len(others) == len(left) and not any(inputs[n].shape in shapes for n in left):
            shared = (*self.shared, *(p for p in rest if p in made))
            return Wiring(self.upstream[: len(made)], "", shared, dict(zip(others, left, strict=True)))
        both = [*made, *(n for n, v in inputs.items() if is_float(v))]
        given = asked[len(made) :]
        if made and len(given) == len(both) == len({*both}):
            return Wiring(self.upstream[: len(made)], "", (), dict(zip(given, both, strict=True)))
        return None

    def outputs(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """Return what the outputs are called by their upstream gradients; something else if it is taken."""
        found = []
        for i, name in enumerate(self.upstream):
            tensors = [] if re.match("delta|deriv", name) else tensor_named(name)  # no gradient of `elta`
            told = [n for n in tensors if n.isidentifier() and n not in inputs and n not in found]
            found.append(told[0] if told else f"out{i}" if len(self.upstream) > 1 else "output")
        return tuple(found) or ("loss",)

    def arrives(self, outputs: Sequence[str]) -> dict[str, str]:
        """Return by which parameter the upstream gradient of each output arrives."""
        return dict(zip(outputs, self.upstream, strict=False))

    def arriving(self, given: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        """Return the upstream gradients among what a backward was given, by the names of their outputs."""
        pairs = zip(self.upstream, outputs, strict=False)
        return {f"d{output}": given[p] for p, output in pairs if is_float(given.get(p))}


def _once(calls: Functions, inputs: Mapping[str, Any], seed: int) -> Any:
    """Return what a forward gives; None where it raises, which is told elsewhere."""
    np.random.seed(seed)
    try:
        return calls.call(copy.deepcopy(dict(inputs)), plainly)
    except Exception:  # the user's code may raise anything
        return None


def _kept(forward: Callable[..., Any], found: Any, names: Sequence[str], count: int) -> dict[str, Any] | None:
    """Return what a backward's parameters receive of what the forward gave after so many outputs.

    It is called as they are, or is as much as they are many; a single cache may hold it.
    """
    items = found[count:] if isinstance(found, tuple) else ()
    written = names_returned(forward, len(items) + count)[count:]
    if len(items) == 1 and isinstance(items[0], tuple | list | dict):
        items, written = items[0], ()
    called = items if isinstance(items, dict) else dict(zip(written, items, strict=False))
    if {*names} <= called.keys():
        return {name: called[name] for name in names}
    fits = not isinstance(items, dict) and len(items) == len(names)
    return dict(zip(names, items, strict=True)) if fits else None


@dataclass(frozen=True)
class Pair(Returning):
    """A forward and a backward, as `overnumpy.Subject`.

    Attributes:
        calls: the user's functions.
        wiring: what the backward's parameters receive.
        outputs: the names of the outputs.
        returned: the gradients.
    """

    calls: Functions
    wiring: Wiring | None
    outputs: tuple[str, ...]
    returned: Returned

    @property
    def title(self) -> str:
        """What it is called."""
        return self.calls.title

    @property
    def over_torch(self) -> bool:
        """Whether its arrays are torch's tensors."""
        return self.calls.over_torch

    @staticmethod
    def of(calls: Functions, inputs: Mapping[str, Any], seed: int) -> "Pair":
        """Return the pair, after one call of the two has shown how they fit together.

        Raises:
            CheckError: they do not.
        """
        given_whole = list(calls.packed(inputs))
        once = _once(calls, inputs, seed)
        keeps = partial(_kept, calls.forward, once)
        wiring = Wiring.of(calls.backward, given_whole, keeps=keeps) if calls.backward is not None else None
        outputs = wiring.outputs(list(inputs)) if wiring is not None else ("loss",)
        last = calls.backward or calls.forward
        pair = Pair(calls, wiring, outputs, Returned(last, {}, {}, 0))
        given = pair.tried(inputs, seed)
        values = () if given is ... else given
        if values and all(value is None for value in values):
            raise CheckError(f"{pair.title} returns None: it is not written yet.")
        floats = {n: v for n, v in inputs.items() if is_float(v)}
        taken = {*inputs, *outputs, *(wiring.upstream if wiring is not None else ())}
        returned = Returned.of(last, given, floats, taken, loss=wiring is None)
        if not returned.places:
            raise CheckError(
                f"{pair.title} returns no gradient of {', '.join(floats) or 'a floating-point input'}."
            )
        return replace(pair, returned=returned)

    def tried(self, inputs: Mapping[str, Any], seed: int) -> Any:
        """Call the two once, and return what the backward gives, as a tuple; `...` where it raises."""
        outputs = run_plainly(self, inputs, seed)
        rng = np.random.default_rng(seed)
        upstream = {f"d{n}": rng.normal(size=out.shape) for n, out in zip(self.outputs, outputs, strict=True)}
        called = self.forward(dict(inputs))
        function, arguments = self.backward(called, upstream)
        try:
            return as_tuple(plainly(function, arguments))
        except Exception:  # it will be told with its line; what it would have returned stands in the text
            return ...

    @property
    def arrives(self) -> Mapping[str, str]:
        """By which parameter of the backward the upstream gradient of each output arrives."""
        return self.wiring.arrives(self.outputs) if self.wiring is not None else {}

    def functions(self) -> Sequence[Callable[..., Any]]:
        """Return the user's functions, the backward last."""
        return (self.calls.forward, self.calls.backward or self.calls.forward)

    def forward(self, inputs: Mapping[str, Any], call: Call = plainly) -> Called:
        """Call the forward, and tell its outputs from the cache."""
        kept = inputs
        if self.wiring is None:  # it is called once more for its gradients, and may move its weights itself
            kept = {n: v.copy() if isinstance(v, np.ndarray) else v for n, v in inputs.items()}
        return self._split(self.calls.call(inputs, call), kept)

    def _split(self, found: Any, inputs: Mapping[str, Any]) -> Called:
        if self.wiring is None:
            at = (
                loss_among(found, self.calls.forward) if isinstance(found, tuple) and len(found) > 1 else None
            )
            if at is None:
                raise CheckError(f"{self.title} returns no loss with its gradients.")
            return Called((found[at],), self.calls.packed(inputs))
        several = isinstance(found, tuple)
        count = len(self.outputs)
        left = [n for n, v in inputs.items() if isinstance(v, np.ndarray) and n not in self.wiring.shared]
        if self.wiring.cache and found is not None and not several and left:
            return Called((found,), {"cache": inputs[left[0]], "inputs": self.calls.packed(inputs)})
        if self.wiring.cache and not (several and len(found) > count):
            forward = self.calls.forward.__name__
            if found is None:
                raise CheckError(f"{forward} returns None: it is not written yet.")
            raise CheckError(f"{self.title} asks for {self.wiring.cache}, which {forward} does not return.")
        outputs = found[:count] if several else (found,)
        cache = found[-1] if several else None
        if self.wiring.kept:
            cache = _kept(self.calls.forward, found, self.wiring.kept, count)
        return Called(outputs, {"cache": cache, "inputs": self.calls.packed(inputs)})

    def backward(
        self, called: Called, upstream: Mapping[str, Any]
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the backward with its arguments; without one, the forward with its own."""
        if self.wiring is None or self.calls.backward is None:
            return self.calls.forward, self._given(called.state)
        arguments = {p: upstream[f"d{o}"] for p, o in zip(self.wiring.upstream, self.outputs, strict=False)}
        if self.wiring.cache:
            arguments[self.wiring.cache] = called.state["cache"]
        if self.wiring.kept:
            arguments |= called.state["cache"]
        arguments |= {n: called.state["inputs"][n] for n in self.wiring.shared}
        return self.calls.backward, self._given(arguments)

    def _given(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return as_tensors(dict(arguments)) if self.over_torch else dict(arguments)
