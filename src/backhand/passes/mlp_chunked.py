r"""The lecture's language model, chunked: one operation a line, and 26 gradients written by hand.

Model: embedding, linear, batch norm, tanh, linear, cross entropy (Karpathy, "makemore part 4: becoming a
backprop ninja", exercise 1; batch norm is Ioffe and Szegedy 2015, section 3, with Bessel's correction).

Shapes: n examples of block_size symbols; vocabulary symbols; sizes n_embd and n_hidden.

Every line of `backward` is one rule, applied to one line of `forward`, with D standing for the upstream
gradient:

    y = a * b         da = b * D, db = a * D; where an operand was broadcast, sum D over those axes (keepdim)
    y = a - b         da = D, db = -D
    y = x.sum(axis)   dx = D, expanded back over the axis: the mirror of broadcasting
    y = x ** p        dx = p * x ** (p - 1) * D
    y = exp(x)        dx = y * D
    y = log(x)        dx = D / x
    y = tanh(x)       dx = (1 - y ** 2) * D
    y = x.max(axis)   dx = D where the maximum was found, zero elsewhere
    y = x @ w + b     dx = D @ w.T, dw = x.T @ D, db = D.sum(0)
    y = C[i]          dC[i] accumulates D: a row that was used k times receives k gradients

A tensor with several consumers receives the sum of their gradients: `counts` feeds `counts_sum` and `probs`,
`norm_logits`' source `logits` feeds `logit_maxes` too, `bndiff` feeds `bndiff2` and `bnraw`, `hprebn` feeds
`bnmeani` and `bndiff`. Each of them is assigned where its first gradient is known and added to where the
second one is.
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
    """Compute the loss of one minibatch, one operation a line.

    Args:
        Xb: contexts, int64 of shape (n, block_size).
        Yb: the symbol that follows each, int64 of shape (n,).
        C: embedding, (vocabulary, n_embd).
        W1, b1: first layer, (block_size * n_embd, n_hidden) and (n_hidden,).
        W2, b2: second layer, (n_hidden, vocabulary) and (vocabulary,).
        bngain, bnbias: of batch norm, each (1, n_hidden).

    Returns:
        Every tensor by its name; `loss` is the mean cross entropy in nats, of shape ().
    """
    n = Xb.shape[0]
    # embedding and first layer
    emb = C[Xb]  # (n, block_size, n_embd)
    embcat = emb.view(n, -1)  # (n, block_size * n_embd)
    hprebn = embcat @ W1 + b1  # (n, n_hidden)
    # batch norm
    bnmeani = 1 / n * hprebn.sum(0, keepdim=True)  # (1, n_hidden)
    bndiff = hprebn - bnmeani  # (n, n_hidden)
    bndiff2 = bndiff**2  # (n, n_hidden)
    bnvar = 1 / (n - 1) * bndiff2.sum(0, keepdim=True)  # (1, n_hidden), Bessel's correction: n - 1
    bnvar_inv = (bnvar + 1e-5) ** -0.5  # (1, n_hidden)
    bnraw = bndiff * bnvar_inv  # (n, n_hidden)
    hpreact = bngain * bnraw + bnbias  # (n, n_hidden)
    # non-linearity and second layer
    h = torch.tanh(hpreact)  # (n, n_hidden)
    logits = h @ W2 + b2  # (n, vocabulary)
    # cross entropy
    logit_maxes = logits.max(1, keepdim=True).values  # (n, 1)
    norm_logits = logits - logit_maxes  # (n, vocabulary), so that exp cannot overflow
    counts = norm_logits.exp()  # (n, vocabulary)
    counts_sum = counts.sum(1, keepdim=True)  # (n, 1)
    counts_sum_inv = counts_sum**-1  # (n, 1)
    probs = counts * counts_sum_inv  # (n, vocabulary)
    logprobs = probs.log()  # (n, vocabulary)
    loss = -logprobs[torch.arange(n, device=Xb.device), Yb].mean()  # ()
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
    bndiff: Tensor,
    bnvar: Tensor,
    bnvar_inv: Tensor,
    bnraw: Tensor,
    h: Tensor,
    logits: Tensor,
    counts: Tensor,
    counts_sum: Tensor,
    counts_sum_inv: Tensor,
    probs: Tensor,
) -> dict[str, Tensor]:
    """Compute the gradient of the loss with respect to each of the 26 tensors, last line of `forward` first.

    Returns:
        `d` + name for every tensor, each with the shape and dtype of its tensor.
    """
    n = Xb.shape[0]
    # cross entropy
    dlogprobs = torch.zeros_like(probs)  # (n, vocabulary)
    dlogprobs[torch.arange(n, device=Xb.device), Yb] = -1 / n
    dprobs = dlogprobs / probs  # (n, vocabulary)
    dcounts_sum_inv = (counts * dprobs).sum(1, keepdim=True)  # (n, 1), broadcast along the row
    dcounts = counts_sum_inv * dprobs  # (n, vocabulary), first of two branches
    dcounts_sum = -(counts_sum**-2) * dcounts_sum_inv  # (n, 1)
    dcounts += dcounts_sum  # second branch, through counts_sum
    dnorm_logits = counts * dcounts  # (n, vocabulary)
    dlogit_maxes = -dnorm_logits.sum(1, keepdim=True)  # (n, 1), zero but for rounding: shifts change nothing
    dlogits = dnorm_logits.clone()  # (n, vocabulary), first of two branches
    dlogits += F.one_hot(logits.argmax(1), logits.shape[1]) * dlogit_maxes  # second, through logit_maxes
    # second layer and non-linearity
    dW2 = h.T @ dlogits  # (n_hidden, vocabulary)
    db2 = dlogits.sum(0)  # (vocabulary,)
    dh = dlogits @ W2.T  # (n, n_hidden)
    dhpreact = (1 - h**2) * dh  # (n, n_hidden)
    # batch norm
    dbngain = (bnraw * dhpreact).sum(0, keepdim=True)  # (1, n_hidden)
    dbnbias = dhpreact.sum(0, keepdim=True)  # (1, n_hidden)
    dbnraw = bngain * dhpreact  # (n, n_hidden)
    dbnvar_inv = (bndiff * dbnraw).sum(0, keepdim=True)  # (1, n_hidden)
    dbndiff = bnvar_inv * dbnraw  # (n, n_hidden), first of two branches
    dbnvar = -0.5 * (bnvar + 1e-5) ** -1.5 * dbnvar_inv  # (1, n_hidden)
    dbndiff2 = (1 / (n - 1) * dbnvar).expand_as(bndiff)  # (n, n_hidden): a sum reaches every summand
    dbndiff += 2 * bndiff * dbndiff2  # second branch, through bndiff2
    dbnmeani = -dbndiff.sum(0, keepdim=True)  # (1, n_hidden)
    dhprebn = dbndiff.clone()  # (n, n_hidden), first of two branches; clone: dbndiff keeps its own value
    dhprebn += 1 / n * dbnmeani  # second branch, through bnmeani
    # first layer and embedding
    dW1 = embcat.T @ dhprebn  # (block_size * n_embd, n_hidden)
    db1 = dhprebn.sum(0)  # (n_hidden,), zero but for rounding: batch norm subtracts any bias again
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
