r"""The mean cross entropy of a linear layer's logits, without ever holding the logits of all examples.

A chunk of rows at a time, the forward keeps only the log-sum-exp of the logits; the backward makes them
again, turns them into softmax - onehot, as in `cross_entropy_fused`, and adds up dW before the next chunk. So
what is held beside inputs and gradients is one chunk, at the price of one more product in four.
Shapes: n examples of d features, v classes.
"""

import torch
from torch import Tensor

out = "loss"


def forward(x: Tensor, W: Tensor, targets: Tensor, rows: int = 128) -> dict[str, object]:
    """Average -log softmax of the logits x @ W.T at the targets (n), for x (n, d) and W (v, d)."""
    n = x.shape[0]
    lse = x.new_empty(n)  # (n,)
    right = x.new_empty(n)  # (n,)
    for i in range(0, n, rows):
        logits = x[i : i + rows] @ W.T  # (rows, v)
        right[i : i + rows] = logits.gather(1, targets[i : i + rows, None])[:, 0]
        lse[i : i + rows] = logits.logsumexp(1)
    loss = (lse - right).mean()
    return {"loss": loss, "lse": lse, "rows": rows}


def backward(
    dloss: Tensor, x: Tensor, W: Tensor, targets: Tensor, lse: Tensor, rows: int
) -> dict[str, Tensor]:
    """Compute the gradients of the features and the weights."""
    n = x.shape[0]
    share = dloss / n
    dx = torch.empty_like(x)  # (n, d)
    dW = torch.zeros_like(W)  # (v, d)
    for i in range(0, n, rows):
        chunk = x[i : i + rows]  # (rows, d)
        dlogits = (chunk @ W.T).sub_(lse[i : i + rows, None]).exp_()  # (rows, v): softmax
        dlogits[torch.arange(len(chunk), device=x.device), targets[i : i + rows]] -= 1  # times n / dloss
        dx[i : i + rows] = share * (dlogits @ W)
        dW.addmm_(dlogits.T, share * chunk)
    return {"dx": dx, "dW": dW}


def inputs(generator: torch.Generator) -> dict[str, object]:
    """Draw 7 examples of 4 features and 5 classes, 3 rows at a time, so that the last chunk is smaller."""
    return {
        "x": torch.randn(7, 4, generator=generator),
        "W": torch.randn(5, 4, generator=generator),
        "targets": torch.randint(0, 5, (7,), generator=generator),
        "rows": 3,
    }
