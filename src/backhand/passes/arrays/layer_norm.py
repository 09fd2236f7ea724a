"""Layer norm (Ba, Kiros and Hinton 2016): each example by its own mean and variance, in few lines."""

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> tuple[Array, tuple[Array, ...]]:
    """Normalise each row of x (n, k), then scale and shift it by gamma and beta (k,)."""
    mean = x.mean(axis=1, keepdims=True)  # (n, 1)
    var = ((x - mean) ** 2).mean(axis=1, keepdims=True)  # (n, 1)
    inv_std = 1 / np.sqrt(var + eps)  # (n, 1)
    xhat = (x - mean) * inv_std  # (n, k)
    out = gamma * xhat + beta  # (n, k)
    return out, (gamma, inv_std, xhat)


def backward(dout: Array, cache: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Compute the gradients; that of x is what is left of dxhat across the row's mean and across xhat."""
    gamma, inv_std, xhat = cache
    dbeta = dout.sum(axis=0)  # (k,)
    dgamma = (xhat * dout).sum(axis=0)  # (k,)
    dxhat = gamma * dout  # (n, k)
    along = xhat * (xhat * dxhat).mean(axis=1, keepdims=True)  # (n, k)
    dx = inv_std * (dxhat - dxhat.mean(axis=1, keepdims=True) - along)  # (n, k)
    return dx, dgamma, dbeta


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 4 examples of 7 features."""
    return {"x": rng.normal(size=(4, 7)), "gamma": rng.normal(size=7), "beta": rng.normal(size=7)}
