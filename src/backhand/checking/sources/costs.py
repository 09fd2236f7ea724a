"""Costs at which a backward may begin where none is written beside it: `delta = output - y` tells which.

Each is one of an output and its labels: of squares, or of an entropy, summed up or as a mean over the rows,
the columns or all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from backhand.checking.running.tracked import Tracked

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
