r"""A linear layer: for z = x @ W only one product of dz with each factor has the right shape.

Shapes: n examples, sizes k and m.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, W: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Map x (n, k) by W (k, m) and b (m,)."""
    z = x @ W  # (n, m)
    y = z + b  # (n, m)
    return locals()


def backward(dy: Tensor, x: Tensor, W: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    db = dy.sum(0)  # (m,)
    dz = dy  # (n, m)
    dW = x.T @ dz  # (k, m)
    dx = dz @ W.T  # (n, k)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 examples, sizes 3 and 4."""
    return {
        "x": torch.randn(5, 3, generator=generator),
        "W": torch.randn(3, 4, generator=generator),
        "b": torch.randn(4, generator=generator),
    }
