"""The upstream gradient is changed in place; whoever else reads it reads something else."""

import torch

out = "y"


def forward(x, gain):
    y = x * gain
    return locals()


def backward(dy, x, gain):
    dgain = (x * dy).sum(0)
    dx = dy.mul_(gain)
    return locals()


def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator), "gain": torch.randn(3, generator=generator)}
