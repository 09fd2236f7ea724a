"""Explain a gradient by what its backward does: under stress, and row by row of the upstream gradient.

Numbers alone do not tell a gradient that ignores its upstream gradient, or that is made of other rows of it,
from nonsense; other upstream gradients do. These come last, where nothing reproduces the gradient.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.mistakes.reading import mixing
from backhand.checking.report import Mistake
from backhand.checking.running.graph import differentiated
from backhand.checking.running.precision import COARSE
from backhand.checking.verdicts.comparing import close, largest_difference

HINT = "Compute in float32 or better and cast once, at the end, to the tensor's own dtype."
Probe = Callable[..., Mapping[str, Tensor] | None]
Finder = Callable[[Scene], Finding | None]


class Probed:
    """What probes of a backward tell of a gradient.

    Attributes:
        finders: the explanations, to be tried in this order.
    """

    def __init__(self, probe: Probe, upstream: Mapping[str, Tensor], failures: Sequence[Mistake]):
        """Take the backward by changed upstream gradients, these themselves, and what failed under stress."""
        self.finders: tuple[Finder, ...] = (self.failing, self.coarse, self.mixing)
        self._probe, self._upstream, self._failures = probe, upstream, failures

    def failing(self, scene: Scene) -> Finding | None:
        """Find the gradient among those that failed under stress."""
        for failure in self._failures:
            if scene.d(scene.name) in failure.detail.get("gradients", ()):
                words = failure.message.removesuffix(".")
                return Finding(failure.kind, dict(failure.detail), words, hint=failure.hint)
        return None

    def coarse(self, scene: Scene) -> Finding | None:
        """Find a gradient that is off by what a low dtype would lose."""
        largest = float(scene.expected.abs().max()) if scene.expected.numel() else 0.0
        relative = largest_difference(scene.value, scene.expected) / largest if largest else float("inf")
        if relative > COARSE:
            return None
        words = f"right to a relative {relative:.1g} only, as if part of it were computed coarsely"
        return Finding("dtype", {"relative": relative}, words, hint=HINT)

    def mixing(self, scene: Scene) -> Finding | None:
        """Find an axis along which the gradient is made of other rows of its upstream gradient."""
        if self._failures or not close(scene.expected, scene.trace.gradients[scene.name]):
            return None  # with the upstream gradients of a wrong line above it would be another question
        gradient = scene.d(scene.name)
        for arriving, value in self._upstream.items():
            if value.shape != scene.expected.shape:
                continue
            found = mixing(
                lambda changed, name=arriving: (self._probe(**{name: changed}) or {}).get(gradient),
                lambda changed, name=arriving: _right(scene, {**self._upstream, name: changed}),
                value,
                arriving,
                gradient,
            )
            if found is not None:
                return found
        return None


def _right(scene: Scene, upstream: Mapping[str, Tensor]) -> Tensor | None:
    """Return the right gradient for other upstream gradients."""
    arriving = [upstream[f"d{name}"] for name in scene.trace.outputs]
    return differentiated(scene.trace.outputs.values(), arriving, [scene.tensor])[0]
