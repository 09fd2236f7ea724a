r"""Causal softmax attention (Vaswani et al. 2017, section 3.2.1).

The backward of a softmax row p with upstream gradient D is p * (D - sum(p * D)). Shapes: b sequences of t
positions, d features of queries and keys, e of values; b may be several axes, such as examples and heads.
"""

import math

import torch
from torch import Tensor

out = "y"


def forward(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Attend with q and k (b, t, d) to v (b, t, e), each position to itself and those before it."""
    t, d = q.shape[-2:]
    scale = 1 / math.sqrt(d)
    mask = torch.ones(t, t, dtype=torch.bool, device=q.device).tril()  # (t, t)
    scores = scale * (q @ k.transpose(-2, -1))  # (b, t, t)
    masked = scores.masked_fill(~mask, float("-inf"))  # (b, t, t)
    weights = masked.softmax(-1)  # (b, t, t)
    y = weights @ v  # (b, t, e)
    return locals()


def backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, weights: Tensor, mask: Tensor, scale: float
) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dv = weights.transpose(-2, -1) @ dy  # (b, t, e)
    dweights = dy @ v.transpose(-2, -1)  # (b, t, t)
    row = (weights * dweights).sum(-1, keepdim=True)  # (b, t, 1)
    dmasked = weights * (dweights - row)  # (b, t, t)
    dscores = dmasked * mask  # (b, t, t)
    dq = scale * dscores @ k  # (b, t, d)
    dk = scale * dscores.transpose(-2, -1) @ q  # (b, t, d)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 2 sequences of 5 positions."""
    return {
        "q": torch.randn(2, 5, 4, generator=generator),
        "k": torch.randn(2, 5, 4, generator=generator),
        "v": torch.randn(2, 5, 3, generator=generator),
    }
