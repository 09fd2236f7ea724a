"""A convolution as its definition has it: the filters at one position after the other."""

from typing import Any

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array, w: Array, b: Array, stride: int = 1, pad: int = 1) -> tuple[Array, tuple[Any, ...]]:
    """Lay the filters w (f, c, hh, ww) on images x (n, c, h, w), at each position; b (f,) is added."""
    f, _, hh, ww = w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows, columns = (padded.shape[2] - hh) // stride + 1, (padded.shape[3] - ww) // stride + 1
    out = np.zeros((len(x), f, rows, columns))  # (n, f, rows, columns)
    for i, j in np.ndindex(rows, columns):
        part = padded[:, :, i * stride : i * stride + hh, j * stride : j * stride + ww]  # (n, c, hh, ww)
        out[:, :, i, j] = np.einsum("nchw,fchw->nf", part, w) + b
    return out, (padded, w, stride, pad)


def backward(dout: Array, cache: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """Compute the gradients: each position sends its share back to what lay under the filters."""
    padded, w, stride, pad = cache
    _, _, hh, ww = w.shape
    db = dout.sum(axis=(0, 2, 3))  # (f,)
    dw = np.zeros_like(w)  # (f, c, hh, ww)
    dpadded = np.zeros_like(padded)
    for i, j in np.ndindex(*dout.shape[2:]):
        rows, columns = slice(i * stride, i * stride + hh), slice(j * stride, j * stride + ww)
        dw += np.einsum("nf,nchw->fchw", dout[:, :, i, j], padded[:, :, rows, columns])
        dpadded[:, :, rows, columns] += np.einsum("nf,fchw->nchw", dout[:, :, i, j], w)
    dx = dpadded[:, :, pad:-pad, pad:-pad]  # (n, c, h, w)
    return dx, dw, db


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 2 images of 3 channels, 5 x 4, and 4 filters of 3 x 2."""
    return {"x": rng.normal(size=(2, 3, 5, 4)), "w": rng.normal(size=(4, 3, 3, 2)), "b": rng.normal(size=4)}
