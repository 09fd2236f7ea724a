"""What code that computes in less than float64 is judged by: the truth in float64, and a measured budget."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from backhand.checking.running.containers import each_tensor
from backhand.checking.running.graph import Trace
from backhand.checking.running.precision import ERROR_BUDGET, HANDED_ON, LEAST_ROUNDING, converted, unit
from backhand.checking.running.tracing import trace
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close, largest_difference, off, root_mean_square

# Only what is this small beside what arrives may be rounding alone, and is worth a second look.
BELOW = 1e-9
# By what part of themselves the inputs are moved for it, and by what part of itself rounding then changes: an
# honest gradient changes by a part of the same order as its inputs.
MOVED = 1e-7
CHANGED = 0.1


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
    alike = all(n in found.outputs and close(t, found.outputs[n]) for n, t in seen.outputs.items())
    return found if alike else None


def _in_float64(value: Tensor) -> Tensor:
    return converted(value, torch.float64) if value.is_floating_point() else value


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
    inputs = {
        n: converted(v * (1 + MOVED * torch.rand(v.shape, generator=generator).to(v)), v.dtype)
        if n in truth.wanted
        else v
        for n, v in truth.inputs.items()
    }
    try:
        other = trace(chosen, inputs, None, drawn.seed, upstream=truth.upstream).gradients
    except Exception:  # the user's code may raise anything
        return {}
    moved = {n: largest_difference(other[n], truth.gradients[n]) for n in tiny if n in other}
    return {
        n: truth.largest[n] / unit(torch.float64)
        for n, by in moved.items()
        if by > CHANGED * truth.largest[n]
    }


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
    rounding = LEAST_ROUNDING[own.dtype] * unit(own.dtype) * max(size, summands)
    reference = off(own, right)
    found = max(ERROR_BUDGET * max(reference, rounding), HANDED_ON * forward_error(drawn) * size)
    return found if found < math.inf else math.inf  # NaN, where the reference itself has some
