"""`check_class`: a layer over NumPy with `forward`, `backward` and its parameters on itself."""

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backhand.checking.report import Report
from backhand.checking.sources.costs import COSTS, asked_by, ends_of
from backhand.checking.sources.globals import (
    Globals,
    held_globally,
)
from backhand.checking.sources.held import arrays_of, holders_of
from backhand.checking.sources.inner import Part, reported, with_true
from backhand.checking.sources.layered import Class
from backhand.checking.sources.overnumpy import Draw, OverNumpy, drawn, is_float, judged_over_numpy, noting
from backhand.checking.sources.paired import Functions
from backhand.checking.sources.pairs import judge_pair, named_inputs, pairs_within
from backhand.checking.sources.protocol import ForwardError
from backhand.checking.sources.roles import is_layer, is_static
from backhand.errors import CheckError, in_short

# Enough steps of a recurrence for a mistake in each of its turns, in which it shows where it is.
STEPS = 4


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
        layer: an object with `forward(x)` and `backward(dout)`, which is copied for each call; or its class,
            of which one is made by its defaults.
        inputs: of `forward` by name or in order, or a function of a `numpy.random.Generator` that draws them.
        draws: how many independent sets of inputs and parameters to try.
        seed: of the draws and the upstream gradients.

    Returns:
        A frozen `Report` with a row for every input and parameter that has a gradient.

    Raises:
        CheckError: the layer cannot be made or run, or has no gradient.

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
    layer = _by_its_defaults(layer) if isinstance(layer, type) else layer
    return judge_class(layer, inputs, draws=draws, seed=seed, given={})


def _by_its_defaults(layer: type) -> Any:
    try:
        return layer()
    except Exception as error:  # the user's code may raise anything
        name = layer.__name__
        raise CheckError(
            f"{name}() raised {in_short(error)}: give check_class a {name} that is made."
        ) from error


def judge_class(layer: Any, inputs: Any, *, draws: int, seed: int, given: Mapping[str, Any]) -> Report:
    """Do what `check_class` does; of what a call of the backward had the first draw has the upstream."""
    named = named_inputs(list(asked_by(layer)), type(layer).__name__, inputs)
    with judged_over_numpy(named, seed) as first:
        found = _with_what_it_gives(Class.of(layer, first, seed), layer, first, seed)

        def draw(rng: np.random.Generator) -> dict[str, Any]:
            inputs = drawn(named, int(rng.integers(2**31)))
            if isinstance(layer, Globals):  # a state is zero at first, where mistakes hide
                inputs |= {n: rng.normal(size=v.shape) for n, v in inputs.items() if _is_of_zeros(v)}
            return inputs | {n: found.drawn_parameter(n, rng) for n in found.parameters}

        if found.assumed:
            found = _at_its_cost(found, draw, seed)
        arriving = found.wiring.arriving(given, found.outputs)
        whole = OverNumpy.of(found, draw, seed, arriving)
        report = reported(
            whole, parts_within(found, draw(np.random.default_rng(seed))), draws=draws, seed=seed
        )
        if not found.of_rows or report.ok:
            return found.noting(report)
        other = replace(found, of_rows="sum")
        summed = OverNumpy.of(other, draw, seed, arriving).report(draws=draws, seed=seed)
        return other.noting(summed) if summed.ok else found.noting(report)


def _with_what_it_gives(found: Class, layer: Any, inputs: Mapping[str, Any], seed: int) -> Class:
    """Return a layer whose gradients are known though a wrong part lets its backward raise.

    Such as `dW + reg * W`, where a part gives the transpose of `dW`.
    """
    parts = parts_within(found, inputs) if found.ended else []
    if not parts:
        return found
    with with_true(parts):
        other = Class.of(layer, inputs, seed)
    return found if other.ended else other


