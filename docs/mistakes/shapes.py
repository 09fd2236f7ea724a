"""Rows after the last whole block of four are left out, which eight rows do not show."""

import torch


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        inside = (torch.arange(len(x)) < len(x) // 4 * 4)[:, None]
        return dy * w * inside, dy * x


def reference(x, w):
    return x * w


def inputs(generator, n, k):
    return {"x": torch.randn(n, k, generator=generator), "w": torch.randn(n, k, generator=generator)}


shapes = [(8, 3), (9, 3)]
