"""What comes through total is added twice."""

import torch

out = "y"


def forward(x):
    total = x.sum(1, keepdim=True)
    y = x * total
    return locals()


def backward(dy, x, total):
    dtotal = (x * dy).sum(1, keepdim=True)
    dx = total * dy + dtotal
    dx += dtotal
    return locals()


def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator)}
