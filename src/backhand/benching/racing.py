"""Contenders in turn: each checked against exact losses, then timed round by round beside the others."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
from torch import Tensor

from .report import Measured

Some = TypeVar("Some", bound=Measured)


def checked(blank: Some, losses_of: Callable[[str], Tensor], expected: Tensor, close: float) -> Some:
    """Compare a contender's losses with those of a float64 run.

    Args:
        blank: the contender, without times.
        losses_of: trains with the one of a name.
        expected: the exact losses.
        close: how far one may be off.
    """
    try:
        losses = losses_of(blank.name)
    except Exception as error:  # whatever a compiler or a missing package may raise
        return replace(blank, failure=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
    loss_error = (losses - expected).abs().max().item()
    if not loss_error < close:
        failure = f"a loss is off by {loss_error:.2g}, above {close:g}: not the same training"
        return replace(blank, loss_error=loss_error, failure=failure)
    return replace(blank, loss_error=loss_error)


def steps_in(seconds: float, pace: float) -> int:
    """Return how many steps take about as long, at so many seconds a step."""
    return max(2, min(20_000, round(seconds / pace)))


def raced(pace: Callable[[str, int], float], steps: Mapping[str, int], rounds: int) -> dict[str, np.ndarray]:
    """Return the seconds a step of each contender, one for each round; every round has all of them in turn.

    Args:
        pace: takes steps with a contender, and returns the seconds a step.
        steps: how many, by contender.
        rounds: how often.
    """
    times = {name: np.empty(rounds) for name in steps}
    for r in range(rounds):
        for name in steps:
            times[name][r] = pace(name, steps[name])
    return times


def summarised(timing: Some, times: Mapping[str, np.ndarray], baseline: str) -> Some:
    """Return a timing with its median and quartiles, in microseconds; one that was not timed as it is."""
    own = times.get(timing.name)
    if own is None:
        return timing
    low, median, high = (np.quantile(own, [0.25, 0.5, 0.75]) * 1e6).tolist()
    ratio = float(np.median(times[baseline] / own)) if baseline in times else float("nan")
    return replace(timing, microseconds=median, low=low, high=high, ratio=ratio)
