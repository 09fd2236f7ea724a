"""An embedding averaged with weights that decay over time; its rows are gathered by two nested loops."""

import torch


def forward(tokens, C, W, decay, target):
    """Average the squared errors of a running mean over tokens (n, t), C (v, k), W (k, o), decay (k,)."""
    emb = C[tokens]  # (n, t, k)
    mean = torch.zeros(tokens.shape[0], C.shape[1])  # (n, k)
    means = []
    for t in range(tokens.shape[1]):
        means.append(mean)
        mean = decay * mean + (1 - decay) * emb[:, t]  # (n, k)
    y = mean @ W  # (n, o)
    loss = (y - target).square().mean()
    return {"emb": emb, "means": means, "mean": mean, "y": y, "loss": loss}


def backward(tokens, C, W, decay, target, emb, means, mean, y):
    """Compute the gradients of the inputs, the embedded tokens and every running mean."""
    n, steps = tokens.shape
    dy = 2 * (y - target) / y.numel()
    dtarget = -dy
    dW = mean.T @ dy
    dmean = dy @ W.T
    demb = torch.zeros_like(emb)
    ddecay = torch.zeros_like(decay)
    dmeans = []
    g = dmean.clone()
    for t in range(steps - 1, -1, -1):
        demb[:, t] = (1 - decay) * g
        ddecay += (g * means[t]).sum(0)
        ddecay -= (g * emb[:, t]).sum(0)
        g *= decay
        dmeans.append(g.clone())
    dmeans.reverse()
    dC = torch.zeros_like(C)
    for i in range(n):
        for t in range(steps):
            row = tokens[i, t]
            dC[row] += demb[i, t]
    return {
        "dC": dC, "dW": dW, "ddecay": ddecay, "dtarget": dtarget, "demb": demb, "dmean": dmean,
        "dmeans": dmeans, "dy": dy,
    }  # fmt: skip


def inputs(generator):
    """Draw 4 sequences of 3 tokens out of 5, with 2 features and 3 outputs."""
    return {
        "tokens": torch.randint(0, 5, (4, 3), generator=generator),
        "C": torch.randn(5, 2, generator=generator),
        "W": torch.randn(2, 3, generator=generator),
        "decay": torch.rand(2, generator=generator) * 0.5 + 0.25,
        "target": torch.randn(4, 3, generator=generator),
    }
