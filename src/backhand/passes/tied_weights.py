r"""Tied weights (Press and Wolf 2017): one table reads the symbols in, and gives the logits out.

The table has two consumers at the two ends of the model, so that its gradient is complete only when the whole
backward is done. Shapes: n contexts of t symbols, v symbols, e features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def forward(tokens: Tensor, targets: Tensor, E: Tensor, W: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Compute the loss for tokens (n, t) and targets (n,), int64, with E (v, e), W (e, e) and b (e,)."""
    emb = E[tokens]  # (n, t, e)
    bag = emb.mean(1)  # (n, e)
    h = torch.tanh(bag @ W + b)  # (n, e)
    logits = h @ E.T  # (n, v)
    loss = F.cross_entropy(logits, targets)  # ()
    return locals()


def backward(
    tokens: Tensor, targets: Tensor, E: Tensor, W: Tensor, emb: Tensor, bag: Tensor, h: Tensor, logits: Tensor
) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    n, t = tokens.shape
    dlogits = (F.softmax(logits, 1) - F.one_hot(targets, len(E))) / n  # (n, v)
    dh = dlogits @ E  # (n, e)
    dE = dlogits.T @ h  # (v, e)
    dz = (1 - h**2) * dh  # (n, e), of tanh's argument
    dW = bag.T @ dz  # (e, e)
    db = dz.sum(0)  # (e,)
    dbag = dz @ W.T  # (n, e)
    demb = (dbag / t).unsqueeze(1).expand_as(emb)  # (n, t, e)
    dE += torch.zeros_like(E).index_add_(0, tokens.flatten(), demb.flatten(0, 1))
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 contexts of 3 symbols out of 7, with 4 features."""
    return {
        "tokens": torch.randint(0, 7, (5, 3), generator=generator),
        "targets": torch.randint(0, 7, (5,), generator=generator),
        "E": torch.randn(7, 4, generator=generator),
        "W": torch.randn(4, 4, generator=generator),
        "b": torch.randn(4, generator=generator),
    }
