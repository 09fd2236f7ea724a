"""Attention in blocks of keys with a running maximum; the backward makes the weights of each block again."""

import torch

out = "o"


def forward(q, k, v):
    """Return o (n, v) of q (n, k), k (m, k), v (m, v), two keys at a time, and what they add up to."""
    scale = q.shape[-1] ** -0.5
    top = torch.full((q.shape[0], 1), -torch.inf)  # (n, 1)
    total = torch.zeros(q.shape[0], 1)  # (n, 1)
    gathered = torch.zeros(q.shape[0], v.shape[1])  # (n, v)
    for j in range(0, k.shape[0], 2):
        scores = q @ k[j : j + 2].T * scale  # (n, 2)
        higher = torch.maximum(top, scores.max(1, keepdim=True).values.detach())
        p = torch.exp(scores - higher)
        kept = torch.exp(top - higher)
        total = kept * total + p.sum(1, keepdim=True)
        gathered = kept * gathered + p @ v[j : j + 2]
        top = higher
    o = gathered / total  # (n, v)
    lse = (top + torch.log(total)).detach()  # (n, 1)
    return {"lse": lse, "o": o}


def backward(do, q, k, v, o, lse):
    """Compute the gradients of the inputs, a block of keys at a time."""
    scale = q.shape[-1] ** -0.5
    delta = (do * o).sum(1, keepdim=True)
    dq = torch.zeros_like(q)
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    for j in range(0, k.shape[0], 2):
        p = torch.exp(q @ k[j : j + 2].T * scale - lse)
        dv[j : j + 2] = p.T @ do
        dp = do @ v[j : j + 2].T
        ds = p * (dp - delta) * scale
        dk[j : j + 2] = ds.T @ q
        dq += ds @ k[j : j + 2]
    return {"dq": dq, "dk": dk, "dv": dv}


def inputs(generator):
    """Draw 3 queries and 6 keys of 4 features, values of 5."""
    shapes = {"q": (3, 4), "k": (6, 4), "v": (6, 5)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
