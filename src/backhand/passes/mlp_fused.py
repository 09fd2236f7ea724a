r"""The lecture's language model, fused: cross entropy in one line and batch norm in one line.

The same model as `mlp_chunked`, with the two stretches of its backward that simplify on paper taken in one go
(Karpathy, "makemore part 4", exercises 2 to 4). Shapes: n examples, `vocabulary` symbols, sizes n_embd and
n_hidden.

**Cross entropy.** For one row with the right answer y, loss = log(sum_j exp(l_j)) - l_y, and so

    dloss/dl_i = exp(l_i) / sum_j exp(l_j) - [i = y] = softmax(l)_i - [i = y],

divided by n because the loss is the mean over the rows. This replaces the lines of `mlp_chunked.backward`
from `dlogprobs` to `dlogits` (logprobs, probs, counts_sum_inv, counts_sum, counts, norm_logits, logit_maxes,
logits).

**Batch norm.** Down one column, with D = dhpreact, mean m, unbiased variance v (divisor n - 1), s = (v +
eps)^-1/2 and xhat_i = (x_i - m) s, each x_i acts on all xhat_j of its column, three ways:

    dxhat_j/dx_i = s [i = j]                       directly
                 - s / n                           through m
                 - s xhat_i xhat_j / (n - 1)       through v, as dv/dx_i = 2 (x_i - m) / (n - 1) and ds/dv =
                 -s^3 / 2

(what m contributes to v vanishes, since the x_i - m add up to zero). Contracting with bngain * D gives

    dx_i = bngain s / n * (n D_i - sum_j D_j - n / (n - 1) xhat_i sum_j D_j xhat_j),

and the two sums are dbnbias and dbngain, which are needed anyway. This replaces the lines of
`mlp_chunked.backward` from `dbnraw` to `dhprebn` (bnraw, bnvar_inv, bnvar, bndiff2, bndiff, bnmeani, hprebn).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


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
) -> dict[str, Tensor]:
    """Compute the loss of one minibatch; arguments and loss as in `mlp_chunked.forward`."""
    n = Xb.shape[0]
    emb = C[Xb]  # (n, block_size, n_embd)
    embcat = emb.view(n, -1)  # (n, block_size * n_embd)
    hprebn = embcat @ W1 + b1  # (n, n_hidden)
    bnmeani = hprebn.mean(0, keepdim=True)  # (1, n_hidden)
    bnvar = hprebn.var(0, keepdim=True, correction=1)  # (1, n_hidden), Bessel's correction: n - 1
    bnvar_inv = (bnvar + 1e-5) ** -0.5  # (1, n_hidden)
    bnraw = (hprebn - bnmeani) * bnvar_inv  # (n, n_hidden)
    hpreact = bngain * bnraw + bnbias  # (n, n_hidden)
    h = torch.tanh(hpreact)  # (n, n_hidden)
    logits = h @ W2 + b2  # (n, vocabulary)
    loss = F.cross_entropy(logits, Yb)  # ()
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
) -> dict[str, Tensor]:
    """Compute the gradients of the parameters, and of the few tensors on the way that are still needed.

    Returns:
        `d` + name for logits, h, hpreact, hprebn, embcat, emb and the seven parameters, each shaped as its
        tensor.
    """
    n = Xb.shape[0]
    # (n, vocabulary): cross entropy in one line
    dlogits = (F.softmax(logits, 1) - F.one_hot(Yb, logits.shape[1])) / n
    dW2 = h.T @ dlogits  # (n_hidden, vocabulary)
    db2 = dlogits.sum(0)  # (vocabulary,)
    dh = dlogits @ W2.T  # (n, n_hidden)
    dhpreact = (1 - h**2) * dh  # (n, n_hidden)
    dbngain = (bnraw * dhpreact).sum(0, keepdim=True)  # (1, n_hidden)
    dbnbias = dhpreact.sum(0, keepdim=True)  # (1, n_hidden)
    # (n, n_hidden): batch norm in one line
    dhprebn = bngain * bnvar_inv / n * (n * dhpreact - dbnbias - n / (n - 1) * bnraw * dbngain)
    dW1 = embcat.T @ dhprebn  # (block_size * n_embd, n_hidden)
    db1 = dhprebn.sum(0)  # (n_hidden,)
    dembcat = dhprebn @ W1.T  # (n, block_size * n_embd)
    demb = dembcat.view(emb.shape)  # (n, block_size, n_embd)
    dC = torch.zeros_like(C).index_add_(0, Xb.flatten(), demb.flatten(0, 1))  # (vocabulary, n_embd)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a minibatch of 32 and parameters of the lecture's size: 10 embedding and 64 hidden units.

    The biases and the gain are not at their usual 0 and 1, which would hide mistakes.
    """
    n, block_size, vocabulary, n_embd, n_hidden = 32, 3, 27, 10, 64

    def normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
        return torch.empty(shape).normal_(mean, std, generator=generator)

    return {
        "Xb": torch.randint(0, vocabulary, (n, block_size), generator=generator),
        "Yb": torch.randint(0, vocabulary, (n,), generator=generator),
        "C": normal(vocabulary, n_embd),
        "W1": normal(block_size * n_embd, n_hidden, std=0.3),
        "b1": normal(n_hidden, std=0.1),
        "W2": normal(n_hidden, vocabulary, std=0.1),
        "b2": normal(vocabulary, std=0.1),
        "bngain": normal(1, n_hidden, mean=1.0, std=0.1),
        "bnbias": normal(1, n_hidden, std=0.1),
    }
