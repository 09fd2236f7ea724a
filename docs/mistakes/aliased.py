"""dx and dcentered are one tensor: completing dx changes dcentered as well."""

import torch

out = "y"


def forward(x):
    mean = x.mean(0, keepdim=True)
    centered = x - mean
    y = centered**2
    return locals()


def backward(dy, x, centered):
    dcentered = 2 * centered * dy
    dmean = -dcentered.sum(0, keepdim=True)
    dx = dcentered
    dx += dmean / x.shape[0]
    return locals()


def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator)}
