"""A loop over blocks of two rows leaves out the last row of five."""

import torch

out = "y"


def forward(x):
    y = x**2
    return locals()


def backward(dy, x):
    dx = torch.zeros_like(x)
    for start in range(0, len(x) - 1, 2):
        block = slice(start, start + 2)
        dx[block] = 2 * x[block] * dy[block]
    return locals()


def inputs(generator):
    return {"x": torch.randn(5, 3, generator=generator)}
