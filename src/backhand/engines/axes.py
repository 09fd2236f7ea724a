"""What the axes of a model's parameters are, in letters: "L d 3d" is layers, numbers, three blocks of them.

The letters: V symbols, T positions, L layers, 1 one row, and the model's own numbers: e of an embedding, m of
a state, d of all that a transformer hands on.
"""

from collections.abc import Mapping, Sequence
from functools import cache

Axes = Mapping[str, str]
"""The axes of each parameter, by name; the pass of a model has them as SHAPES."""

Sizes = Mapping[str, int]
"""What the letters stand for."""


@cache  # of a few texts, each asked for at every call of an engine
def parts(axes: str) -> tuple[tuple[int, str], ...]:
    """Return of each axis how many blocks it has, and the letter of their size.

    >>> parts("L d 3d")
    ((1, 'L'), (1, 'd'), (3, 'd'))
    """
    return tuple((int(axis[:-1] or 1), axis[-1]) for axis in axes.split())


def shape_of(axes: str, sizes: Sizes) -> tuple[int, ...]:
    """Return the shape of a parameter.

    >>> shape_of("L d 3d", {"L": 2, "d": 20})
    (2, 20, 60)
    """
    return tuple(count * sizes[letter] for count, letter in parts(axes))


def sizes_of(axes: Axes, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return what each letter stands for, in parameters of these shapes.

    >>> sizes_of({"E": "V e", "Wx": "e 3m", "h0": "1 m"}, {"E": (27, 10), "Wx": (10, 60), "h0": (1, 20)})
    {'V': 27, 'e': 10, 'm': 20, '1': 1}
    """
    found = {}
    for name, each in axes.items():
        for (count, letter), size in zip(parts(each), shapes[name], strict=True):
            if size % count:
                raise ValueError(f"{size} numbers cannot be cut into {count} parts")
            found[letter] = size // count
    return found
