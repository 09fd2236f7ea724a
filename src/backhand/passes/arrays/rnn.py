"""A recurrent layer over time (Elman 1990), its backward through time, in the order of CS231n: (n, t, k)."""

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
    """Run over x (n, t, k) from the state h0 (n, m); return all states."""
    h = np.zeros((*x.shape[:2], len(Wh)))  # (n, t, m)
    state = h0
    for t in range(x.shape[1]):
        state = np.tanh(x[:, t] @ Wx + state @ Wh + b)  # (n, m)
        h[:, t] = state
    return h, (x, h0, Wx, Wh, h)


def backward(dh: Array, cache: tuple[Array, ...]) -> tuple[Array, ...]:
    """Compute the gradients of the input, the first state and the weights."""
    x, h0, Wx, Wh, h = cache
    dx = np.zeros_like(x)  # (n, t, k)
    dWx = np.zeros_like(Wx)  # (k, m)
    dWh = np.zeros_like(Wh)  # (m, m)
    db = np.zeros(len(Wh))  # (m,)
    dh0 = np.zeros_like(h0)  # (n, m), at each turn what the next time sends back
    for t in reversed(range(x.shape[1])):
        before = h[:, t - 1] if t > 0 else h0  # (n, m)
        dpre = (1 - h[:, t] ** 2) * (dh[:, t] + dh0)  # (n, m)
        db += dpre.sum(axis=0)
        dWx += x[:, t].T @ dpre
        dWh += before.T @ dpre
        dx[:, t] = dpre @ Wx.T
        dh0 = dpre @ Wh.T
    return dx, dh0, dWx, dWh, db


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 3 examples of 4 times and 2 features, for 5 units."""
    shapes = {"x": (3, 4, 2), "h0": (3, 5), "Wx": (2, 5), "Wh": (5, 5), "b": (5,)}
    return {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}
