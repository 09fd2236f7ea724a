"""The likelihood of tags in a chain: two passes, and messages that autograd never makes."""

import torch


def forward(emit, trans, tags):
    """Return minus the log likelihood of tags (t,) from scores emit (t, k) and trans (k, k)."""
    n = emit.shape[0]
    score = emit[torch.arange(n), tags].sum() + trans[tags[:-1], tags[1:]].sum()
    alphas = [emit[0]]
    for i in range(1, n):
        alphas.append(torch.logsumexp(alphas[-1][:, None] + trans, 0) + emit[i])
    total = torch.logsumexp(alphas[-1], 0)
    loss = total - score
    return {"alphas": alphas, "total": total, "loss": loss}


def backward(emit, trans, tags, alphas, total):
    """Compute the gradients, marginals less what is seen."""
    n, k = emit.shape
    demit, dtrans = torch.zeros_like(emit), torch.zeros_like(trans)
    beta = torch.zeros(k)
    for i in range(n - 1, -1, -1):
        demit[i] += torch.exp(alphas[i] + beta - total)
        demit[i, tags[i]] -= 1
        if i > 0:
            dtrans += torch.exp(alphas[i - 1][:, None] + trans + emit[i] + beta - total)
            dtrans[tags[i - 1], tags[i]] -= 1
            beta = torch.logsumexp(trans + emit[i] + beta, 1)
    return {"demit": demit, "dtrans": dtrans}


def inputs(generator):
    """Draw 4 steps of 3 tags."""
    drawn = {
        name: torch.randn(shape, generator=generator) for name, shape in (("emit", (4, 3)), ("trans", (3, 3)))
    }
    return {**drawn, "tags": torch.tensor([0, 2, 1, 1])}
