"""A product with any backward as a custom Function, as the tests of Functions check it."""

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
