"""Layers over NumPy, as the courses set them: a forward and its backward, solved.

The notebook layers.ipynb is made of it, each gradient blanked.
"""

import numpy as np


def affine_forward(x, w, b):
    """A linear layer: x (n, d), w (d, m), b (m,)."""
    out = x @ w + b  # (n, m)
    return out, (x, w)


def affine_backward(dout, cache):
    x, w = cache
    dx = dout @ w.T  # (n, d)
    dw = x.T @ dout  # (d, m)
    db = dout.sum(axis=0)  # (m,)
    return dx, dw, db


def affine_inputs(rng):
    return {"x": rng.normal(size=(5, 4)), "w": rng.normal(size=(4, 3)), "b": rng.normal(size=3)}


def relu_forward(x):
    """The positive part of x (n, d)."""
    out = np.maximum(0, x)  # (n, d)
    return out, x


def relu_backward(dout, cache):
    x = cache
    dx = dout * (x > 0)  # (n, d)
    return dx


def relu_inputs(rng):
    x = rng.normal(size=(5, 4))
    return {"x": x + 0.1 * np.sign(x)}  # away from the kink


def batchnorm_forward(x, gamma, beta, eps=1e-5):
    """Each column of x (n, d) with mean 0 and variance 1, then scaled and shifted: gamma and beta (d,)."""
    mean = x.mean(axis=0)  # (d,)
    centred = x - mean  # (n, d)
    var = (centred**2).mean(axis=0)  # (d,)
    inv_std = 1 / np.sqrt(var + eps)  # (d,)
    xhat = centred * inv_std  # (n, d)
    out = gamma * xhat + beta  # (n, d)
    return out, (gamma, centred, inv_std, xhat)


def batchnorm_backward(dout, cache):
    gamma, centred, inv_std, xhat = cache
    n = len(dout)
    dbeta = dout.sum(axis=0)  # (d,)
    dgamma = (dout * xhat).sum(axis=0)  # (d,)
    dxhat = dout * gamma  # (n, d)
    dinv_std = (dxhat * centred).sum(axis=0)  # (d,)
    dvar = -0.5 * inv_std**3 * dinv_std  # (d,)
    dcentred = dxhat * inv_std + 2 / n * centred * dvar  # (n, d), directly and through var
    dx = dcentred - dcentred.mean(axis=0)  # (n, d), directly and through mean
    return dx, dgamma, dbeta


def batchnorm_inputs(rng):
    return {"x": rng.normal(size=(6, 4)), "gamma": rng.normal(size=4), "beta": rng.normal(size=4)}


def softmax_loss(x, y):
    """The mean cross entropy of scores x (n, c) with the right classes y (n,), and its gradient."""
    shifted = x - x.max(axis=1, keepdims=True)  # (n, c), so that exp cannot overflow
    probs = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)  # (n, c)
    rows = np.arange(len(x))
    loss = -np.log(probs[rows, y]).mean()
    dx = (probs - (np.arange(x.shape[1]) == y[:, None])) / len(x)  # (n, c)
    return loss, dx


def softmax_inputs(rng):
    return {"x": rng.normal(size=(5, 4)), "y": rng.integers(0, 4, size=5)}
