"""Explain a gradient by what its backward does: under stress, and row by row of the upstream gradient.

Numbers alone do not tell a gradient that ignores its upstream gradient, or that is made of other rows of it,
from nonsense; other upstream gradients do. These come last, where nothing reproduces the gradient.
"""

from collections.abc import Mapping

from torch import Tensor

from backhand.checking.meanings import KINDS
from backhand.checking.mistakes.evidence import Case
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.mistakes.reading import mixing
from backhand.checking.running.precision import COARSE
from backhand.checking.running.private import differentiated
from backhand.checking.verdicts.comparing import close, largest_difference


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

        found = mixing(own, right, arriving, name, case.gradient)
        if found is not None:
            return found
    return None


def _right(scene: Scene, upstream: Mapping[str, Tensor]) -> Tensor | None:
    """Return the right gradient for other upstream gradients."""
    arriving = [upstream[f"d{name}"] for name in scene.trace.outputs]
    return differentiated(scene.trace.outputs.values(), arriving, [scene.tensor])[0]
