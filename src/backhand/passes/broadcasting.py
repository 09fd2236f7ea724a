r"""Broadcasting forward is summing backward: a number used in k places receives k gradients.

Shapes: n examples of k features.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, scale: Tensor, shift: Tensor, level: Tensor) -> dict[str, Tensor]:
    """Scale the columns of x (n, k) by scale (1, k), add shift (k,), subtract level (n, 1)."""
    scaled = x * scale  # (n, k)
    shifted = scaled + shift  # (n, k)
    y = shifted - level  # (n, k)
    return locals()


def backward(dy: Tensor, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dlevel = -dy.sum(1, keepdim=True)  # (n, 1)
    dshifted = dy  # (n, k)
    dshift = dshifted.sum(0)  # (k,)
    dscaled = dshifted  # (n, k)
    dscale = (x * dscaled).sum(0, keepdim=True)  # (1, k)
    dx = scale * dscaled  # (n, k)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 examples of 3 features."""
    return {
        "x": torch.randn(5, 3, generator=generator),
        "scale": torch.randn(1, 3, generator=generator),
        "shift": torch.randn(3, generator=generator),
        "level": torch.randn(5, 1, generator=generator),
    }
