"""A linear layer over a minibatch of any shape, whose features are flattened."""

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array, w: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    """Flatten each example of x (n, ...) to k features; multiply by w (k, m), and add b (m,)."""
    rows = x.reshape(len(x), -1)  # (n, k)
    out = rows @ w + b  # (n, m)
    return out, (x, w)


def backward(dout: Array, cache: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """Compute the gradients of the examples, the weights and the bias."""
    x, w = cache
    db = dout.sum(axis=0)  # (m,)
    dw = x.reshape(len(x), -1).T @ dout  # (k, m)
    dx = (dout @ w.T).reshape(x.shape)  # (n, ...)
    return dx, dw, db


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 4 examples of 2 x 3 features, for 5 units."""
    return {"x": rng.normal(size=(4, 2, 3)), "w": rng.normal(size=(6, 5)), "b": rng.normal(size=5)}
