"""Room for a model's numbers, padded with zeros to whole vectors, so that kernels can take whole tiles."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .tiles import LANES

Sizes = Mapping[str, int]
"""What the letters in an axis of a parameter stand for."""

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
    found = []
    for axis in axes.split():
        size = sizes[axis[-1]]
        found.append((int(axis[:-1] or 1), size, size if axis[-1] in COUNTS else padded(size)))
    return found


def sizes_of(axes: Mapping[str, str], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return what each letter stands for, in parameters of these shapes.

    >>> sizes_of({"E": "V e", "Wx": "e 3m", "h0": "1 m"}, {"E": (27, 10), "Wx": (10, 60), "h0": (1, 20)})
    {'V': 27, 'e': 10, 'm': 20, '1': 1}
    """
    pairs = [(a, n) for name, each in axes.items() for a, n in zip(each.split(), shapes[name], strict=True)]
    for axis, size in pairs:
        if size % int(axis[:-1] or 1):
            raise ValueError(f"{size} numbers cannot be cut into {axis[:-1]} parts")
    return {axis[-1]: size // int(axis[:-1] or 1) for axis, size in pairs}


class Room(NamedTuple):
    """A model's parameters, their gradients and AdamW's moments, each as one flat array and by name."""

    flat: np.ndarray
    gradients: np.ndarray
    first: np.ndarray
    second: np.ndarray
    p: Any
    g: Any


def make_room(weights: Any, axes: Mapping[str, str], sizes: Sizes) -> Room:
    """Return room for the parameters of a table, name to axes; `weights` is a named tuple of these names."""
    shapes = {
        name: tuple(count * room for count, _, room in blocks(each, sizes)) for name, each in axes.items()
    }
    flat, gradients, first, second = (zeros(sum(map(math.prod, shapes.values()))) for _ in range(4))
    p, g = weights(**views(flat, shapes)), weights(**views(gradients, shapes))
    return Room(flat, gradients, first, second, p, g)


def views(flat: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return successive parts of a flat array, in these shapes."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def inner(axes: str, sizes: Sizes, room: np.ndarray) -> np.ndarray:
    """Return the part of a padded parameter that is no padding: two axes for each one, blocks and numbers."""
    found = blocks(axes, sizes)
    split = room.reshape([part for count, _, long in found for part in (count, long)])
    return split[tuple(part for _, size, _ in found for part in (slice(None), slice(size)))]
