r"""A product: each factor receives the other one times the upstream gradient. Shapes: n elements."""

import torch
from torch import Tensor

out = "y"


def forward(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Multiply a and b (n,) element by element."""
    y = a * b  # (n,)
    return locals()


def backward(dy: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Compute the gradients of both factors."""
    da = b * dy  # (n,)
    db = a * dy  # (n,)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 elements."""
    return {"a": torch.randn(5, generator=generator), "b": torch.randn(5, generator=generator)}
