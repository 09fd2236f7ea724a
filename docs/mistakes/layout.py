"""The rows of dy are taken for packed, whatever its strides."""

import torch


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        packed = torch.as_strided(dy, dy.shape, (dy.shape[1], 1))
        return packed * w, packed * x


def reference(x, w):
    return x * w


def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator), "w": torch.randn(4, 3, generator=generator)}
