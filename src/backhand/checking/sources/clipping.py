"""Gradients that a backward clips, `np.clip(dW, -5, 5, out=dW)`: what is cut off there is no gradient."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from backhand.checking.running.program import plain_function


class Clips:
    """The bounds between which `np.clip` would have cut something off; those of a gradient lie about zero.

    Attributes:
        bounds: these.
        in_place: each time an array was to be cut itself, which is done to nothing but gradients.
    """

    def __init__(self) -> None:
        self.bounds: dict[float, None] = {}
        self.in_place = True

    @property
    def note(self) -> str:
        """What was left out, in a line."""
        calls = ", ".join(f"np.clip(…, {-bound:g}, {bound:g})" for bound in self.bounds)
        return f"{calls} in the backward was left out: what it cuts off is no gradient."

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Let `np.clip` cut off nothing that may be a gradient."""
        plain = np.clip

        def clip(a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, **options: Any) -> Any:
            about_zero = isinstance(a_max, float | int) and isinstance(a_min, float | int) and a_min == -a_max
            if not about_zero or options:
                return plain(a, a_min, a_max, out, **options)
            if np.any(np.abs(a) > a_max):
                self.bounds[float(a_max)] = None
                self.in_place &= out is a
            return np.positive(a, out=out)  # a copy

        np.clip = clip
        try:
            yield
        finally:
            np.clip = plain


def may_clip(functions: Sequence[Callable[..., Any]]) -> bool:
    """Tell whether some functions, or what stands in them, mention a clip."""
    return any("clip" in plain_function(f)[0].__code__.co_names for f in functions)
