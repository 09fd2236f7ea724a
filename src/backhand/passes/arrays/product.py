"""A product, element by element."""

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    """Multiply a and b (n,)."""
    out = a * b  # (n,)
    return out, (a, b)


def backward(dout: Array, cache: tuple[Array, Array]) -> tuple[Array, Array]:
    """Compute the gradients of both factors."""
    a, b = cache
    da = b * dout  # (n,)
    db = a * dout  # (n,)
    return da, db


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 5 numbers twice."""
    return {"a": rng.normal(size=5), "b": rng.normal(size=5)}
