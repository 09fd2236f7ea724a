r"""Layer norm (Ba, Kiros and Hinton 2016, section 3), its backward fused into one line.

Along one row of k features, with D = gain * dy, xhat = (x - mean) * inv_std and the biased variance,

    dx = inv_std * (D - mean(D) - xhat * mean(D * xhat)):

directly, through the mean, and through the variance. Shapes: any leading axes, k features.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> dict[str, Tensor]:
    """Normalise the last axis of x (b, t, k), then scale and shift it by gain and bias (k,)."""
    mean = x.mean(-1, keepdim=True)  # (b, t, 1)
    var = x.var(-1, keepdim=True, correction=0)  # (b, t, 1), divisor k
    inv_std = (var + eps).rsqrt()  # (b, t, 1)
    xhat = (x - mean) * inv_std  # (b, t, k)
    y = xhat * gain + bias  # (b, t, k)
    return locals()


def backward(dy: Tensor, gain: Tensor, xhat: Tensor, inv_std: Tensor) -> dict[str, Tensor]:
    """Compute the gradients of the three inputs and of xhat."""
    dbias = dy.reshape(-1, dy.shape[-1]).sum(0)  # (k,)
    dgain = (dy * xhat).reshape(-1, dy.shape[-1]).sum(0)  # (k,)
    dxhat = dy * gain  # (b, t, k)
    dx = dxhat - dxhat.mean(-1, keepdim=True) - xhat * (dxhat * xhat).mean(-1, keepdim=True)  # (b, t, k)
    dx = dx * inv_std
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 2 x 3 rows of 5 features."""
    return {
        "x": torch.randn(2, 3, 5, generator=generator),
        "gain": torch.randn(5, generator=generator),
        "bias": torch.randn(5, generator=generator),
    }
