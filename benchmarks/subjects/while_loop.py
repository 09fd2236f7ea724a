"""A recurrent layer with ReLU and a loss at the last step only, backward in a `while` loop."""

import torch


def forward(x, W, U, b, v):
    """Average the squared score of the last state; x is (t, n, k), v (m,)."""
    h = torch.zeros(x.shape[1], U.shape[0])  # (n, m)
    hs, pres = [h], []
    for xt in x:
        pre = xt @ W + h @ U + b  # (n, m)
        h = torch.relu(pre) + 0.1 * pre  # (n, m)
        pres.append(pre)
        hs.append(h)
    score = h @ v  # (n,)
    loss = score.square().mean()
    return {"hs": hs, "pres": pres, "score": score, "loss": loss}


def backward(x, W, U, b, v, hs, pres, score):
    """Compute the gradients of the inputs and the score."""
    dscore = 2 * score / score.shape[0]
    dv = hs[-1].T @ dscore
    dh = torch.outer(dscore, v)
    dW = torch.zeros_like(W)
    dU = torch.zeros_like(U)
    db = torch.zeros_like(b)
    dx = torch.empty_like(x)
    t = len(pres) - 1
    while t >= 0:
        slope = (pres[t] > 0) + 0.1
        dpre = slope * dh
        dW += x[t].T @ dpre
        dU += hs[t].T @ dpre
        db += dpre.sum(dim=0)
        dx[t] = dpre @ W.T
        dh = dpre @ U.T
        t -= 1
    return {"dx": dx, "dW": dW, "dU": dU, "db": db, "dv": dv, "dscore": dscore}


def inputs(generator):
    """Draw 4 steps of 3 examples with 2 features and 5 units."""
    return {
        "x": torch.randn(4, 3, 2, generator=generator),
        "W": torch.randn(2, 5, generator=generator),
        "U": torch.randn(5, 5, generator=generator) * 0.5,
        "b": torch.randn(5, generator=generator),
        "v": torch.randn(5, generator=generator),
    }
