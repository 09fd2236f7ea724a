"""The same convolution as one matrix product: what lies under the filters becomes columns (im2col)."""

from typing import Any

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array, w: Array, b: Array, stride: int = 1, pad: int = 1) -> tuple[Array, tuple[Any, ...]]:
    """Convolve images x (n, c, h, w) with filters w (f, c, hh, ww); b (f,) is added."""
    n, _, height, width = x.shape
    f, c, hh, ww = w.shape
    rows, columns = (height + 2 * pad - hh) // stride + 1, (width + 2 * pad - ww) // stride + 1
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    up = stride * np.arange(rows)[:, None, None, None] + np.arange(hh)[:, None]  # (rows, 1, hh, 1)
    over = stride * np.arange(columns)[:, None, None] + np.arange(ww)  # (columns, 1, ww)
    parts = padded[:, :, up, over].transpose(0, 2, 3, 1, 4, 5)  # (n, rows, columns, c, hh, ww)
    cols = parts.reshape(n * rows * columns, c * hh * ww)
    flat = cols @ w.reshape(f, -1).T + b  # (n rows columns, f)
    out = flat.reshape(n, rows, columns, f).transpose(0, 3, 1, 2)  # (n, f, rows, columns)
    return out, (padded.shape, cols, w, up, over, pad)


def backward(dout: Array, cache: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """Compute the gradients; what comes back to the columns is added where they were taken from."""
    shape, cols, w, up, over, pad = cache
    n, f, rows, columns = dout.shape
    flat = dout.transpose(0, 2, 3, 1).reshape(-1, f)  # (n rows columns, f)
    db = flat.sum(axis=0)  # (f,)
    dw = (flat.T @ cols).reshape(w.shape)  # (f, c, hh, ww)
    dcols = flat @ w.reshape(f, -1)  # (n rows columns, c hh ww)
    dparts = dcols.reshape(n, rows, columns, *w.shape[1:]).transpose(0, 3, 1, 2, 4, 5)
    dpadded = np.zeros(shape)
    np.add.at(dpadded, (slice(None), slice(None), up, over), dparts)  # pyright: ignore[reportArgumentType]
    dx = dpadded[:, :, pad:-pad, pad:-pad]  # (n, c, h, w)
    return dx, dw, db


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 2 images of 3 channels, 5 x 4, and 4 filters of 3 x 2."""
    return {"x": rng.normal(size=(2, 3, 5, 4)), "w": rng.normal(size=(4, 3, 3, 2)), "b": rng.normal(size=4)}
