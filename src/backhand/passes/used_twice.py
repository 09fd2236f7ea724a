r"""A value used twice receives two gradients, and its own is their sum. Shapes: n elements."""

import torch
from torch import Tensor

out = "y"


def forward(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Combine a and b (n,): a goes into p and q, and p into q and y."""
    p = a * b  # (n,)
    q = p - a  # (n,)
    y = p * q  # (n,)
    return locals()


def backward(dy: Tensor, a: Tensor, b: Tensor, p: Tensor, q: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dq = p * dy  # (n,)
    dp = q * dy + dq  # (n,), through y and q
    da = b * dp - dq  # (n,), through p and q
    db = a * dp  # (n,)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 elements."""
    return {"a": torch.randn(5, generator=generator), "b": torch.randn(5, generator=generator)}
