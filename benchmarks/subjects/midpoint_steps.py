"""A differential equation solved by midpoint steps, whose field the backward makes again in each step."""

import torch


def forward(start, W, b, step=0.1):
    """Return the mean square of the state after 5 steps from start (n, k) along tanh(y W + b)."""
    y, ys = start, []
    for _ in range(5):
        ys.append(y)
        field = torch.tanh(y @ W + b)
        middle = y + 0.5 * step * field
        field_there = torch.tanh(middle @ W + b)
        y = y + step * field_there
    loss = (y**2).mean()
    return {"ys": ys, "end": y, "loss": loss}


def backward(start, W, b, ys, end, step=0.1):
    """Compute the gradients of the inputs; each parameter is used twice a step."""
    adjoint = 2 * end / end.numel()
    dW, db = torch.zeros_like(W), torch.zeros_like(b)
    for y in ys[::-1]:
        field = torch.tanh(y @ W + b)
        middle = y + 0.5 * step * field
        field_there = torch.tanh(middle @ W + b)
        dthere = step * adjoint * (1 - field_there**2)
        dW += middle.T @ dthere
        db += dthere.sum(0)
        dmiddle = dthere @ W.T
        dhere = 0.5 * step * dmiddle * (1 - field**2)
        dW += y.T @ dhere
        db += dhere.sum(0)
        adjoint = adjoint + dmiddle + dhere @ W.T
    dstart = adjoint
    return {"dstart": dstart, "dW": dW, "db": db}


def inputs(generator):
    """Draw 4 states of 3 numbers."""
    shapes = {"start": (4, 3), "W": (3, 3), "b": (3,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
