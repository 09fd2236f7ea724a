"""makemore's bigram model as a whole, fused: cross entropy in one line, and one row for each symbol.

The same model as `bigram_model`. All positions with one symbol have the same logits, a row of W, so that the
probabilities of V rows serve all of them: with c targets in all and count[s, y] of them y after s, the row's
gradient is (softmax(W[s]) sum_y count[s, y] - count[s]) / c. This replaces all lines of the backward of
`bigram_model`.
"""

import torch
from torch import Tensor


def forward(Xb: Tensor, Yb: Tensor, W: Tensor) -> dict[str, object]:
    """Compute the loss of words Xb, Yb (n, T) with the table W (V, V)."""
    V = len(W)
    logits = W[Xb]  # (n, T, V)
    pairs = (Xb * V + Yb)[Yb >= 0]  # (c,), of a symbol and its target
    count = torch.bincount(pairs, minlength=V * V).view(V, V).to(W.dtype)  # (V, V)
    logprobs = W.log_softmax(1)  # (V, V)
    loss = -(logprobs * count).sum() / count.sum()
    return locals()


def backward(count: Tensor, logprobs: Tensor) -> dict[str, object]:
    """Compute the gradient of the table."""
    dW = (logprobs.exp() * count.sum(1, keepdim=True) - count) / count.sum()  # (V, V)
    return locals()
