"""The loss is a mean over n numbers, and the n is forgotten."""

import torch


def forward(x):
    squared = x**2
    loss = squared.mean()
    return locals()


def backward(x):
    dsquared = torch.ones_like(x)
    dx = 2 * x * dsquared
    return locals()


def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator)}
