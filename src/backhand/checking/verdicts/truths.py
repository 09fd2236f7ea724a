"""What code that computes in less than float64 is judged by: the truth in float64, and a measured budget."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.complexes import in_dtype, is_differentiable
from backhand.checking.running.containers import each_tensor
from backhand.checking.running.graph import Trace
from backhand.checking.running.precision import (
    COMPUTED_IN_LESS,
    ERROR_BUDGET,
    HANDED_ON,
    LEAST_ROUNDING,
    ON_AVERAGE,
    RELATIVE,
    converted,
    lowest,
    unit,
)
from backhand.checking.running.tracing import trace
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close, largest_difference, largest_of, off, root_mean_square

# Only what is this small beside what arrives may be rounding alone, and is worth a second look.
BELOW = 1e-9
# By what part of themselves the inputs are moved for it, and by what part of itself rounding then changes: an
# honest gradient changes by a part of the same order as its inputs.
MOVED = 1e-7
CHANGED = 0.1
# Moved as little, a gradient changes by a part of that order too, and by this part of itself at a kink alone.
JUMP = 1e-3
# So many times as much as the inputs it may change where it is steep, and small itself.
STEEP = 100.0
# To both sides in so many directions: of three or four that tie, each is the largest on one of the sides.
DIRECTIONS = 6
# Inputs that are moved by this many times the error of a coarse output lie beyond the next number that its
# code can hold, so that it rounds them in another way.
BEYOND = 4.0
# What is cut off instead of rounded (tensor cores read the first bits of a float32) is off more to one side
# than it scatters: 2.3 times in one product of matrices, 3.3 in two in a row. A gradient may be off by as
# many times the forward's error (HANDED_ON), so that no more than that would show.
ONE_SIDED = 4.0


def against_truth(chosen: Pass, drawn: Draw) -> Draw:
    """Return a draw in a low dtype with the truth for its own numbers, if its forward runs in float64."""
    if drawn.dtype == torch.float64 or chosen.contract != "returned":
        return drawn
    truth = _exactly(chosen, drawn.trace, drawn.seed)
    return drawn if truth is None else replace(drawn, trace=truth, ran=drawn.trace)


def _exactly(chosen: Pass, seen: Trace, seed: int) -> Trace | None:
    """Return the forward in float64, on the very numbers of a run in less.

    None where the forward does not run in float64, or is another one there, as one is that draws numbers.
    """
    upstream, inputs = (each_tensor(values, _in_float64) for values in (seen.upstream, seen.inputs))
    try:
        found = trace(chosen, inputs, torch.float64, seed, upstream=upstream)
    except Exception:  # this forward knows its own dtype only
        return None
    alike = all(n in found.outputs and _is_alike(t, found.outputs[n]) for n, t in seen.outputs.items())
    return found if alike else None


def _is_alike(own: Tensor, exact: Tensor) -> bool:
    """Tell whether a forward is the same one in float64; it may compute in less than its own dtype, too."""
    own, exact = own.detach(), exact.detach()
    return close(own, exact) or off(own, exact) <= COMPUTED_IN_LESS * root_mean_square(exact)


def _in_float64(value: Tensor) -> Tensor:
    return converted(value, in_dtype(value, torch.float64)) if is_differentiable(value) else value


def rounding_alone(chosen: Pass, drawn: Draw) -> dict[str, float]:
    """Return the tensors whose true gradient is rounding alone, each with the size of what cancels in it.

    An operation that autograd knows as a whole, such as a layer norm of one feature, does not show what is
    added up within it. But rounding is another one for inputs that differ in the last digits.
    """
    truth = drawn.trace
    if chosen.contract != "returned" or not truth.upstream:
        return {}
    arriving = max((float(g.abs().max()) for g in truth.upstream.values() if g.numel()), default=0.0)
    tiny = [n for n in truth.wanted if 0 < truth.largest.get(n, 0.0) <= BELOW * arriving]
    if not tiny:
        return {}
    generator = torch.Generator().manual_seed(drawn.seed)
    inputs = {n: moved(v, MOVED, generator) if n in truth.wanted else v for n, v in truth.inputs.items()}
    try:
        other = trace(chosen, inputs, None, drawn.seed, upstream=truth.upstream).gradients
    except Exception:  # the user's code may raise anything
        return {}
    changed = {n: largest_difference(other[n], truth.gradients[n]) for n in tiny if n in other}
    return {
        n: truth.largest[n] / unit(torch.float64)
        for n, by in changed.items()
        if by > CHANGED * truth.largest[n]
    }


def between_sides(chosen: Pass, drawn: Draw) -> Trace:
    """Return the truth of a draw; at a kink (relu at 0, a tie) the user's gradient, as far as its slopes go.

    There the gradient jumps between points on both sides, and autograd's choice is one of several. The truth
    itself where nothing jumps, and where the output does too: a mask has no slopes.
    """
    truth, user = drawn.trace, drawn.user
    generator = torch.Generator().manual_seed(drawn.seed)
    names = [n for n, g in user.items() if n in truth.gradients and g.shape == truth.gradients[n].shape]
    low = {n: truth.gradients[n] for n in names}
    high, jumps = dict(low), dict[str, Tensor]()
    for _ in range(DIRECTIONS):
        try:
            for there in _both_sides(truth, generator):
                near = trace(chosen, there, None, drawn.seed, upstream=truth.upstream)
                if not all(_is_near(near.outputs[n], out) for n, out in truth.outputs.items()):
                    return truth
                low = {n: low[n].minimum(near.gradients[n]) for n in names}
                high = {n: high[n].maximum(near.gradients[n]) for n in names}
        except Exception:  # the user's code may raise anything
            return truth
        jumps = {n: _jumps(low[n], high[n]) for n in names}
        if not any(bool(there.any()) for there in jumps.values()):
            return truth
    within = {n: user[n].to(low[n]).clamp(low[n], high[n]) for n in names}
    between = {n: torch.where(jumps[n], within[n], truth.gradients[n]) for n in names}
    return replace(truth, gradients={**truth.gradients, **between})


def _jumps(low: Tensor, high: Tensor) -> Tensor:
    """Tell where a gradient differs by a part of itself, beside zeros that merely are none any more."""
    size = high.abs().maximum(low.abs())
    return high - low > JUMP * size + STEEP * MOVED * root_mean_square(size)


def _is_near(a: Tensor, b: Tensor) -> bool:
    return largest_difference(a.detach(), b.detach()) <= JUMP * largest_of(b)


def _both_sides(truth: Trace, generator: torch.Generator) -> Iterator[dict[str, Any]]:
    """Yield the inputs a little to one side and to the other, in a direction at random."""
    steps = {}
    for name, value in truth.inputs.items():
        if name in truth.wanted:
            size = MOVED * (root_mean_square(value.detach()) or 1.0)
            steps[name] = size * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
    for sign in (1, -1):
        yield {
            n: converted(v + sign * steps[n], v.dtype) if n in steps else v for n, v in truth.inputs.items()
        }


def moved(value: Tensor, by: float, generator: torch.Generator) -> Tensor:
    """Return a leaf like a tensor, each element of which is larger by up to a part of itself; no integers."""
    if not is_differentiable(value):
        return value
    larger = 1 + by * torch.rand(value.shape, generator=generator)
    return converted(value * larger.to(value.device, value.dtype), value.dtype)


def is_another_rounding(error: Tensor, other: Tensor) -> bool:
    """Tell whether the errors of an output at two points nearby are roundings of it.

    What is rounded is off by something else there; a wrong formula by the same.
    """
    size = float((error.square() + other.square()).sum()) / 2
    steady = float((error * other).sum())
    return steady <= ONE_SIDED**2 * (size - steady)


def is_rounding(drawn: Draw, name: str, summands: Mapping[str, float]) -> bool:
    """Tell whether a gradient that is wrong in float64 is off by what one operation in float32 loses."""
    right, value = drawn.trace.gradients.get(name), drawn.user.get(name)
    if right is None or value is None or right.shape != value.shape:
        return False
    return off(value, right) <= float32_rounding(right, summands.get(name, 0.0))


def float32_rounding(right: Tensor, summands: float) -> float:
    """Return what one operation in float32 loses of a gradient, in the root mean square."""
    return unit(torch.float32) * max(root_mean_square(right), summands)


def overflow(value: Tensor, truth: Tensor | None) -> tuple[int, ...] | None:
    """Return where a gradient is not finite though the truth is, in its dtype too; None if nowhere."""
    if truth is None or value.shape != truth.shape or bool(value.isfinite().all()):
        return None
    bad = (~value.isfinite() & truth.to(value.dtype).isfinite()).nonzero()
    return tuple(bad[0].tolist()) if len(bad) else None


def forward_error(drawn: Draw) -> float:
    """Return by which part of itself the code's own output is off, in the root mean square; the largest."""
    return max((_relative(drawn.given.get(n), t) for n, t in drawn.trace.outputs.items()), default=0.0)


