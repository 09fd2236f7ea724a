"""Which elements of the upstream gradient a gradient reads: the rows of others too, or only its own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from backhand.checking.mistakes.finding import Finding

Probe = Callable[[Mapping[str, Any]], Mapping[str, Tensor]]


def mixing(
    own: Probe, right: Probe, given: Mapping[str, Any], upstream: str, gradient: str
) -> Finding | None:
    """Find an axis along which a gradient is made of other rows' upstream gradients, and should not, or not.

    A mean, a variance or a sum over an axis in the forward sends every row's upstream gradient to every row.
    The formula of a batch norm in training, say, does so; that of one with fixed statistics does not.

    Args:
        own, right: the function's gradients and the reference's, of given tensors.
        given: the tensors, with the upstream gradient by its name.
        upstream: its name.
        gradient: the name of the gradient in question; it needs the shape of the upstream gradient.
    """
    arriving = given[upstream]
    for axis in range(arriving.dim()):
        if arriving.shape[axis] < 2:
            continue
        changed = arriving.clone()
        changed.select(axis, 0).neg_()
        reads = [
            _reaches(probe, given, {**given, upstream: changed}, gradient, axis) for probe in (own, right)
        ]
        if reads[0] != reads[1]:
            whole, part = f"all of {upstream}", f"its own row of {upstream} alone"
            does, should = (whole, part) if reads[0] else (part, whole)
            words = f"along axis {axis} each row is made of {does}, not of {should}: a mean, variance or sum"
            words += " over that axis is " + ("a constant here" if reads[0] else "left out")
            kind = "repeated_branch" if reads[0] else "missing_branch"
            return Finding(kind, {"branches": [], "axes": [axis]}, words)
    return None


def _reaches(
    probe: Probe, given: Mapping[str, Any], changed: Mapping[str, Any], gradient: str, axis: int
) -> bool:
    """Tell whether a change of the first row of the upstream gradient arrives in other rows."""
    before, after = probe(given).get(gradient), probe(changed).get(gradient)
    if before is None or after is None or before.dim() <= axis or before.shape != after.shape:
        return False
    others = torch.arange(1, before.shape[axis], device=before.device)
    difference = (after - before).index_select(axis, others).abs()
    size = torch.finfo(before.dtype).eps * float(before.abs().max())
    return bool((difference > 100 * size).any())
