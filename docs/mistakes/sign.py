"""b is subtracted, but its gradient has no minus."""

import torch

out = "y"


def forward(a, b):
    y = a - b
    return locals()


def backward(dy):
    da = dy.clone()
    db = dy.clone()
    return locals()


def inputs(generator):
    return {"a": torch.randn(4, 3, generator=generator), "b": torch.randn(4, 3, generator=generator)}
