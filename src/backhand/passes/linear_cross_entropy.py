r"""The mean cross entropy of a linear layer's logits, without ever holding the logits of all examples.

With probs = softmax(logits), dloss/dlogits is (probs - onehot) / n, as in `cross_entropy_fused`. All of it is
known as soon as a chunk of rows has its logits. So the forward makes that chunk's gradients on the spot, for
an upstream gradient of 1, and lets the logits go: as many products as two calls take, and one chunk in place
of all rows. The backward only scales (Hsu et al. 2024, "Liger Kernel"). It is for training: what the forward
costs, it costs in evaluation too.
Shapes: n examples of d features, v classes.
"""

import torch
from torch import Tensor

out = "loss"


def forward(x: Tensor, W: Tensor, targets: Tensor, rows: int = 128) -> dict[str, Tensor]:
    """Average -log softmax of the logits x @ W.T at the targets (n), for x (n, d) and W (v, d)."""
    n = x.shape[0]
    total = x.new_zeros(())
    with torch.no_grad():
        sum_dx = torch.empty_like(x)  # (n, d), of the sum of the losses, as is the next
        sum_dW = torch.zeros_like(W)  # (v, d)
    for i in range(0, n, rows):
        chunk, Y = x[i : i + rows], targets[i : i + rows, None]  # (rows, d), (rows, 1)
        logprobs = (chunk @ W.T).log_softmax(1)  # (rows, v)
        total = total - logprobs.gather(1, Y).sum()
        with torch.no_grad():
            dlogits = logprobs.exp()  # (rows, v): softmax
            dlogits.scatter_add_(1, Y, -torch.ones_like(dlogits[:, :1]))
            sum_dx[i : i + rows] = dlogits @ W
            sum_dW.addmm_(dlogits.T, chunk)
        del logprobs, dlogits  # before the next chunk has its own: two stand there at once, not four
    loss = total / n
    return {"loss": loss, "sum_dx": sum_dx, "sum_dW": sum_dW}


def backward(dloss: Tensor, sum_dx: Tensor, sum_dW: Tensor) -> dict[str, Tensor]:
    """Compute the gradients of the features and the weights."""
    share = dloss / sum_dx.shape[0]
    return {"dx": share * sum_dx, "dW": share * sum_dW}


def inputs(generator: torch.Generator) -> dict[str, object]:
    """Draw 7 examples of 4 features and 5 classes, 3 rows at a time, so that the last chunk is smaller."""
    return {
        "x": torch.randn(7, 4, generator=generator),
        "W": torch.randn(5, 4, generator=generator),
        "targets": torch.randint(0, 5, (7,), generator=generator),
        "rows": 3,
    }
