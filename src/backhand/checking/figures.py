"""The table's figures: each hand-written gradient beside autograd's, in the user's dtype."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.precision import APPROXIMATE
from backhand.checking.running.trials import Draw
from backhand.checking.verdicts.comparing import differences

INFINITY = float("inf")


@dataclass(frozen=True)
class Figures:
    """What the lecture's `cmp` shows of one gradient, and the error as a multiple of autograd's own."""

    exact: bool = False
    approximate: bool = False
    maxdiff: float = INFINITY
    multiple: float | None = None


def figures(right: Draw, shown: Draw) -> dict[str, Figures]:
    """Return the figures of every gradient that has one to be compared with.

    Args:
        right: the run that was judged; if in float64, the measure of autograd's own error.
        shown: the run in the user's dtype.
    """
    trace, user = shown.trace, shown.user
    compared = [n for n in user if n in trace.gradients]
    alike = {n: user[n] for n in compared if user[n].shape == trace.gradients[n].shape}
    tolerances = [_tolerance(alike.get(n, g)) for n, g in trace.gradients.items()]
    allowed = np.abs(trace.joined) * trace.layout.spread(rtol for rtol, _ in tolerances)
    allowed += trace.layout.spread(atol for _, atol in tolerances)
    joined = trace.joined_with(alike)
    difference = differences(joined, trace.joined)
    maxdiff, exceeds = trace.layout.largest(difference), trace.layout.largest(difference > allowed)
    multiple = _multiples(right, shown, joined)
    return {
        n: Figures(
            maxdiff[n] == 0,
            not exceeds[n] and maxdiff[n] < INFINITY,
            maxdiff[n],
            multiple.get(n) if maxdiff[n] < INFINITY else None,
        )
        if n in alike
        else Figures()
        for n in compared
    }


def _tolerance(gradient: Tensor) -> tuple[float, float]:
    return APPROXIMATE.get(gradient.dtype, APPROXIMATE[torch.float64])


def _multiples(right: Draw, shown: Draw, joined: np.ndarray) -> dict[str, float]:
    """Return the error against float64 as a multiple of the one that autograd makes in the dtype shown."""
    layout, truth = shown.trace.layout, right.trace
    if shown is right or right.dtype != torch.float64 or layout is not truth.layout:
        return {}
    own = layout.largest(differences(shown.trace.joined, truth.joined))
    user = layout.largest(differences(joined, truth.joined))
    return {n: user[n] / own[n] for n in own if 0 < own[n] < INFINITY}