def computed_in_less(drawn: Draw) -> float:
    """Return the forward's error where it is that of code that computes in less than its dtype; else 0."""
    error = forward_error(drawn)
    return error if error > ON_AVERAGE * RELATIVE[lowest(drawn.seen.inputs)] else 0.0


def _relative(own: object, right: Tensor) -> float:
    right = right.detach()
    if not isinstance(own, Tensor) or own.shape != right.shape:
        return 0.0
    size, error = root_mean_square(right), off(own.detach(), right)
    return error / size if 0 < size < math.inf and error < math.inf else 0.0


def noise(drawn: Draw, name: str, summands: float) -> float:
    """Return what all elements of a right gradient together may be off; infinity where that is not known.

    It is the budget of flash-attention's tests, in the root mean square: a small multiple of the error that
    the reference itself makes in that dtype, of some rounding at least, and of what the forward is off.

    Args:
        drawn: the run, with the truth for it.
        name: the tensor.
        summands: the size of what is added up to its gradient.
    """
    right = drawn.trace.gradients.get(name)
    if drawn.ran is None or right is None or name not in drawn.ran.gradients:
        return math.inf
    own = drawn.ran.gradients[name]
    size = root_mean_square(right)
    rounding = LEAST_ROUNDING[own.dtype.to_real()] * unit(own.dtype) * max(size, summands)
    reference = off(own, right)
    found = max(ERROR_BUDGET * max(reference, rounding), HANDED_ON * forward_error(drawn) * size)
    return found if found < math.inf else math.inf  # NaN, where the reference itself has some
