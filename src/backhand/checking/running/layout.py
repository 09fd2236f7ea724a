"""Many tensors as one long vector, so that a few operations see all their elements."""

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.complexes import as_reals
from backhand.checking.running.private import joined

Shapes = tuple[tuple[str, torch.Size], ...]


class Layout:
    """Where each of some named tensors lies in one vector of all their elements, in NumPy and float64.

    A complex one lies there as pairs of real numbers.

    An operation on a small tensor costs little more than its call; on 26 of them at once it costs that once.
    """

    def __init__(self, shapes: Shapes):
        self.shapes: dict[str, torch.Size] = dict(shapes)
        self._lengths = [shape.numel() for shape in self.shapes.values()]
        self.size: int = sum(self._lengths)
        self._filled = [name for name, length in zip(self.shapes, self._lengths, strict=True) if length]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Layout":
        """Return the layout of these tensors; the same object for the same names and shapes."""
        return _layout(tuple([(name, as_reals(t).shape) for name, t in tensors.items()]))

    @cached_property
    def _starts(self) -> np.ndarray:
        """Where each tensor that has elements begins."""
        ends = np.cumsum(self._lengths)
        return np.array([end - n for end, n in zip(ends, self._lengths, strict=True) if n], dtype=np.intp)

    def join(self, tensors: Mapping[str, Tensor]) -> np.ndarray:
        """Return the elements of the tensors of these names."""
        if not self._filled:
            return np.zeros(0)
        flat = joined([as_reals(tensors[name]) for name in self.shapes])
        return flat.to("cpu", torch.float64).numpy()

    def spread(self, values: Iterable[float]) -> np.ndarray | float:
        """Return one value a tensor as one value an element; a number where all are the same."""
        values = list(values)
        if len(set(values)) <= 1:
            return values[0] if values else 0.0
        return np.repeat(values, self._lengths)

    def largest(self, vector: np.ndarray) -> dict[str, float]:
        """Return the largest element of each tensor, none below zero; NaN where there is one."""
        found = dict.fromkeys(self.shapes, 0.0)
        if self._filled:
            worst = np.maximum(np.maximum.reduceat(vector, self._starts), 0.0)
            found.update(zip(self._filled, worst.tolist(), strict=True))
        return found


@lru_cache(maxsize=64)
def _layout(shapes: Shapes) -> Layout:
    return Layout(shapes)
