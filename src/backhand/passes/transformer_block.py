r"""A block of a transformer, layer norm first as in GPT-2 (Radford et al. 2019, section 2.3).

Two branches add to what passes by: attention (`multi_head_attention`) and two linear layers with a ReLU, each
behind a layer norm (`layer_norm`). What is added to passes its gradient on as it is, and adds what the branch
sends back. Shapes: b sequences of t positions, d features, h heads of e = d / h, f = 4 d units.
"""

import torch
from torch import Tensor

out = "y"


def forward(
    x: Tensor,
    gain1: Tensor,
    bias1: Tensor,
    Wqkv: Tensor,
    Wo: Tensor,
    gain2: Tensor,
    bias2: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    heads: int,
) -> dict[str, object]:
    """Compute the block for x (b, t, d), with Wqkv (d, 3 d), Wo (d, d), W1 (d, f) and W2 (f, d)."""
    b, t, d = x.shape
    e = d // heads
    inv_std1 = (x.var(-1, keepdim=True, correction=0) + 1e-5) ** -0.5  # (b, t, 1)
    xhat1 = (x - x.mean(-1, keepdim=True)) * inv_std1  # (b, t, d)
    norm1 = gain1 * xhat1 + bias1  # (b, t, d)
    qkv = norm1 @ Wqkv  # (b, t, 3 d)
    q, k, v = (part.reshape(b, t, heads, e).transpose(1, 2) for part in qkv.split(d, 2))  # (b, h, t, e) each
    later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)  # (t, t)
    scores = q @ k.mT / e**0.5  # (b, h, t, t)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)  # (b, h, t, t)
    joined = (weights @ v).transpose(1, 2).flatten(2)  # (b, t, d)
    middle = x + joined @ Wo  # (b, t, d), a residual connection
    inv_std2 = (middle.var(-1, keepdim=True, correction=0) + 1e-5) ** -0.5  # (b, t, 1)
    xhat2 = (middle - middle.mean(-1, keepdim=True)) * inv_std2  # (b, t, d)
    norm2 = gain2 * xhat2 + bias2  # (b, t, d)
    z = norm2 @ W1 + b1  # (b, t, f)
    a = z.relu()  # (b, t, f)
    y = middle + a @ W2 + b2  # (b, t, d), the other one
    return locals()


def backward(
    dy: Tensor,
    x: Tensor,
    gain1: Tensor,
    Wqkv: Tensor,
    Wo: Tensor,
    gain2: Tensor,
    W1: Tensor,
    W2: Tensor,
    heads: int,
    inv_std1: Tensor,
    xhat1: Tensor,
    norm1: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    joined: Tensor,
    inv_std2: Tensor,
    xhat2: Tensor,
    norm2: Tensor,
    z: Tensor,
    a: Tensor,
) -> dict[str, object]:
    """Compute the gradient of every tensor, but for those that layer norm in one line steps over."""
    b, t, d = x.shape
    e = d // heads
    db2 = dy.sum((0, 1))  # (d,)
    dW2 = a.flatten(0, 1).T @ dy.flatten(0, 1)  # (f, d)
    da = dy @ W2.T  # (b, t, f)
    dz = (z > 0) * da  # (b, t, f)
    db1 = dz.sum((0, 1))  # (f,)
    dW1 = norm2.flatten(0, 1).T @ dz.flatten(0, 1)  # (d, f)
    dnorm2 = dz @ W1.T  # (b, t, d)
    dbias2 = dnorm2.sum((0, 1))  # (d,)
    dgain2 = (xhat2 * dnorm2).sum((0, 1))  # (d,)
    dxhat2 = gain2 * dnorm2  # (b, t, d)
    along2 = (xhat2 * dxhat2).mean(-1, keepdim=True)  # (b, t, 1)
    # (b, t, d), past the branch and through it
    dmiddle = dy + inv_std2 * (dxhat2 - dxhat2.mean(-1, keepdim=True) - xhat2 * along2)
    dWo = joined.flatten(0, 1).T @ dmiddle.flatten(0, 1)  # (d, d)
    djoined = dmiddle @ Wo.T  # (b, t, d)
    apart = djoined.reshape(b, t, heads, e).transpose(1, 2)  # (b, h, t, e), head by head
    dweights = apart @ v.mT  # (b, h, t, t)
    dv = weights.mT @ apart  # (b, h, t, e)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdim=True))  # (b, h, t, t)
    dq = dscores @ k / e**0.5  # (b, h, t, e)
    dk = dscores.mT @ q / e**0.5  # (b, h, t, e)
    dqkv = torch.cat([part.transpose(1, 2).flatten(2) for part in (dq, dk, dv)], 2)  # (b, t, 3 d)
    dWqkv = norm1.flatten(0, 1).T @ dqkv.flatten(0, 1)  # (d, 3 d)
    dnorm1 = dqkv @ Wqkv.T  # (b, t, d)
    dbias1 = dnorm1.sum((0, 1))  # (d,)
    dgain1 = (xhat1 * dnorm1).sum((0, 1))  # (d,)
    dxhat1 = gain1 * dnorm1  # (b, t, d)
    along1 = (xhat1 * dxhat1).mean(-1, keepdim=True)  # (b, t, 1)
    # (b, t, d), past the branch and through it
    dx = dmiddle + inv_std1 * (dxhat1 - dxhat1.mean(-1, keepdim=True) - xhat1 * along1)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, object]:
    """Draw 3 sequences of 5 positions and 4 features, for 2 heads and 16 units."""
    return {
        "x": torch.randn(3, 5, 4, generator=generator),
        "gain1": torch.randn(4, generator=generator),
        "bias1": torch.randn(4, generator=generator),
        "Wqkv": torch.randn(4, 12, generator=generator) * 0.7,
        "Wo": torch.randn(4, 4, generator=generator) * 0.7,
        "gain2": torch.randn(4, generator=generator),
        "bias2": torch.randn(4, generator=generator),
        "W1": torch.randn(4, 16, generator=generator) * 0.7,
        "b1": torch.randn(16, generator=generator),
        "W2": torch.randn(16, 4, generator=generator) * 0.7,
        "b2": torch.randn(4, generator=generator),
        "heads": 2,
    }
