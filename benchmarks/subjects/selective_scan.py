"""A selective scan: each channel's state decays by a step size that softplus makes, and is read out."""

import torch
from torch.nn import functional as F

out = "y"


def forward(u, delta, A, B, C, D):
    """Return y (n, t, k) of u (n, t, k), delta (n, t, k), A (k, s), B and C (n, t, s), D (k,)."""
    dt = F.softplus(delta)  # (n, t, k)
    h = torch.zeros(u.shape[0], u.shape[2], A.shape[1])  # (n, k, s)
    hs, ys = [], []
    for t in range(u.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)  # (n, k, s)
        h = decay * h + dt[:, t, :, None] * B[:, t, None, :] * u[:, t, :, None]  # (n, k, s)
        hs.append(h)
        ys.append((h * C[:, t, None, :]).sum(-1))
    y = torch.stack(ys, 1) + u * D  # (n, t, k)
    return {"dt": dt, "hs": hs, "y": y}


def backward(dy, u, delta, A, B, C, D, dt, hs):
    """Compute the gradients of the inputs and of the step sizes, which two lines add up."""
    du = dy * D
    dD = (dy * u).sum((0, 1))
    ddt = torch.zeros_like(dt)
    dA = torch.zeros_like(A)
    dB, dC = torch.zeros_like(B), torch.zeros_like(C)
    dh = torch.zeros_like(hs[0])
    for t in range(u.shape[1] - 1, -1, -1):
        dC[:, t] = (dy[:, t, :, None] * hs[t]).sum(1)
        dh = dh + dy[:, t, :, None] * C[:, t, None, :]
        before = hs[t - 1] if t > 0 else torch.zeros_like(hs[0])
        decay = torch.exp(dt[:, t, :, None] * A)
        ddecay = dh * before * decay
        dA += (ddecay * dt[:, t, :, None]).sum(0)
        ddt[:, t] += (ddecay * A).sum(-1)
        ddt[:, t] += (dh * B[:, t, None, :]).sum(-1) * u[:, t]
        dB[:, t] = (dh * dt[:, t, :, None] * u[:, t, :, None]).sum(1)
        du[:, t] += (dh * B[:, t, None, :]).sum(-1) * dt[:, t]
        dh = dh * decay
    ddelta = ddt * torch.sigmoid(delta)
    return {"du": du, "ddelta": ddelta, "dA": dA, "dB": dB, "dC": dC, "dD": dD, "ddt": ddt}


def inputs(generator):
    """Draw 2 sequences of 4 steps, 3 channels with 2 states each, which decay."""
    shapes = {"u": (2, 4, 3), "delta": (2, 4, 3), "B": (2, 4, 2), "C": (2, 4, 2), "D": (3,)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**drawn, "A": -torch.rand(3, 2, generator=generator) - 0.3}
