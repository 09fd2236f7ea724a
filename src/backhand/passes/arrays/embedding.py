"""A table whose rows are looked up: a row that is looked up three times receives three gradients."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backhand.passes.arrays.kinds import Array


def forward(ix: NDArray[np.int64], w: Array) -> tuple[Array, tuple[Any, ...]]:
    """Look up the rows of w (v, k) by ix (n, t)."""
    out = w[ix]  # (n, t, k)
    return out, (ix, w.shape)


def backward(dout: Array, cache: tuple[Any, ...]) -> Array:
    """Compute the gradient of the table; an index has none."""
    ix, shape = cache
    dw = np.zeros(shape)  # (v, k)
    np.add.at(dw, ix, dout)
    return dw


def inputs(rng: np.random.Generator) -> dict[str, Any]:
    """Draw 3 times 4 indices into a table of 5 rows, so that some come twice."""
    return {"ix": rng.integers(0, 5, size=(3, 4)), "w": rng.normal(size=(5, 2))}
