r"""A bag of words: token and position embeddings, averaged over a context, squared error against a target.

A row of the table that is read k times receives k gradients. Shapes: n contexts of t tokens, e features.
"""

import torch
from torch import Tensor


def forward(tokens: Tensor, target: Tensor, table: Tensor, positions: Tensor) -> dict[str, Tensor]:
    """Compute the mean squared error of the bags for tokens (n, t), int64, table (v, e), positions (t, e)."""
    word = table[tokens]  # (n, t, e)
    both = word + positions  # (n, t, e)
    bag = both.mean(1)  # (n, e)
    error = bag - target  # (n, e)
    loss = error.square().mean()  # ()
    return locals()


def backward(tokens: Tensor, table: Tensor, both: Tensor, error: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    n, t = tokens.shape
    derror = 2 * error / error.numel()  # (n, e)
    dbag = derror.clone()  # (n, e)
    dtarget = -derror  # (n, e)
    dboth = (dbag / t).unsqueeze(1).expand_as(both)  # (n, t, e)
    dpositions = dboth.sum(0)  # (t, e)
    dword = dboth.clone()  # (n, t, e)
    dtable = torch.zeros_like(table)  # (v, e)
    dtable.index_add_(0, tokens.flatten(), dword.flatten(0, 1))
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 contexts of 3 tokens out of 7, with 4 features."""
    return {
        "tokens": torch.randint(0, 7, (5, 3), generator=generator),
        "target": torch.randn(5, 4, generator=generator),
        "table": torch.randn(7, 4, generator=generator),
        "positions": torch.randn(3, 4, generator=generator),
    }
