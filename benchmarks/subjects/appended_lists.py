"""A recurrent layer whose gradients are appended, last step first, and turned round at the end."""

import torch

out = "hs"


def forward(x, W, U, b):
    """Return the states hs (t, n, m) of x (t, n, k), and what tanh was taken of."""
    state = torch.zeros(x.shape[1], U.shape[0])  # (n, m)
    pres, states = [], []
    for xt in x:
        pre = xt @ W + state @ U + b  # (n, m)
        state = torch.tanh(pre)  # (n, m)
        pres.append(pre)
        states.append(state)
    hs = torch.stack(states)  # (t, n, m)
    return {"pres": pres, "states": states, "hs": hs}


def backward(dhs, x, W, U, b, states):
    """Compute the gradients of every step, the weights and the input."""
    dpres, dstates, dxs = [], [], []
    dW, dU = torch.zeros_like(W), torch.zeros_like(U)
    later = torch.zeros_like(states[0])
    for t in reversed(range(len(states))):
        dstate = dhs[t] + later
        dpre = dstate * (1 - states[t] ** 2)
        later = dpre @ U.T
        dstates.append(dstate)
        dpres.append(dpre)
        dxs.append(dpre @ W.T)
        dW += x[t].T @ dpre
        if t > 0:
            dU += states[t - 1].T @ dpre
    dpres.reverse()
    dstates = dstates[::-1]
    dx = torch.stack(dxs[::-1])
    db = torch.stack(dpres).sum((0, 1))
    return {"dpres": dpres, "dstates": dstates, "dx": dx, "dW": dW, "dU": dU, "db": db}


def inputs(generator):
    """Draw 3 steps of 4 examples with 2 features and 5 units."""
    return {
        "x": torch.randn(3, 4, 2, generator=generator),
        "W": torch.randn(2, 5, generator=generator) * 0.5,
        "U": torch.randn(5, 5, generator=generator) * 0.5,
        "b": torch.randn(5, generator=generator) * 0.5,
    }
