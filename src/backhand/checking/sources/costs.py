"""Where the backward of a class begins: at what arrives, or at a cost, the model's own or one that is usual.

`delta = output - y` tells of a cost that is written nowhere. Those that are tried then are each one of an
output and its labels: of squares, or of an entropy, summed up or as a mean over the rows, the columns or all.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from types import FunctionType
from typing import Any

import numpy as np

from backhand.checking.running.program import parameters_of, plain_function
from backhand.checking.running.tracked import Tracked
from backhand.checking.sources.courses import word
from backhand.checking.sources.roles import asks_for_labels, calls_of, costs_among, methods_of

_EACH: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
    ("0.5 * (output - y)**2", lambda a, y: 0.5 * (a - y) ** 2),
    ("(output - y)**2", lambda a, y: (a - y) ** 2),
    ("-y * log(output) - (1 - y) * log(1 - output)", lambda a, y: -y * _log(a) - (1 - y) * _log(1 - a)),
    ("-y * log(output)", lambda a, y: -y * _log(a)),
)
_OVER: tuple[tuple[str, Callable[[Any], float]], ...] = (
    ("summed", lambda a: 1.0),
    ("summed, divided by its rows", lambda a: a.shape[0]),
    ("summed, divided by its columns", lambda a: a.shape[-1]),
    ("its mean", lambda a: a.size),
)


@dataclass(frozen=True)
class Cost:
    """A cost that stands nowhere in the user's code.

    Attributes:
        told: what it is, in words.
    """

    told: str
    each: Callable[[Any, Any], Any]
    over: Callable[[Any], float]

    @property
    def function(self) -> Callable[..., Any]:
        """The cost of an output and its labels, which may be on torch's layer."""

        def cost(output: Any, y: Any) -> Any:
            return self.each(output, y).sum() / self.over(output)

        return cost


def _log(a: Any) -> Any:
    return Tracked(a.tensor.log()) if isinstance(a, Tracked) else np.log(a)


COSTS = tuple(Cost(f"{each[0]}, {over[0]}", each[1], over[1]) for each, over in product(_EACH, _OVER))


def ends_of(layer: type) -> tuple[str, str]:
    """Return the names of a class's forward and backward; of a model's loss and what gives its gradients."""
    return calls_of(layer) or methods_of(layer) or ("forward", "backward")


def asked_by(layer: Any) -> Mapping[str, inspect.Parameter]:
    """Return what a call of a layer takes: the parameters of its forward, and the labels of its cost."""
    calls = ends_of(type(layer))
    forward, backward = (parameters_of(getattr(layer, name)) for name in calls)
    begins = cost_of(layer, calls) is not None or lacks_cost(layer, calls)
    labels = {n: p for n, p in backward.items() if word(n) == "y"} if begins else {}
    return {**forward, **labels}


def cost_of(layer: Any, calls: tuple[str, str]) -> Callable[..., Any] | str | None:
    """Return what gives the cost in which a layer's backward begins: a method's name, or a function.

    It is a whole model's, whose backward asks for the labels, and whose forward does not.
    """
    forward, backward = (getattr(layer, name) for name in calls)
    if calls_of(type(layer)) or asks_for_labels(forward) or not asks_for_labels(backward):
        return None
    methods = {n: f for n in dir(type(layer)) if isinstance(f := getattr(type(layer), n), FunctionType)}
    beside = plain_function(backward)[0].__globals__
    functions = {n: f for n, f in beside.items() if isinstance(f, FunctionType)}
    of_its_own, others = costs_among(methods), costs_among(functions)
    return of_its_own[0] if of_its_own else functions[others[0]] if others else None


def lacks_cost(layer: Any, calls: tuple[str, str]) -> bool:
    """Tell whether a layer's backward begins at a cost that is written nowhere: it asks for labels alone."""
    forward, backward = (getattr(layer, name) for name in calls)
    if calls_of(type(layer)) or asks_for_labels(forward) or cost_of(layer, calls) is not None:
        return False
    needed = [n for n, p in parameters_of(backward).items() if p.default is p.empty]
    if not needed and not parameters_of(forward):
        return bool(labels_on(layer))
    labels = [n for n in needed if word(n) == "y"]
    arriving = [n for n in needed if re.match(r"d_?[A-Za-z]|grad|upstream|delta|err", n)]
    # an activation's `backward(y)` may be given its output
    return bool(labels) and not arriving and (len(needed) > 1 or labels[0] != "y")


def labels_on(layer: Any) -> dict[str, Any]:
    """Return the labels that an object holds, by their names."""
    return {n: v for n, v in vars(layer).items() if word(n) == "y" and isinstance(v, np.ndarray)}
