"""Room for a model's numbers, padded with zeros to whole vectors, so that kernels can take whole tiles."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .axes import Axes, Sizes, parts
from .tiles import LANES

COUNTS = ("L", "T", "1")
"""Axes that only count matrices or rows, and are not padded: layers, positions, and the one row of h0."""


def padded(size: int) -> int:
    """Return the next multiple of LANES."""
    return -(-size // LANES) * LANES


def zeros(*shape: int) -> np.ndarray:
    """Return float32 zeros that begin at a multiple of 64 bytes, as cache lines do."""
    size = math.prod(shape)
    room = np.zeros(size + LANES, np.float32)
    begin = -room.ctypes.data // 4 % LANES
    return room[begin : begin + size].reshape(shape)


def blocks(axes: str, sizes: Sizes) -> list[tuple[int, int, int]]:
    """Return how many blocks each axis has, how long one is, and how long when padded.

    >>> blocks("L d 3d", {"L": 2, "d": 20})
    [(1, 2, 2), (1, 20, 32), (3, 20, 32)]
    """
    return [
        (count, sizes[letter], sizes[letter] if letter in COUNTS else padded(sizes[letter]))
        for count, letter in parts(axes)
    ]


class Room(NamedTuple):
    """A model's parameters, their gradients and AdamW's moments, each as one flat array and by name."""

    flat: np.ndarray
    gradients: np.ndarray
    first: np.ndarray
    second: np.ndarray
    p: Any
    g: Any


def make_room(weights: Any, axes: Axes, sizes: Sizes) -> Room:
    """Return room for the parameters of a table, name to axes; `weights` is a named tuple of these names."""
    shapes = {
        name: tuple(count * room for count, _, room in blocks(each, sizes)) for name, each in axes.items()
    }
    flat, gradients, first, second = (zeros(sum(map(math.prod, shapes.values()))) for _ in range(4))
    p, g = weights(**views(flat, shapes)), weights(**views(gradients, shapes))
    return Room(flat, gradients, first, second, p, g)


def views(flat: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return successive parts of a flat array, in these shapes."""
    found, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + math.prod(shape)
        found[name] = flat[begin:end].reshape(shape)
        begin = end
    return found


def inner(axes: str, sizes: Sizes, room: np.ndarray) -> np.ndarray:
    """Return the part of a padded parameter that is no padding: two axes for each one, blocks and numbers."""
    found = blocks(axes, sizes)
    split = room.reshape([part for count, _, long in found for part in (count, long)])
    return split[tuple(part for _, size, _ in found for part in (slice(None), slice(size)))]
