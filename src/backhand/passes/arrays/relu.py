"""The rectifier: what is below zero passes nothing on, and so receives nothing."""

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array) -> tuple[Array, Array]:
    """Put zero where x (n, k) is below it."""
    out = np.maximum(x, 0)  # (n, k)
    return out, x


def backward(dout: Array, cache: Array) -> Array:
    """Compute the gradient of x."""
    x = cache
    dx = dout * (x > 0)  # (n, k)
    return dx


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 4 rows of 5 columns."""
    return {"x": rng.normal(size=(4, 5))}
