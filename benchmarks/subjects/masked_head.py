"""Straight code: ReLU, dropout by a given mask, a fused cross entropy over the batch, a weight penalty."""

import torch
from torch.nn import functional as F


def forward(x, targets, keep, W1, b1, W2, b2, p=0.25, strength=0.1):
    """Average the cross entropy of x (n, k) with a penalty on both weights; keep is a mask (n, m)."""
    pre = x @ W1 + b1  # (n, m)
    h = torch.relu(pre)  # (n, m)
    dropped = h * keep / (1 - p)  # (n, m)
    logits = dropped @ W2 + b2  # (n, o)
    penalty = strength * (W1.square().sum() + W2.square().sum())  # ()
    loss = F.cross_entropy(logits, targets) + penalty  # ()
    return locals()


def backward(x, targets, keep, W1, b1, W2, b2, pre, dropped, logits, p, strength):
    """Compute the gradient of every tensor."""
    n = x.shape[0]
    dlogits = F.softmax(logits, 1)
    dlogits[range(n), targets] -= 1
    dlogits /= n
    dW2 = dropped.T @ dlogits
    dW2 += 2 * strength * W2
    db2 = dlogits.sum(0)
    ddropped = dlogits @ W2.T
    dh = ddropped * keep / (1 - p)
    dpre = dh * (pre > 0)
    dW1 = x.T @ dpre + 2 * strength * W1
    db1 = dpre.sum(0)
    dx = dpre @ W1.T
    return locals()


def inputs(generator):
    """Draw 6 examples with 3 features, 5 hidden and 4 output units."""
    return {
        "x": torch.randn(6, 3, generator=generator),
        "targets": torch.randint(0, 4, (6,), generator=generator),
        "keep": (torch.rand(6, 5, generator=generator) > 0.25),
        "W1": torch.randn(3, 5, generator=generator),
        "b1": torch.randn(5, generator=generator),
        "W2": torch.randn(5, 4, generator=generator),
        "b2": torch.randn(4, generator=generator),
    }
