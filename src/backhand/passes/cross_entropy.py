r"""Mean cross entropy of a row of logits, with the maximum subtracted so that exp cannot overflow.

loss = mean_i(log sum_j exp(l_ij) - l_iy), so that dloss/dl = (softmax(l) - onehot(y)) / n; here one operation
a line, and the fused formula for comparison in `mlp_fused`. Shapes: n examples, which may
be several axes, of k classes.
"""

import torch
from torch import Tensor


def forward(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Compute the loss of logits (n, k) for targets (n,), int64."""
    maxes = logits.max(-1, keepdim=True).values  # (n, 1)
    shifted = logits - maxes  # (n, k)
    counts = shifted.exp()  # (n, k)
    total = counts.sum(-1, keepdim=True)  # (n, 1)
    log_total = total.log()  # (n, 1)
    logprobs = shifted - log_total  # (n, k)
    loss = -logprobs.gather(-1, targets.unsqueeze(-1)).mean()  # ()
    return locals()


def backward(
    logits: Tensor, targets: Tensor, counts: Tensor, total: Tensor, logprobs: Tensor
) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    n = targets.numel()
    dlogprobs = torch.zeros_like(logprobs)  # (n, k)
    dlogprobs.scatter_(-1, targets.unsqueeze(-1), -1 / n)
    dlog_total = -dlogprobs.sum(-1, keepdim=True)  # (n, 1)
    dtotal = dlog_total / total  # (n, 1)
    dcounts = dtotal.expand_as(counts)  # (n, k)
    dshifted = dlogprobs + counts * dcounts  # (n, k), through logprobs and counts
    dmaxes = -dshifted.sum(-1, keepdim=True)  # (n, 1), zero but for rounding
    dlogits = dshifted.clone()  # (n, k)
    dlogits.scatter_add_(-1, logits.argmax(-1, keepdim=True), dmaxes)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 6 examples of 5 classes."""
    return {
        "logits": torch.randn(6, 5, generator=generator),
        "targets": torch.randint(0, 5, (6,), generator=generator),
    }
