r"""RMS norm (Zhang and Sennrich 2019, equation 4): layer norm without the mean.

With D = gain * dy and r = (mean(x ** 2) + eps) ** -1/2: dx = r * D - x * r ** 3 * mean(D * x).
Shapes: n rows of k features; n may be several axes.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, gain: Tensor, eps: float = 1e-6) -> dict[str, Tensor]:
    """Divide each row of x (n, k) by its root mean square, then scale it by gain (k,)."""
    ms = x.square().mean(-1, keepdim=True)  # (n, 1)
    r = torch.rsqrt(ms + eps)  # (n, 1)
    normed = x * r  # (n, k)
    y = normed * gain  # (n, k)
    return locals()


def backward(dy: Tensor, x: Tensor, gain: Tensor, r: Tensor, normed: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dgain = (dy * normed).reshape(-1, dy.shape[-1]).sum(0)  # (k,)
    dnormed = dy * gain  # (n, k)
    dr = (dnormed * x).sum(-1, keepdim=True)  # (n, 1)
    dms = -0.5 * r**3 * dr  # (n, 1)
    dx = r * dnormed  # (n, k), directly
    dx += 2 * x / x.shape[-1] * dms  # (n, k), through ms
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 4 rows of 6 features."""
    return {
        "x": torch.randn(4, 6, generator=generator),
        "gain": torch.randn(6, generator=generator),
    }
