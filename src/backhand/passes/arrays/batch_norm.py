"""Batch norm of a minibatch (Ioffe and Szegedy 2015, section 3), the biased variance; an operation a line."""

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> tuple[Array, tuple[Array, ...]]:
    """Normalise each column of x (n, k), then scale and shift it by gamma and beta (k,)."""
    mean = x.mean(axis=0)  # (k,)
    centered = x - mean  # (n, k)
    var = (centered**2).mean(axis=0)  # (k,)
    inv_std = 1 / np.sqrt(var + eps)  # (k,)
    xhat = centered * inv_std  # (n, k)
    out = gamma * xhat + beta  # (n, k)
    return out, (gamma, centered, inv_std, xhat)


def backward(dout: Array, cache: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Compute the gradients of the examples, of gamma and of beta."""
    gamma, centered, inv_std, xhat = cache
    n = len(dout)
    dbeta = dout.sum(axis=0)  # (k,)
    dgamma = (xhat * dout).sum(axis=0)  # (k,)
    dxhat = gamma * dout  # (n, k)
    dinv_std = (centered * dxhat).sum(axis=0)  # (k,)
    dvar = -0.5 * inv_std**3 * dinv_std  # (k,)
    dcentered = inv_std * dxhat + 2 / n * centered * dvar  # (n, k), through xhat and through var
    dmean = -dcentered.sum(axis=0)  # (k,)
    dx = dcentered + dmean / n  # (n, k)
    return dx, dgamma, dbeta


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 7 examples of 4 features."""
    return {"x": rng.normal(size=(7, 4)), "gamma": rng.normal(size=4), "beta": rng.normal(size=4)}
