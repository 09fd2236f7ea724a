"""The table's figures: each hand-written gradient beside autograd's, in the user's dtype."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.complexes import is_differentiable
from backhand.checking.running.precision import APPROXIMATE
from backhand.checking.running.trials import Draw
from backhand.checking.verdicts.comparing import PIECE, differences, largest_difference, within
from backhand.checking.verdicts.rounding import Truth

INFINITY = float("inf")


@dataclass(frozen=True)
class Figures:
    """What the lecture's `cmp` shows of one gradient, and the error as a multiple of autograd's own.

    Attributes:
        finite: whether all of its elements are; None where that was not looked at.
    """

    exact: bool = False
    approximate: bool = False
    maxdiff: float = INFINITY
    multiple: float | None = None
    finite: bool | None = None


def figures(truth: Truth | None, shown: Draw) -> dict[str, Figures]:
    """Return the figures of every gradient that has one to be compared with.

    Args:
        truth: the measure of autograd's own error, in float64, if that measures this run.
        shown: the run in the user's dtype.
    """
    right = shown.trace.gradients
    compared = {n: g for n, g in shown.user.items() if n in right}
    alike = {n: g for n, g in compared.items() if g.shape == right[n].shape}
    found = _one_by_one if shown.trace.layout.size > PIECE else _together
    return dict.fromkeys(compared, Figures()) | found(alike, truth, shown)


def _together(user: Mapping[str, Tensor], truth: Truth | None, shown: Draw) -> dict[str, Figures]:
    """Measure all gradients in one vector, for the calls are what takes time where they are small."""
    trace, layout = shown.trace, shown.trace.layout
    joined = trace.joined_with(user)
    difference = differences(joined, trace.joined)
    tolerances = [_tolerance(user.get(n, g)) for n, g in trace.gradients.items()]
    allowed = abs(trace.joined) * layout.spread(rtol for rtol, _ in tolerances)
    allowed += layout.spread(atol for _, atol in tolerances)
    maxdiff, exceeds = layout.largest(difference), layout.largest(difference > allowed)
    infinite = layout.largest(~np.isfinite(joined))
    own = layout.largest(differences(trace.joined, truth.trace.joined)) if truth is not None else {}
    off = layout.largest(differences(joined, truth.trace.joined)) if truth is not None else {}
    return {
        n: _figures(maxdiff[n], not exceeds[n], off.get(n, 0.0), own.get(n, 0.0), not infinite[n])
        for n in user
    }


def _one_by_one(user: Mapping[str, Tensor], truth: Truth | None, shown: Draw) -> dict[str, Figures]:
    found = {}
    for name, value in user.items():
        right, own, off = shown.trace.gradients[name], 0.0, 0.0
        if truth is not None:
            exact = truth.trace.gradients[name]
            own, off = largest_difference(right, exact), largest_difference(value, exact)
        maxdiff = largest_difference(value, right)
        is_close = maxdiff < INFINITY and within(value, right, *_tolerance(value))
        found[name] = _figures(maxdiff, is_close, off, own, bool(value.isfinite().all()))
    return found


def _figures(maxdiff: float, is_close: bool, off: float, own: float, finite: bool) -> Figures:
    bounded = maxdiff < INFINITY
    multiple = off / own if bounded and 0 < own < INFINITY else None
    return Figures(maxdiff == 0, is_close and bounded, maxdiff, multiple, finite)


def _tolerance(gradient: Tensor) -> tuple[float, float]:
    dtype = gradient.dtype.to_real() if is_differentiable(gradient) else torch.float64
    return APPROXIMATE.get(dtype, APPROXIMATE[torch.float64])
