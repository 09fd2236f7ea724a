"""The mean cross entropy of scores and labels; it ends in a number, whose own upstream gradient is 1."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backhand.passes.arrays.kinds import Array


def forward(x: Array, y: NDArray[np.int64]) -> tuple[np.float64, tuple[Any, ...]]:
    """Compare scores x (n, k) with labels y (n,)."""
    counts = np.exp(x - x.max(axis=1, keepdims=True))  # (n, k)
    probs = counts / counts.sum(axis=1, keepdims=True)  # (n, k)
    loss = -np.log(probs[np.arange(len(x)), y]).mean()
    return loss, (probs, y)


def backward(cache: tuple[Any, ...]) -> Array:
    """Compute the gradient of the scores: the probabilities, less 1 at the label, by n."""
    probs, y = cache
    n = len(y)
    dx = probs.copy()  # (n, k)
    dx[np.arange(n), y] -= 1
    dx /= n
    return dx


def inputs(rng: np.random.Generator) -> dict[str, Any]:
    """Draw 4 examples of 5 scores."""
    return {"x": rng.normal(size=(4, 5)), "y": rng.integers(0, 5, size=4)}
