r"""Batch norm of a minibatch (Ioffe and Szegedy 2015, section 3), the biased variance, one operation a line.

Shapes: n examples of k features. The variance that normalises has divisor n; Bessel's n - 1 is for the
running one.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> dict[str, Tensor]:
    """Normalise each column of x (n, k), then scale and shift it by gain and bias (k,)."""
    n = x.shape[0]
    mean = x.sum(0, keepdim=True) / n  # (1, k)
    centered = x - mean  # (n, k)
    squares = centered**2  # (n, k)
    var = squares.sum(0, keepdim=True) / n  # (1, k), divisor n
    inv_std = (var + eps) ** -0.5  # (1, k)
    xhat = centered * inv_std  # (n, k)
    y = gain * xhat + bias  # (n, k)
    return locals()


def backward(
    dy: Tensor, x: Tensor, gain: Tensor, centered: Tensor, inv_std: Tensor, xhat: Tensor
) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    n = x.shape[0]
    dbias = dy.sum(0)  # (k,)
    dgain = (xhat * dy).sum(0)  # (k,)
    dxhat = gain * dy  # (n, k)
    dinv_std = (centered * dxhat).sum(0, keepdim=True)  # (1, k)
    dcentered = inv_std * dxhat  # (n, k), first of two branches
    dvar = -0.5 * inv_std**3 * dinv_std  # (1, k)
    dsquares = (dvar / n).expand_as(centered)  # (n, k)
    dcentered += 2 * centered * dsquares  # through squares
    dmean = -dcentered.sum(0, keepdim=True)  # (1, k)
    dx = dcentered + dmean / n  # (n, k)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 7 examples of 4 features."""
    return {
        "x": torch.randn(7, 4, generator=generator),
        "gain": torch.randn(4, generator=generator),
        "bias": torch.randn(4, generator=generator),
    }
