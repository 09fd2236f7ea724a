"""A row that is multiplied into, and a row that is added to, every row of a matrix."""

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array, gain: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    """Scale the columns of x (n, k) by gain (k,), and shift them by bias (k,)."""
    out = gain * x + bias  # (n, k)
    return out, (x, gain)


def backward(dout: Array, cache: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """Compute the gradients: what was broadcast is summed."""
    x, gain = cache
    dbias = dout.sum(axis=0)  # (k,)
    dgain = (x * dout).sum(axis=0)  # (k,)
    dx = gain * dout  # (n, k)
    return dx, dgain, dbias


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 4 rows of 3 columns."""
    return {"x": rng.normal(size=(4, 3)), "gain": rng.normal(size=3), "bias": rng.normal(size=3)}
