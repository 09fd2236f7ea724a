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

SOURCES = ("linking", "tiles", "kernels", "layers", "tries", "word_layers")
"""Modules whose kernels are in the machine code of every such model."""

Extras = tuple[Any, ...]
"""What the steps of one model take beside minibatches, losses and parameters."""


@dataclass(frozen=True)
class NativeModel:
    """A model whose steps can be taken in machine code.

    Args:
        function: takes the steps, or measures losses alone: (Xs, Ys, paces, losses, learn, room, *extras).
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
        return integers, integers, line[None], line, True, room, *self.extras((1, 1, 1), sizes, Settings())

    def take_steps(
        self,
        parameters: Parameters,
        Xs: Tensor,
        Ys: Tensor,
        rates: Sequence[float],
        moments: Moments,
        settings: Settings,
    ) -> Tensor:
        """Take the steps on copies in padded arrays, and copy them back."""
        room, sizes = self.filled_room(parameters, moments, settings)
        pace = paces(rates, settings.steps_before, settings.weight_decay)
        losses = self.run(Xs, Ys, pace, True, room, sizes, settings)
        for values, part in beside(room, self.axes(settings), sizes, parameters, moments):
            values[:] = part.reshape(values.shape)
        return losses

    def losses(self, parameters: Parameters, Xs: Tensor, Ys: Tensor, settings: Settings) -> Tensor:
        """Return the loss of each minibatch; nothing is learnt from it."""
        room, sizes = self.filled_room(parameters, None, settings)
        return self.run(Xs, Ys, np.empty((0, 3), np.float32), False, room, sizes, settings)

    def filled_room(
        self, parameters: Parameters, moments: Moments | None, settings: Settings
    ) -> tuple[Room, Sizes]:
        """Return room for the model, with a copy of its parameters and moments in it, and its sizes."""
        axes = self.axes(settings)
        sizes = sizes_of(axes, {name: parameters[name].shape for name in axes})
        room = make_room(self.weights, axes, sizes)
        for values, part in beside(room, axes, sizes, parameters, moments):
            part[:] = values.reshape(part.shape)
        return room, sizes

    def run(
        self,
        Xs: Tensor,
        Ys: Tensor,
        pace: np.ndarray,
        learn: bool,
        room: Room,
        sizes: Sizes,
        settings: Settings,
    ) -> Tensor:
        """Run the machine code, and return the losses."""
        losses = np.empty(len(Xs), np.float32)
        words = (np.ascontiguousarray(each.numpy()) for each in (Xs, Ys))
        steps, n, T = Xs.shape
        extras = self.extras((steps, n, T), sizes, settings)
        self.steps.machine_code()(*words, pace, losses, learn, room, *extras)
        return torch.from_numpy(losses)


def beside(
    room: Room, axes: Axes, sizes: Sizes, parameters: Parameters, moments: Moments | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each parameter and moment with the part of the room that is kept for it."""
    shapes = {name: getattr(room.p, name).shape for name in axes}
    there = (parameters, *(moments or ()))
    for tensors, flat in zip(there, (room.flat, room.first, room.second), strict=False):
        for name, whole in views(flat, shapes).items():
            yield tensors[name].detach().numpy(), inner(axes[name], sizes, whole)
