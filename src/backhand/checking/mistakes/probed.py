"""Explain a gradient by what its backward does: under stress, and row by row of the upstream gradient.

Numbers alone do not tell a gradient that ignores its upstream gradient, or that is made of other rows of it,
from nonsense; other upstream gradients do. These come last, where nothing reproduces the gradient.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from backhand.checking.meanings import KINDS
from backhand.checking.mistakes.evidence import Case
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.running.precision import COARSE, UNMOVED, unit
from backhand.checking.running.private import differentiated
from backhand.checking.verdicts.comparing import close, largest_difference

Reader = Callable[[Tensor], Tensor | None]


def fails_under_stress(case: Case) -> Finding | None:
    """Find the gradient among those that failed under stress."""
    for failure in case.probes.failures if case.probes is not None else ():
        if case.scenes and case.gradient in failure.detail.get("gradients", ()):
            words = failure.message.removesuffix(".").removeprefix(f"{case.gradient} ")
            return Finding(failure.kind, dict(failure.detail), words, hint=failure.hint)
    return None


def right_but_coarsely(case: Case) -> Finding | None:
    """Find a gradient that is off by what a low dtype would lose."""
    scene = case.scenes[0] if case.scenes else None
    if scene is None or not scene.has_its_shape or not scene.expected.numel():
        return None
    largest = float(scene.expected.abs().max())
    relative = largest_difference(scene.value, scene.expected) / largest if largest else float("inf")
    if relative > COARSE:
        return None
    words = f"right to a relative {relative:.1g} only, as if part of it were computed coarsely"
    return Finding("dtype", {"relative": relative}, words, hint=KINDS["dtype"].hint)


def mixes_rows(case: Case) -> Finding | None:
    """Find an axis along which the gradient is made of other rows of its upstream gradient.

    Not where something failed under stress, nor below a wrong line: both would change what is read.
    """
    probes, scene = case.probes, case.scenes[0] if case.scenes else None
    if probes is None or probes.failures or scene is None:
        return None
    if not close(scene.expected, scene.trace.gradients[scene.name]):
        return None
    for name, arriving in probes.upstream.items():
        if arriving.shape != scene.expected.shape:
            continue

        def own(changed: Tensor, name: str = name) -> Tensor | None:
            return (probes.call(**{name: changed}) or {}).get(case.gradient)

        def right(changed: Tensor, name: str = name) -> Tensor | None:
            return _right(scene, {**scene.trace.upstream, name: changed})

        found = _mixing(own, right, arriving, name, case.gradient)
        if found is not None:
            return found
    return None


def _right(scene: Scene, upstream: Mapping[str, Tensor]) -> Tensor | None:
    """Return the right gradient for other upstream gradients."""
    arriving = [upstream[f"d{name}"] for name in scene.trace.outputs]
    return differentiated(scene.trace.outputs.values(), arriving, [scene.tensor])[0]


def _mixing(own: Reader, right: Reader, arriving: Tensor, upstream: str, gradient: str) -> Finding | None:
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
