"""dx is made of dy, though x acts on y through e."""

import torch

out = "y"


def forward(x):
    e = x.exp()
    y = (1 + e).log()
    return locals()


def backward(dy, e):
    de = dy / (1 + e)
    dx = e * dy
    return locals()


def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator)}
