r"""The lecture's language model on several processes: each has a part of the minibatch, batch norm sees all.

The same model as `mlp_fused`. What is taken over the rows of the minibatch, a mean, a variance, and in the
backward the two sums of batch norm, is taken over those of all processes: each adds up its own rows, and
`summed` adds these sums up. That is what torch.nn.SyncBatchNorm does on GPUs, by hand and on any device.

**Where a sum belongs in the backward.** The loss is the sum of what each process contributes to it. Let a
process's sum be s_p, and S = sum_p s_p what `summed` gives to all of them. S goes into every process's part
of the loss, so dloss/ds_p = dloss/dS = sum_q (dloss_q/dS): the gradient of a sum over processes is a sum
over processes. With the names of `mlp_fused`, dbngain and dbnbias are such sums, and they are all that its
line for `dhprebn` needs of other rows.

The gradients of C, W1, b1, W2 and b2 are left as this process's part, so that who trains can add them up all
at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .mlp_fused import inputs as inputs  # the same

PARTS = ("C", "W1", "b1", "W2", "b2")
"""The parameters whose gradients are still to be added up."""


def alone(part: Tensor) -> Tensor:
    """Add up over one process."""
    return part


def forward(
    Xb: Tensor,
    Yb: Tensor,
    C: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    bngain: Tensor,
    bnbias: Tensor,
    n: int | None = None,
    summed: Callable[[Tensor], Tensor] = alone,
) -> dict[str, object]:
    """Compute this process's part of the loss of one minibatch.

    Args:
        Xb, Yb: this process's rows, m of them.
        C, W1, b1, W2, b2, bngain, bnbias: as in `mlp_fused.forward`, the same on all processes.
        n: the rows of all processes; by default m.
        summed: adds up a tensor over all processes.
    """
    n = n or Xb.shape[0]
    emb = C[Xb]  # (m, block_size, n_embd)
    embcat = emb.view(Xb.shape[0], -1)  # (m, block_size * n_embd)
    hprebn = embcat @ W1 + b1  # (m, n_hidden)
    bnmeani = summed(hprebn.sum(0, keepdim=True)) / n  # (1, n_hidden)
    bndiff = hprebn - bnmeani  # (m, n_hidden)
    bnvar = summed((bndiff**2).sum(0, keepdim=True)) / (n - 1)  # (1, n_hidden)
    bnvar_inv = (bnvar + 1e-5) ** -0.5  # (1, n_hidden)
    bnraw = bndiff * bnvar_inv  # (m, n_hidden)
    hpreact = bngain * bnraw + bnbias  # (m, n_hidden)
    h = torch.tanh(hpreact)  # (m, n_hidden)
    logits = h @ W2 + b2  # (m, vocabulary)
    loss = F.cross_entropy(logits, Yb, reduction="sum") / n  # ()
    return locals()


def backward(
    Xb: Tensor,
    Yb: Tensor,
    C: Tensor,
    W1: Tensor,
    W2: Tensor,
    bngain: Tensor,
    emb: Tensor,
    embcat: Tensor,
    bnvar_inv: Tensor,
    bnraw: Tensor,
    h: Tensor,
    logits: Tensor,
    n: int,
    summed: Callable[[Tensor], Tensor],
) -> dict[str, object]:
    """Compute the gradients: of bngain and bnbias the whole, of the other parameters this process's part."""
    dlogits = (F.softmax(logits, 1) - F.one_hot(Yb, logits.shape[1])) / n  # (m, vocabulary)
    dW2 = h.T @ dlogits  # (n_hidden, vocabulary)
    db2 = dlogits.sum(0)  # (vocabulary,)
    dh = dlogits @ W2.T  # (m, n_hidden)
    dhpreact = (1 - h**2) * dh  # (m, n_hidden)
    both = torch.stack([(bnraw * dhpreact).sum(0), dhpreact.sum(0)])  # (2, n_hidden)
    dbngain, dbnbias = summed(both).split(1)  # (1, n_hidden) each
    dhprebn = (
        bngain * bnvar_inv / n * (n * dhpreact - dbnbias - n / (n - 1) * bnraw * dbngain)
    )  # (m, n_hidden)
    dW1 = embcat.T @ dhprebn  # (block_size * n_embd, n_hidden)
    db1 = dhprebn.sum(0)  # (n_hidden,)
    dembcat = dhprebn @ W1.T  # (m, block_size * n_embd)
    demb = dembcat.view(emb.shape)  # (m, block_size, n_embd)
    dC = torch.zeros_like(C).index_add_(0, Xb.flatten(), demb.flatten(0, 1))  # (vocabulary, n_embd)
    return locals()
