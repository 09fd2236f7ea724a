r"""Causal self-attention with several heads (Vaswani et al. 2017, section 3.2.2).

Queries, keys and values are made of one x by one product; each head takes its own block of columns, and what
the heads give is put side by side again. Shapes: b sequences, which may be several axes, of t positions, d
features, h heads of e = d / h.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, Wqkv: Tensor, Wo: Tensor, heads: int) -> dict[str, object]:
    """Attend from each position of x (b, t, d) to itself and those before; Wqkv (d, 3 d), Wo (d, d)."""
    t, d = x.shape[-2:]
    e = d // heads
    qkv = x @ Wqkv  # (b, t, 3 d)
    q, k, v = (part.unflatten(-1, (heads, e)).transpose(-3, -2) for part in qkv.split(d, -1))  # (b, h, t, e)
    later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)  # (t, t)
    scores = q @ k.mT / e**0.5  # (b, h, t, t)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)  # (b, h, t, t)
    mixed = weights @ v  # (b, h, t, e)
    joined = mixed.transpose(-3, -2).flatten(-2)  # (b, t, d)
    y = joined @ Wo  # (b, t, d)
    return locals()


def backward(
    dy: Tensor,
    x: Tensor,
    Wqkv: Tensor,
    Wo: Tensor,
    heads: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    joined: Tensor,
) -> dict[str, object]:
    """Compute the gradient of every tensor."""
    d = x.shape[-1]
    e = d // heads
    dWo = joined.reshape(-1, d).T @ dy.reshape(-1, d)  # (d, d)
    djoined = dy @ Wo.T  # (b, t, d)
    dmixed = djoined.unflatten(-1, (heads, e)).transpose(-3, -2)  # (b, h, t, e)
    dweights = dmixed @ v.mT  # (b, h, t, t)
    dv = weights.mT @ dmixed  # (b, h, t, e)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdim=True))  # (b, h, t, t)
    dq = dscores @ k / e**0.5  # (b, h, t, e)
    dk = dscores.mT @ q / e**0.5  # (b, h, t, e)
    dqkv = torch.cat([part.transpose(-3, -2).flatten(-2) for part in (dq, dk, dv)], -1)  # (b, t, 3 d)
    dWqkv = x.reshape(-1, d).T @ dqkv.reshape(-1, 3 * d)  # (d, 3 d)
    dx = dqkv @ Wqkv.T  # (b, t, d)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, object]:
    """Draw 3 sequences of 5 positions and 4 features, for 2 heads."""
    return {
        "x": torch.randn(3, 5, 4, generator=generator),
        "Wqkv": torch.randn(4, 12, generator=generator) * 0.7,
        "Wo": torch.randn(4, 4, generator=generator) * 0.7,
        "heads": 2,
    }
