r"""GELU in its tanh form (Hendrycks and Gimpel 2016, section 2) after a linear layer.

y = z / 2 * (1 + tanh(u)), u = c (z + 0.044715 z ** 3), c = sqrt(2 / pi). Shapes: n examples, which
may be several axes, sizes k and m.
"""

import math

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, W: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Apply a linear layer W (k, m), b (m,) to x (n, k), then GELU."""
    c = math.sqrt(2 / math.pi)
    z = x @ W + b  # (n, m)
    u = c * (z + 0.044715 * z**3)  # (n, m)
    t = torch.tanh(u)  # (n, m)
    y = 0.5 * z * (1 + t)  # (n, m)
    return locals()


def backward(dy: Tensor, x: Tensor, W: Tensor, z: Tensor, t: Tensor, c: float) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dt = 0.5 * z * dy  # (n, m)
    du = (1 - t**2) * dt  # (n, m)
    dz = 0.5 * (1 + t) * dy + c * (1 + 3 * 0.044715 * z**2) * du  # (n, m), directly and through u
    dW = x.reshape(-1, x.shape[-1]).T @ dz.reshape(-1, dz.shape[-1])  # (k, m)
    db = dz.reshape(-1, dz.shape[-1]).sum(0)  # (m,)
    dx = dz @ W.T  # (n, k)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 examples, sizes 3 and 4."""
    return {
        "x": torch.randn(5, 3, generator=generator),
        "W": torch.randn(3, 4, generator=generator),
        "b": torch.randn(4, generator=generator),
    }
