"""Many tensors as one long vector, so that a few operations see all their elements."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from weakref import WeakValueDictionary

import torch
from torch import Tensor


class Layout:
    """Where each of some named tensors lies in one vector of all their elements.

    An operation on a small tensor costs little more than its call; on 26 of them at once it costs that once.
    """

    def __init__(self, shapes: Iterable[tuple[str, torch.Size]], device: torch.device):
        self.shapes = dict(shapes)
        self.device = device
        self._lengths = [shape.numel() for shape in self.shapes.values()]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Layout":
        """Return the layout of these tensors; the same object for the same names and shapes."""
        device = next((t.device for t in tensors.values()), torch.device("cpu"))
        shapes = tuple([(name, t.shape) for name, t in tensors.items()])
        found = _ALIVE.get((shapes, device))
        if found is None:
            found = _ALIVE[shapes, device] = cls(shapes, device)
        return found

    @cached_property
    def _counts(self) -> Tensor:
        return torch.tensor(self._lengths, device=self.device)

    @cached_property
    def _owner(self) -> Tensor:
        """Which tensor each element belongs to, by number."""
        return torch.repeat_interleave(torch.arange(len(self._lengths), device=self.device), self._counts)

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the elements of the tensors of these names, in float64."""
        if not self.shapes:
            return torch.zeros(0, dtype=torch.float64)
        flat = torch.cat([tensors[name].reshape(-1) for name in self.shapes])
        return flat.to(self.device, torch.float64)

    def spread(self, values: Iterable[float]) -> Tensor | float:
        """Return one value a tensor as one value an element; a number where all are the same."""
        values = list(values)
        if len(set(values)) <= 1:
            return values[0] if values else 0.0
        each = torch.tensor(values, dtype=torch.float64, device=self.device)
        return torch.repeat_interleave(each, self._counts)

    def largest(self, vector: Tensor) -> dict[str, float]:
        """Return the largest element of each tensor, none below zero; NaN where there is one."""
        found = vector.new_zeros(len(self._lengths)).scatter_reduce_(0, self._owner, vector, "amax")
        return dict(zip(self.shapes, found.tolist(), strict=True))


# So that the draws of one check share what a layout has worked out; nothing outlives the check.
_ALIVE: WeakValueDictionary[tuple[tuple[tuple[str, torch.Size], ...], torch.device], Layout] = (
    WeakValueDictionary()
)
