"""A value that is used twice: what the two uses send back adds up."""

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(a: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
    """Combine a and b (n,): a goes into p and q, and p into q and out."""
    p = a * b  # (n,)
    q = p - a  # (n,)
    out = p * q  # (n,)
    return out, (a, b, p, q)


def backward(dout: Array, cache: tuple[Array, ...]) -> tuple[Array, Array]:
    """Compute the gradients of both inputs."""
    a, b, p, q = cache
    dq = p * dout  # (n,)
    dp = q * dout + dq  # (n,), through out and through q
    da = b * dp - dq  # (n,), through p and through q
    db = a * dp  # (n,)
    return da, db


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 5 numbers twice."""
    return {"a": rng.normal(size=5), "b": rng.normal(size=5)}
