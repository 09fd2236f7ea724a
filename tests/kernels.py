"""Custom Functions that several tests check: a product with any backward, a layer norm, a lookup."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import Function


def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x * w


def operation(backward: Callable[..., Any]) -> type[Function]:
    class Product(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            return x * w

    Product.backward = staticmethod(lambda ctx, g: backward(g, *ctx.saved_tensors))
    return Product


def first(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    return g.reshape(-1)[0] * w, g.reshape(-1)[0] * x


class LayerNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        mu = x.mean(-1, keepdim=True)
        rstd = ((x - mu).square().mean(-1, keepdim=True) + 1e-5) ** -0.5
        xhat = (x - mu) * rstd
        ctx.save_for_backward(xhat, rstd, w)
        return xhat * w


class SumForMean(LayerNorm):
    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        xhat, rstd, w = ctx.saved_tensors
        g = dy * w
        c1 = g.mean(-1, keepdim=True)
        c2 = (g * xhat).sum(-1, keepdim=True)
        return rstd * (g - c1 - xhat * c2), (dy * xhat).sum(0)


class OneIsKept(Function):
    """Rows of a table; of those that repeated indices send back, one is kept."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.rows = len(table)
        return table[index]

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        dtable = dy.new_zeros(ctx.rows, dy.shape[-1])
        dtable[index] = dy
        return dtable, None
