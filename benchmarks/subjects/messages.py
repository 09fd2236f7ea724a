"""Two rounds of messages along the edges of a graph, added up where they arrive; an absolute error."""

import torch


def forward(x, W, U, source, target, wanted):
    """Return the mean absolute error of nodes x (v, k) after messages through W and U (k, k)."""
    h, rounds = x, []
    for _ in range(2):
        sent = h[source] @ W  # (e, k)
        arrived = torch.zeros_like(h).index_add(0, target, sent)  # (v, k)
        pre = arrived + h @ U  # (v, k)
        rounds.append((h, pre))
        h = torch.relu(pre)
    error = h - wanted
    loss = error.abs().mean()
    return {"rounds": rounds, "error": error, "loss": loss}


def backward(x, W, U, source, target, error, rounds):
    """Compute the gradients of the inputs, the last round first."""
    derror = torch.sign(error) / error.numel()
    dwanted = -derror
    dh = derror
    dW, dU = torch.zeros_like(W), torch.zeros_like(U)
    for h, pre in reversed(rounds):
        dpre = dh * (pre > 0)
        dU += h.T @ dpre
        dsent = dpre[target]
        dW += h[source].T @ dsent
        dh = dpre @ U.T
        dh = dh.index_add(0, source, dsent @ W.T)
    dx = dh
    return {"dx": dx, "dW": dW, "dU": dU, "dwanted": dwanted}


def inputs(generator):
    """Draw 5 nodes with 3 features and 7 edges."""
    shapes = {"x": (5, 3), "W": (3, 3), "U": (3, 3), "wanted": (5, 3)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    ends = {"source": [0, 1, 2, 3, 4, 0, 2], "target": [1, 2, 0, 4, 3, 3, 4]}
    return drawn | {name: torch.tensor(nodes) for name, nodes in ends.items()}
