"""A mixture of experts: layers in a loop, each with weights of its own, mixed by a softmax over them."""

import torch


def forward(x, Wg, W1, W2, target):
    """Return half the mean squared error of x (n, k) through e experts W1 (e, k, h), W2 (e, h, o)."""
    gates = torch.softmax(x @ Wg, 1)  # (n, e)
    hidden, outs = [], []
    for e in range(W1.shape[0]):
        hidden.append(torch.tanh(x @ W1[e]))
        outs.append(hidden[e] @ W2[e])
    stacked = torch.stack(outs, 1)  # (n, e, o)
    y = (gates.unsqueeze(2) * stacked).sum(1)  # (n, o)
    error = y - target
    loss = 0.5 * (error * error).mean()
    return {"gates": gates, "hidden": hidden, "stacked": stacked, "error": error, "loss": loss}


def backward(x, Wg, W1, W2, gates, hidden, stacked, error):
    """Compute the gradients of the inputs; that of x has a branch through the gates and one an expert."""
    dy = error / error.numel()
    dtarget = -dy
    dgates = (dy.unsqueeze(1) * stacked).sum(2)
    dstacked = gates.unsqueeze(2) * dy.unsqueeze(1)
    dscores = gates * (dgates - (gates * dgates).sum(1, keepdim=True))
    dWg = x.T @ dscores
    dx = dscores @ Wg.T
    dW1, dW2 = torch.zeros_like(W1), torch.zeros_like(W2)
    for e in range(W1.shape[0]):
        dout = dstacked[:, e]
        dW2[e] = hidden[e].T @ dout
        dpre = (dout @ W2[e].T) * (1 - hidden[e] ** 2)
        dW1[e] = x.T @ dpre
        dx = dx + dpre @ W1[e].T
    return {"dx": dx, "dWg": dWg, "dW1": dW1, "dW2": dW2, "dtarget": dtarget}


def inputs(generator):
    """Draw 6 examples with 3 features, 2 experts of 4 units and 2 outputs."""
    shapes = {"x": (6, 3), "Wg": (3, 2), "W1": (2, 3, 4), "W2": (2, 4, 2), "target": (6, 2)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
