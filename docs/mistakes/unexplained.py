"""Two lines, each with a slip of its own, make one gradient: neither slip alone explains it."""

import torch

out = "y"


def forward(x):
    s = torch.sigmoid(x)
    y = x * s
    return locals()


def backward(dy, x, s):
    slope = s * (1 - s) * x + s.square()
    dx = slope.sqrt() * dy
    return locals()


def inputs(generator):
    return {"x": torch.rand(4, 3, generator=generator)}
