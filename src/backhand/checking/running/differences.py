"""Derivatives by differences, where autograd cannot follow: central, in float64, Richardson-extrapolated."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Arrays = Mapping[str, np.ndarray]
Scalar = Callable[[Arrays], float]
# Three steps, each half of the one before: the errors of h**2 and h**4 fall out. The smallest is so large
# that rounding stays below 1e-10 of the function, and the largest so small that h**6 does.
STEP = 8e-3
# Where a kink lies within that step, one that hardly ever has one: rounding is a part of 1e-10 of it.
SHORT = 1e-3 * STEP
# Two extrapolations of a smooth function differ by h**4, which is less than this part.
SMOOTH = 1e-6


def derivative(function: Scalar, at: Arrays, name: str, index: tuple[int, ...]) -> float:
    """Return the derivative by one element.

    >>> cube = lambda at: float(at["x"][0] ** 3)
    >>> round(derivative(cube, {"x": np.array([2.0])}, "x", (0,)), 9)
    12.0
    >>> relu = lambda at: max(0.0, float(at["x"][0]))
    >>> round(derivative(relu, {"x": np.array([0.001])}, "x", (0,)), 9)
    1.0
    """
    size = max(1.0, abs(float(at[name][index])))

    def moved(h: float) -> float:
        other = at[name].copy()
        other[index] += h
        return function({**at, name: other})

    return _slope(moved, size)


def along(function: Scalar, at: Arrays, direction: Arrays) -> float:
    """Return the derivative in a direction."""
    return _slope(_on_a_line(function, at, direction), 1.0)


def has_kink(function: Scalar, at: Arrays, direction: Arrays) -> bool:
    """Tell whether the derivative in a direction is another one on the other side."""
    h = 1e-6  # a function that is smooth turns by no more than this part of its second derivative
    moved, here = _on_a_line(function, at, direction), function(at)
    ahead, behind = (moved(h) - here) / h, (here - moved(-h)) / h
    return abs(ahead - behind) > 1e-3 * max(abs(ahead), abs(behind), 1e-3)


def _on_a_line(function: Scalar, at: Arrays, direction: Arrays) -> Callable[[float], float]:
    return lambda h: function({**at, **{n: at[n] + h * d for n, d in direction.items()}})


def _extrapolations(moved: Callable[[float], float], h: float) -> list[float]:
    slopes = [(moved(s) - moved(-s)) / (2 * s) for s in (h, h / 2, h / 4)]
    return [(4 * b - a) / 3 for a, b in itertools.pairwise(slopes)]


def _slope(moved: Callable[[float], float], size: float) -> float:
    """Return the derivative at zero, by shorter steps where a kink seems to lie within the usual ones."""
    coarse, fine = _extrapolations(moved, STEP * size)
    if np.any(np.abs(fine - coarse) > SMOOTH * np.maximum(np.maximum(abs(fine), abs(coarse)), 1e-3)):
        coarse, fine = _extrapolations(moved, SHORT * size)
    return (16 * fine - coarse) / 15


def gradients(function: Scalar, at: Arrays, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the derivatives by every element of some arrays."""
    found = {}
    for name in names:
        found[name] = np.zeros(at[name].shape)
        for index in np.ndindex(at[name].shape):
            found[name][index] = derivative(function, at, name, index)
    return found


def by_differences(
    function: Callable[..., tuple[np.ndarray, ...]],
    *tensors: Tensor,
    known: dict[bytes, np.ndarray] | None = None,
) -> tuple[Tensor, ...]:
    """Return a function's outputs as those of one operation of autograd, derived by differences.

    Args:
        function: from the arrays in order to a tuple of arrays.
        tensors: the arrays, as tensors.
        known: what all outputs change with each element of these arrays, where that is to be kept: it holds
            for every upstream gradient, and has the elements of both times each other.
    """

    class ByDifferences(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Tensor) -> Any:
            arrays = [t.detach().numpy().astype(np.float64) for t in tensors]
            ctx.arrays, ctx.dtypes = arrays, [t.dtype for t in tensors]
            return tuple(torch.from_numpy(np.array(out, dtype=np.float64)) for out in function(*arrays))

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> Any:  # type: ignore[override]
            arriving = [u.detach().numpy() for u in upstream]
            at = {str(i): array for i, array in enumerate(ctx.arrays)}
            if known is not None:
                rows = known.get(key := b"".join(array.tobytes() for array in ctx.arrays))
                if rows is None:
                    rows = known[key] = _each_by_each(function, at)
                above = rows @ np.concatenate([u.ravel() for u in arriving])
                parts = np.split(above, np.cumsum([array.size for array in ctx.arrays])[:-1])
                return tuple(
                    torch.from_numpy(part.reshape(array.shape)).to(d)
                    for part, array, d in zip(parts, ctx.arrays, ctx.dtypes, strict=True)
                )

            def scalar(arrays: Arrays) -> float:
                outputs = function(*arrays.values())
                return float(sum(np.sum(u * out) for u, out in zip(arriving, outputs, strict=True)))

            found = gradients(scalar, at, list(at)).values()
            return tuple(torch.from_numpy(g).to(d) for g, d in zip(found, ctx.dtypes, strict=True))

    return ByDifferences.apply(*tensors)  # type: ignore[return-value]


def _each_by_each(function: Callable[..., tuple[np.ndarray, ...]], at: Arrays) -> np.ndarray:
    """Return the derivatives of all elements of the outputs, a row for each element of the arrays."""

    def outputs(arrays: Arrays) -> Any:
        return np.concatenate([np.ravel(out) for out in function(*arrays.values())])

    return np.stack([derivative(outputs, at, name, i) for name in at for i in np.ndindex(at[name].shape)])
