"""A recurrent layer whose gradients stand in a dictionary from the first line on, with an embedding below."""

import torch
from torch.nn import functional as F


def forward(tokens, targets, C, W, U, b, V):
    """Average the cross entropy of every step; tokens and targets are (t, n), int64."""
    h = torch.zeros(tokens.shape[1], U.shape[0])  # (n, m)
    cache = []
    loss = 0.0
    for t in range(tokens.shape[0]):
        e = C[tokens[t]]  # (n, k)
        before = h
        h = torch.tanh(e @ W + h @ U + b)  # (n, m)
        logits = h @ V  # (n, o)
        loss = loss + F.cross_entropy(logits, targets[t]) / tokens.shape[0]
        cache.append((e, before, h, logits))
    return {"cache": cache, "loss": loss}


def backward(tokens, targets, C, W, U, b, V, cache):
    """Compute the gradients of the parameters."""
    grads = {
        "dC": torch.zeros_like(C),
        "dW": torch.zeros_like(W),
        "dU": torch.zeros_like(U),
        "db": torch.zeros_like(b),
        "dV": torch.zeros_like(V),
    }
    steps, n = tokens.shape
    dh_later = 0.0
    for t in range(steps)[::-1]:
        e, before, h, logits = cache[t]
        probs = logits.softmax(1)
        delta = (probs - F.one_hot(targets[t], V.shape[1])) / (n * steps)
        grads["dV"] += h.T @ delta
        dh = delta @ V.T + dh_later
        dpre = dh * (1 - h.square())
        grads["dW"] += e.T @ dpre
        grads["dU"] += before.T @ dpre
        grads["db"] += dpre.sum(0)
        grads["dC"].index_add_(0, tokens[t], dpre @ W.T)
        dh_later = dpre @ U.T
    return grads


def inputs(generator):
    """Draw 3 steps of 5 examples out of 4 tokens, with 3 features, 6 hidden and 4 output units."""
    return {
        "tokens": torch.randint(0, 4, (3, 5), generator=generator),
        "targets": torch.randint(0, 4, (3, 5), generator=generator),
        "C": torch.randn(4, 3, generator=generator),
        "W": torch.randn(3, 6, generator=generator) * 0.5,
        "U": torch.randn(6, 6, generator=generator) * 0.5,
        "b": torch.randn(6, generator=generator) * 0.5,
        "V": torch.randn(6, 4, generator=generator) * 0.5,
    }