def parts_within(whole: Class, inputs: Mapping[str, Any]) -> list[Part]:
    """Return the layers that a layer holds, in lists and within these too, and the pairs that it calls.

    Some hold layers only after their forward, which makes one for each step.
    """
    with contextlib.suppress(Exception):  # the user's code may raise anything
        after = whole.forward(copy.deepcopy(dict(inputs))).state[0]
        return _held_by(after, whole)
    return _held_by(whole.layer, whole)


def _held_by(layer: Any, whole: Class) -> list[Part]:
    kinds = dict.fromkeys(type(one) for one in holders_of(layer))
    kinds.pop(type(whole.layer), None)
    layers = [_part(kind) for kind in kinds if is_layer(kind) and not is_static(kind)]
    return layers + pairs_within(whole)


def _part(kind: type) -> Part:
    names = ends_of(kind)
    forward, backward = (getattr(kind, name) for name in names)
    inherits = [name for name in names if name not in vars(kind)]

    def put_both(*methods: Callable[..., Any]) -> None:
        for name, method, own in zip(names, methods, (forward, backward), strict=True):
            if method is own and name in inherits:
                delattr(kind, name)
            else:
                setattr(kind, name, method)

    def subject(layer: Any, inputs: Mapping[str, Any]) -> tuple[Class, Mapping[str, Any]]:
        found, there = Class.of(layer, inputs, 0), dict(arrays_of(layer))
        return found, {**inputs, **{n: there[where] for n, where in found.parameters.items()}}

    return Part(kind.__name__, forward, backward, put_both, True, subject, judge_class)


def _at_its_cost(layer: Class, draw: Draw, seed: int) -> Class:
    """Return a layer with the cost at which its backward begins, of those that are usual.

    It is the one for which most of its gradients are right, of those that a wrong line leaves right.

    Raises:
        CheckError: for none of them is one right.
    """
    best, most = None, 0
    for cost in COSTS:
        one = replace(layer, cost=cost.function, assumed=cost.told)
        with contextlib.suppress(CheckError, ForwardError), np.errstate(all="ignore"):
            right = OverNumpy.of(one, draw, seed).right(seed)
            best, most = (one, right) if right > most else (best, most)
    if best is None:
        raise CheckError(
            f"{layer.title} has no cost beside its {layer.calls[1]}, and is right for none that is usual: "
            "write a method cost(output, y)."
        )
    return best


def judge_functions(
    functions: Functions, inputs: Any, *, draws: int, seed: int, given: Mapping[str, Any]
) -> Report:
    """Judge two functions: as a pair, or as a layer where their parameters are global variables.

    Lists of as many steps as somebody trains with are cut to a few.
    """
    over_torch = functions.over_torch
    layer = None if over_torch else held_globally(functions.forward, functions.backward, functions.title)
    if layer is None or not _has_parameters(layer, inputs, seed):
        return judge_pair(functions, inputs, draws=draws, seed=seed, given=given)
    few = inputs if callable(inputs) else _of_few_steps(inputs)
    if few is inputs or not _has_parameters(layer, few, seed):
        return judge_class(layer, inputs, draws=draws, seed=seed, given=given)
    report = judge_class(layer, few, draws=draws, seed=seed, given=given)
    return noting(report, f"Judged on the first {STEPS} steps of the call.")


def _has_parameters(layer: Any, inputs: Any, seed: int) -> bool:
    named = named_inputs(list(asked_by(layer)), type(layer).__name__, inputs)
    with judged_over_numpy(named, seed) as first:
        try:
            return bool(Class.of(layer, first, seed).parameters)
        except CheckError:
            return False


def _of_few_steps(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return inputs with the longest of their lists cut, if they are lists of numbers and of one length."""
    lists = {n: v for n, v in inputs.items() if isinstance(v, list) and len(v) > STEPS}
    same = {len(v) for v in lists.values()}
    return {n: v[:STEPS] if n in lists else v for n, v in inputs.items()} if len(same) == 1 else inputs


def _is_of_zeros(value: Any) -> bool:
    return is_float(value) and value.ndim > 0 and not np.any(value)
