"""An LSTM over time (Hochreiter and Schmidhuber 1997); gates: input, forget, output, new value."""

import numpy as np

from backhand.passes.arrays.kinds import Array


def forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
    """Run over x (n, t, k) from the state h0 (n, m) and empty cells; return all states."""
    n, times, _ = x.shape
    m = len(Wh)
    h = np.zeros((n, times, m))  # (n, t, m)
    c = np.zeros((n, times + 1, m))  # (n, t + 1, m), the first before all times
    gates = np.zeros((n, times, 4 * m))  # (n, t, 4 m)
    state = h0
    for t in range(times):
        pre = x[:, t] @ Wx + state @ Wh + b  # (n, 4 m)
        squashed = 1 / (1 + np.exp(-pre[:, : 3 * m]))  # (n, 3 m)
        gates[:, t] = np.concatenate([squashed, np.tanh(pre[:, 3 * m :])], axis=1)
        i, f, o, g = np.split(gates[:, t], 4, axis=1)  # (n, m) each
        c[:, t + 1] = f * c[:, t] + i * g
        state = o * np.tanh(c[:, t + 1])  # (n, m)
        h[:, t] = state
    return h, (x, h0, Wx, Wh, h, c, gates)


def backward(dh: Array, cache: tuple[Array, ...]) -> tuple[Array, ...]:
    """Compute the gradients of the input, the first state and the weights."""
    x, h0, Wx, Wh, h, c, gates = cache
    dx = np.zeros_like(x)  # (n, t, k)
    dWx = np.zeros_like(Wx)  # (k, 4 m)
    dWh = np.zeros_like(Wh)  # (m, 4 m)
    db = np.zeros(Wx.shape[1])  # (4 m,)
    dh0 = np.zeros_like(h0)  # (n, m), at each turn what the next time sends back
    dcell = np.zeros_like(h0)  # (n, m), likewise
    for t in reversed(range(x.shape[1])):
        before = h[:, t - 1] if t > 0 else h0  # (n, m)
        i, f, o, g = np.split(gates[:, t], 4, axis=1)
        squashed = np.tanh(c[:, t + 1])  # (n, m)
        dstate = dh[:, t] + dh0  # (n, m)
        dcell = dcell + dstate * o * (1 - squashed**2)
        opened = [dcell * g, dcell * c[:, t], dstate * squashed]  # what reaches the three gates
        dpre = [d * s * (1 - s) for d, s in zip(opened, (i, f, o), strict=True)]
        darrived = np.concatenate([*dpre, dcell * i * (1 - g**2)], axis=1)  # (n, 4 m)
        db += darrived.sum(axis=0)
        dWx += x[:, t].T @ darrived
        dWh += before.T @ darrived
        dx[:, t] = darrived @ Wx.T
        dh0 = darrived @ Wh.T
        dcell = dcell * f
    return dx, dh0, dWx, dWh, db


def inputs(rng: np.random.Generator) -> dict[str, Array]:
    """Draw 3 examples of 4 times and 2 features, for 5 units."""
    shapes = {"x": (3, 4, 2), "h0": (3, 5), "Wx": (2, 20), "Wh": (5, 20), "b": (20,)}
    return {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}
