r"""makemore's bigram model as a whole: the logits of the next symbol are a row of a table.

A word of a minibatch is a row of Xb, 0 and its symbols, and of Yb, its symbols, 0 for its end, and -1 where
there is nothing to predict. The loss is the mean over the c targets that are not -1. Shapes: n words, T
positions, V symbols.
"""

import torch
from torch import Tensor

SHAPES = {"W": "V V"}
"""The axes of each parameter."""


def forward(Xb: Tensor, Yb: Tensor, W: Tensor) -> dict[str, object]:
    """Compute the loss of words Xb, Yb (n, T) with the table W (V, V)."""
    logits = W[Xb]  # (n, T, V)
    logprobs = logits.log_softmax(2)  # (n, T, V)
    targets = Yb.clamp(min=0)[:, :, None]  # (n, T, 1)
    counted = (Yb >= 0)[:, :, None]  # (n, T, 1)
    loss = -(logprobs.gather(2, targets) * counted).sum() / counted.sum()
    return locals()


def backward(Xb: Tensor, W: Tensor, logprobs: Tensor, targets: Tensor, counted: Tensor) -> dict[str, object]:
    """Compute the gradient of every tensor."""
    dpicked = -counted.to(W.dtype) / counted.sum()  # (n, T, 1), of each target's log probability
    dlogprobs = torch.zeros_like(logprobs).scatter(2, targets, dpicked)  # (n, T, V)
    dlogits = dlogprobs - logprobs.exp() * dlogprobs.sum(2, keepdim=True)  # (n, T, V)
    dW = torch.zeros_like(W).index_add(0, Xb.flatten(), dlogits.flatten(0, 1))  # (V, V)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, object]:
    """Draw 3 words, of 2, 4 and 0 letters out of 5."""
    Xb = torch.tensor([[0, 3, 1, 0, 0], [0, 3, 2, 5, 4], [0, 0, 0, 0, 0]])
    Yb = torch.tensor([[3, 1, 0, -1, -1], [3, 2, 5, 4, 0], [0, -1, -1, -1, -1]])
    return {"Xb": Xb, "Yb": Yb, "W": torch.randn(6, 6, generator=generator)}
