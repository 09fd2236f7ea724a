"""Which rows of the upstream gradient a gradient reads: its own, or those of others too."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from backhand.checking.mistakes.finding import Finding
from backhand.checking.report import Mistake
from backhand.checking.running.precision import UNMOVED, unit

Reader = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Probes:
    """The backward, to be asked for its gradients with other upstream gradients.

    Attributes:
        call: returns them by name, for changed upstream gradients by name; None where the backward raises.
        upstream: the upstream gradients as they are.
        failures: what failed under stress.
    """

    call: Callable[..., Mapping[str, Tensor] | None]
    upstream: Mapping[str, Tensor]
    failures: Sequence[Mistake]


def mixing(own: Reader, right: Reader, arriving: Tensor, upstream: str, gradient: str) -> Finding | None:
    """Find an axis along which a gradient is made of other rows of its upstream gradient than it should be.

    A mean, a variance or a sum over an axis in the forward sends every row's upstream gradient to every row.
    The formula of a batch norm in training, say, does so; that of one with fixed statistics does not.

    Args:
        own, right: the user's gradient and the right one, for other upstream gradients.
        arriving: the upstream gradient; the gradient in question needs its shape.
        upstream: its name.
        gradient: the gradient's name.
    """
    for axis in range(arriving.dim()):
        if arriving.shape[axis] < 2:
            continue
        # what a change of the last row does to the last row, and what it does to the others
        reached, right_reached = _reached(own, arriving, axis), _reached(right, arriving, axis)
        if reached is None or right_reached is None:
            continue
        (last, others), (last_right, others_right) = reached, right_reached
        if last_right and not last:
            words = f"along axis {axis} a row of {gradient} does not read its own row of {upstream}"
            return Finding("ignores_upstream", {"axes": [axis]}, words)
        whole, alone = f"all of {upstream}", f"its own row of {upstream} alone"
        told = f"along axis {axis} each row is made of"
        if others_right and not others:
            words = f"{told} {alone}, not of {whole}: a mean, variance or sum over that axis is left out"
            return Finding("missing_branch", {"branches": [], "axes": [axis]}, words)
        if others and not others_right:
            words = f"{told} {whole}, not of {alone}: a mean, variance or sum over that axis is one too many"
            return Finding("repeated_branch", {"branches": [], "axes": [axis]}, words)
    return None


def _reached(reader: Reader, arriving: Tensor, axis: int) -> tuple[bool, bool] | None:
    """Tell whether a change of the last row of the upstream gradient arrives there, and in other rows.

    None where the backward does not run, or makes another shape.
    """
    changed = arriving.clone()
    changed.select(axis, -1).neg_()
    before, after = reader(arriving), reader(changed)
    if before is None or after is None or before.shape != changed.shape or after.shape != changed.shape:
        return None
    moved = (after - before).abs() > UNMOVED * unit(before.dtype) * before.abs().max()
    return bool(moved.select(axis, -1).any()), bool(moved.narrow(axis, 0, moved.shape[axis] - 1).any())
