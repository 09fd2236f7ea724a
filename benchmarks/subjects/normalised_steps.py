"""A linear layer and batch norm, each step a line of the backward, of which only the ends are returned."""

import torch

out = "y"


def forward(x, w, gain, bias):
    """Return y (n, k) of x (n, m) and w (m, k)."""
    z = x @ w
    centred = z - z.mean(0)
    std = torch.sqrt((centred**2).mean(0) + 1e-5)
    inv = 1 / std
    xhat = centred * inv
    y = gain * xhat + bias
    return locals()


def backward(dy, x, w, gain, centred, std, inv, xhat):
    """Compute the gradients of the inputs."""
    n = dy.shape[0]
    dbias = dy.sum(0)
    dgain = (dy * xhat).sum(0)
    dxhat = dy * gain
    dinv = (dxhat * centred).sum(0)
    dcentred = dxhat * inv
    dstd = -dinv / std**2
    dvar = 0.5 / std * dstd
    dsquares = torch.ones_like(dy) / n * dvar
    dcentred2 = 2 * centred * dsquares
    dmean = -(dcentred + dcentred2).sum(0)
    dz = dcentred + dcentred2 + torch.ones_like(dy) / n * dmean
    dw = x.T @ dz
    dx = dz @ w.T
    return {"dx": dx, "dw": dw, "dgain": dgain, "dbias": dbias}


def inputs(generator):
    """Draw 6 examples of 3 features, 4 units."""
    shapes = {"x": (6, 3), "w": (3, 4), "gain": (4,), "bias": (4,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
