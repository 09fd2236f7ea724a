"""x acts on y directly and through total: what comes through total is forgotten."""

import torch

out = "y"


def forward(x):
    total = x.sum(1, keepdim=True)
    y = x * total
    return locals()


def backward(dy, x, total):
    dtotal = (x * dy).sum(1, keepdim=True)
    dx = total * dy
    return locals()


def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator)}
