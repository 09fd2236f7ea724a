"""What a layer's two methods are given where names and defaults alone do not tell."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from backhand.checking.running.program import parameters_of
from backhand.checking.sources.held import arrays_of, copied, plain_name
from backhand.checking.sources.overnumpy import is_float
from backhand.checking.sources.returned import names_returned, tensor_named

# By what inputs are moved for a derivative of each element, and how well that agrees.
STEP, AGREES = 1e-5, 1e-4


def is_what_arrives(layer: Any, calls: tuple[str, str], inputs: Mapping[str, Any]) -> bool:
    """Tell whether `backward(x)` takes the upstream gradient, though the forward has an `x` as well.

    Then what it gives grows as that does, and is not the derivative of each element at x: that of a square
    grows so too.

    Args:
        layer: the object.
        calls: the names of its forward and its backward.
        inputs: of the forward.
    """
    asked = list(parameters_of(getattr(layer, calls[1])))
    if len(asked) != 1 or not is_float(inputs.get(asked[0])):
        return False
    try:
        output = np.asarray(_run(layer, calls, inputs)[0], np.float64)
        if output.size > 1 and output.shape != inputs[asked[0]].shape:  # no derivative of each element
            return True
        arriving = np.random.default_rng(0).normal(size=output.shape)
        once, twice = (np.asarray(_run(layer, calls, inputs, a)[1]) for a in (arriving, 2 * arriving))
    except Exception:  # the user's code may raise anything, as for an argument of another shape
        return False
    in_proportion = np.any(once) and np.allclose(2 * once, twice, rtol=1e-6)
    return bool(in_proportion) and not _is_derivative(layer, calls, inputs, asked[0])


def _is_derivative(layer: Any, calls: tuple[str, str], inputs: Mapping[str, Any], name: str) -> bool:
    x = inputs[name]
    try:
        ends = [_run(layer, calls, {**inputs, name: x + by})[0] for by in (STEP, -STEP)]
        slope, given = (ends[0] - ends[1]) / (2 * STEP), _run(layer, calls, inputs, x)[1]
        return np.shape(given) == np.shape(x) and np.allclose(slope, given, rtol=AGREES, atol=AGREES)
    except Exception:  # it does not take the input
        return False


def with_optional(
    asked: Sequence[inspect.Parameter], layer: Any, backward: Callable[..., Any]
) -> list[inspect.Parameter]:
    """Return a forward's parameters, those to be given as well that have a gradient though they may be None.

    An attention whose `key=None` is its `query` then returns the gradients of both: its backward gives more
    than there are other inputs and parameters of the layer.
    """
    returned = names_returned(backward)
    own = {plain_name(where, ()).lower() for where, _ in arrays_of(layer)}
    of_inputs = [n for n in returned if n is None or own.isdisjoint(t.lower() for t in tensor_named(n))]
    needed = [p for p in asked if p.default is p.empty]
    optional = [p for p in asked if p.default is None and "mask" not in p.name.lower()]
    given = optional[: max(len(of_inputs) - len(needed), 0)] if len(returned) > 1 else []
    return [p.replace(default=p.empty) if p in given else p for p in asked]


def _run(layer: Any, calls: tuple[str, str], inputs: Mapping[str, Any], *arriving: Any) -> tuple[Any, Any]:
    """Return what a forward gives and, for an argument, its backward; both of a copy, on the same draws."""
    layer = copied(layer)
    np.random.seed(0)
    output = getattr(layer, calls[0])(**copy.deepcopy(dict(inputs)))
    return output, getattr(layer, calls[1])(*copy.deepcopy(arriving)) if arriving else None
