r"""A neuron: a weighted sum, and tanh of it. tanh'(z) = 1 - tanh(z) ** 2, made of the value that is saved.

Shapes: n examples of k inputs.
"""

import torch
from torch import Tensor

out = "h"


def forward(x: Tensor, w: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Compute what the neuron with w (1, k) and b (1,) makes of x (n, k)."""
    products = w * x  # (n, k)
    z = products.sum(1) + b  # (n,)
    h = torch.tanh(z)  # (n,)
    return locals()


def backward(dh: Tensor, x: Tensor, w: Tensor, products: Tensor, z: Tensor, h: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dz = (1 - h**2) * dh  # (n,)
    db = dz.sum(0, keepdim=True)  # (1,)
    dproducts = dz.unsqueeze(1).expand_as(products)  # (n, k)
    dw = (x * dproducts).sum(0, keepdim=True)  # (1, k)
    dx = w * dproducts  # (n, k)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 6 examples of 4 inputs."""
    return {
        "x": torch.randn(6, 4, generator=generator),
        "w": torch.randn(1, 4, generator=generator),
        "b": torch.randn(1, generator=generator),
    }
