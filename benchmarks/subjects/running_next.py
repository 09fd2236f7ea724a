"""A character-level recurrent net on vectors: what the next step sends back runs along as `dhnext`."""

import torch


def forward(x, Wxh, Whh, bh, Why, by, targets):
    """Sum the cross entropy of every step; x is (t, k), the state (m,)."""
    h = torch.zeros(Whh.shape[0])  # (m,)
    hs, logits = [], []
    for t in range(x.shape[0]):
        h = torch.tanh(Wxh @ x[t] + Whh @ h + bh)  # (m,)
        hs.append(h)
        logits.append(Why @ h + by)  # (o,)
    loss = torch.nn.functional.cross_entropy(torch.stack(logits), targets, reduction="sum")
    return {"hs": hs, "logits": logits, "loss": loss}


def backward(x, Wxh, Whh, bh, Why, by, targets, hs, logits):
    """Compute the gradients of the inputs."""
    dWxh, dWhh, dWhy = torch.zeros_like(Wxh), torch.zeros_like(Whh), torch.zeros_like(Why)
    dbh, dby = torch.zeros_like(bh), torch.zeros_like(by)
    dx = torch.zeros_like(x)
    dhnext = torch.zeros_like(hs[0])
    for t in reversed(range(len(hs))):
        dy = torch.softmax(logits[t], 0)
        dy[targets[t]] -= 1
        dWhy += torch.outer(dy, hs[t])
        dby += dy
        dh = Why.T @ dy + dhnext
        dhraw = (1 - hs[t] * hs[t]) * dh
        dbh += dhraw
        dWxh += torch.outer(dhraw, x[t])
        if t > 0:
            dWhh += torch.outer(dhraw, hs[t - 1])
        dx[t] = Wxh.T @ dhraw
        dhnext = Whh.T @ dhraw
    return {"dx": dx, "dWxh": dWxh, "dWhh": dWhh, "dWhy": dWhy, "dbh": dbh, "dby": dby}


def inputs(generator):
    """Draw 4 steps with 3 features, 5 hidden and 6 output units."""

    def normal(*shape):
        return torch.randn(*shape, generator=generator) * 0.5

    return {
        "x": normal(4, 3),
        "Wxh": normal(5, 3),
        "Whh": normal(5, 5),
        "bh": normal(5),
        "Why": normal(6, 5),
        "by": normal(6),
        "targets": torch.randint(0, 6, (4,), generator=generator),
    }
