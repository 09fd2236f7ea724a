"""Max pooling: of each square the largest element goes on, and it alone receives what comes back."""

from typing import Any

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array, size: int = 2, stride: int = 2) -> tuple[Array, tuple[Any, ...]]:
    """Take the largest element of each square of images x (n, c, h, w)."""
    n, c, height, width = x.shape
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    out = np.zeros((n, c, rows, columns))  # (n, c, rows, columns)
    for i, j in np.ndindex(rows, columns):
        part = x[:, :, i * stride : i * stride + size, j * stride : j * stride + size]
        out[:, :, i, j] = part.max(axis=(2, 3))
    return out, (x, out, size, stride)


def backward(dout: Array, cache: tuple[Any, ...]) -> Array:
    """Compute the gradient of the images."""
    x, out, size, stride = cache
    dx = np.zeros_like(x)  # (n, c, h, w)
    for i, j in np.ndindex(*dout.shape[2:]):
        rows, columns = slice(i * stride, i * stride + size), slice(j * stride, j * stride + size)
        is_largest = x[:, :, rows, columns] == out[:, :, i, j][:, :, None, None]  # (n, c, size, size)
        dx[:, :, rows, columns] += is_largest * dout[:, :, i, j][:, :, None, None]
    return dx


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 2 images of 3 channels, 4 x 6."""
    return {"x": rng.normal(size=(2, 3, 4, 6))}
