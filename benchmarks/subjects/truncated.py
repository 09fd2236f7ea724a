"""Truncated backward through time: two chunks, between which the state is passed on but no gradient."""

import torch

out = "ys"
CHUNK = 2


def forward(x, W, U, b):
    """Return the states ys (t, n, m) of x (t, n, k); every second step begins with a detached state."""
    h = torch.zeros(x.shape[1], U.shape[0])  # (n, m)
    before, hs = [], []
    for t in range(x.shape[0]):
        if t % CHUNK == 0:
            h = h.detach()
        before.append(h)
        h = torch.tanh(x[t] @ W + h @ U + b)  # (n, m)
        hs.append(h)
    return {"before": before, "hs": hs, "ys": torch.stack(hs)}


def backward(dys, x, W, U, b, before, hs):
    """Compute the gradients of the inputs."""
    dW = torch.zeros_like(W)
    dU = torch.zeros_like(U)
    db = torch.zeros_like(b)
    dx = torch.zeros_like(x)
    for start in range(0, len(hs), CHUNK):
        dnext = torch.zeros_like(hs[0])
        for t in reversed(range(start, start + CHUNK)):
            dh = dys[t].clone()
            dh += dnext
            dpre = dh - dh * hs[t] ** 2
            dW += x[t].T @ dpre
            dU += before[t].T @ dpre
            db += dpre.sum(0)
            dx[t] += dpre @ W.T
            dnext = dpre @ U.T
    return {"dW": dW, "dU": dU, "db": db, "dx": dx}


def inputs(generator):
    """Draw 4 steps of 3 examples with 2 features and 5 units."""
    return {
        "x": torch.randn(4, 3, 2, generator=generator),
        "W": torch.randn(2, 5, generator=generator) * 0.5,
        "U": torch.randn(5, 5, generator=generator) * 0.5,
        "b": torch.randn(5, generator=generator) * 0.5,
    }
