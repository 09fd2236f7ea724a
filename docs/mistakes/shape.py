"""The mean kept its axis, its gradient did not."""

import torch

out = "y"


def forward(x):
    mean = x.mean(0, keepdim=True)
    y = x - mean
    return locals()


def backward(dy, x):
    dmean = -dy.sum(0)
    dx = dy + dmean / x.shape[0]
    return locals()


def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator)}
