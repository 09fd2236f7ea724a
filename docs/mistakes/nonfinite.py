"""y / x stands for the gain, and is 0 / 0 where x is zero."""

import torch

out = "y"


def forward(x, gain):
    y = x * gain
    return locals()


def backward(dy, x, gain, y):
    dx = y / x * dy
    dgain = (x * dy).sum(0)
    return locals()


def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator).relu(), "gain": torch.randn(3, generator=generator)}
