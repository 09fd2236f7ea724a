"""Machine code of a model's steps as an engine: room for its numbers is made, filled, and read back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .axes import Axes, Sizes, parts, sizes_of
from .compiling import Compiled
from .native_words import Moments, Settings
from .padding import Room, inner, make_room, views
from .stepping import Parameters
from .word_layers import paces

SOURCES = ("tiles", "kernels", "layers", "tries", "word_layers")
"""Modules whose kernels are in the machine code of every such model."""

Extras = tuple[Any, ...]
"""What the steps of one model take beside minibatches, losses and parameters."""


@dataclass(frozen=True)
class NativeModel:
    """A model whose steps can be taken in machine code.

    Args:
        function: takes the steps: (Xs, Ys, paces, losses, room, *extras).
        axes: returns what the axes of each parameter are, as `padding.blocks` reads them.
        weights: a named tuple of the parameters.
        extras: returns room for what a step writes, and whatever else the function takes last; for
            minibatches of a shape (steps, n, T).
        sources: modules whose kernels are in its machine code, beside SOURCES.
    """

    function: Callable[..., None]
    axes: Callable[[Settings], Axes]
    weights: Any
    extras: Callable[[tuple[int, int, int], Sizes, Settings], Extras]
    sources: tuple[str, ...]

    @cached_property
    def steps(self) -> Compiled:
        """The machine code of the steps, and where it is kept."""
        return Compiled(self.function, (*SOURCES, *self.sources), self.example)

    def example(self) -> Sequence[Any]:
        """Return arguments of the steps, as small as they can be."""
        axes = self.axes(Settings())
        sizes = {letter: 1 for each in axes.values() for _, letter in parts(each)}
        integers, line = np.zeros((1, 1, 1), np.int64), np.zeros(1, np.float32)
        room = make_room(self.weights, axes, sizes)
        return integers, integers, line[None], line, room, *self.extras((1, 1, 1), sizes, Settings())

    def take_steps(
        self,
        parameters: Parameters,
        Xs: Tensor,
        Ys: Tensor,
        rates: Sequence[float],
        moments: Moments,
        settings: Settings,
    ) -> Tensor:
        """Copy parameters and moments into padded arrays, take the steps, and copy them back."""
        steps, n, T = Xs.shape
        axes = self.axes(settings)
        sizes = sizes_of(axes, {name: parameters[name].shape for name in axes})
        room = make_room(self.weights, axes, sizes)
        pairs = list(beside(room, axes, sizes, parameters, moments))
        for values, part in pairs:
            part[:] = values.reshape(part.shape)
        losses = np.empty(len(rates), np.float32)
        self.steps.machine_code()(
            np.ascontiguousarray(Xs.numpy()),
            np.ascontiguousarray(Ys.numpy()),
            paces(rates, settings.steps_before, settings.weight_decay),
            losses,
            room,
            *self.extras((steps, n, T), sizes, settings),
        )
        for values, part in pairs:
            values[:] = part.reshape(values.shape)
        return torch.from_numpy(losses)


def beside(
    room: Room, axes: Axes, sizes: Sizes, parameters: Parameters, moments: Moments
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each parameter and moment with the part of the room that is kept for it."""
    shapes = {name: getattr(room.p, name).shape for name in axes}
    for tensors, flat in zip((parameters, *moments), (room.flat, room.first, room.second), strict=True):
        for name, whole in views(flat, shapes).items():
            yield tensors[name].detach().numpy(), inner(axes[name], sizes, whole)
