r"""Mean cross entropy in one go: dloss/dlogits = (softmax(logits) - onehot(targets)) / n.

For one row with the right class y, loss = log(sum_j exp(l_j)) - l_y, and differentiating by l_i leaves
exp(l_i) / sum_j exp(l_j) - [i = y]. This replaces the nine lines of `cross_entropy` (Karpathy, "makemore
part 4", exercise 2). Shapes: n examples, which may be several axes, of k classes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def forward(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Compute the loss of logits (n, k) for targets (n,), int64."""
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))  # ()
    return locals()


def backward(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of the logits."""
    n = targets.numel()
    dlogits = F.softmax(logits, -1)  # (n, k)
    dlogits -= F.one_hot(targets, logits.shape[-1])
    dlogits /= n
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 6 examples of 5 classes."""
    return {
        "logits": torch.randn(6, 5, generator=generator),
        "targets": torch.randint(0, 5, (6,), generator=generator),
    }
