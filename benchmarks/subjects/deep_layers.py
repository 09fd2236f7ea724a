"""A loop over layers rather than time: a residual stream, rows normalised, gradients in lists."""

import torch


def forward(x, target, Ws, gains):
    """Average the squared error of x (n, k) after the layers Ws, gains (layers, k, k) and (layers, k)."""
    stream = x
    norms, hiddens, inverses = [], [], []
    for W, gain in zip(Ws, gains, strict=True):
        inverse = (stream.square().mean(1, keepdim=True) + 1e-5).rsqrt()  # (n, 1)
        norm = stream * inverse  # (n, k)
        hidden = torch.tanh((gain * norm) @ W)  # (n, k)
        stream = stream + hidden  # (n, k)
        inverses.append(inverse)
        norms.append(norm)
        hiddens.append(hidden)
    error = stream - target  # (n, k)
    loss = error.square().mean()
    return {"inverses": inverses, "norms": norms, "hiddens": hiddens, "error": error, "loss": loss}


def backward(x, target, Ws, gains, inverses, norms, hiddens, error):
    """Compute the gradients of the inputs, the layers' norms and their hidden values."""
    derror = 2 * error / error.numel()
    dtarget = -derror
    dWs, dgains = torch.zeros_like(Ws), torch.zeros_like(gains)
    dnorms, dhiddens = [None] * len(norms), [None] * len(norms)
    dstream = derror.clone()
    for i in range(len(norms) - 1, -1, -1):
        dhidden = dstream.clone()
        dpre = (1 - hiddens[i] ** 2) * dhidden
        dscaled = dpre @ Ws[i].T
        dWs[i] = (gains[i] * norms[i]).T @ dpre
        dgains[i] = (norms[i] * dscaled).sum(0)
        dnorm = gains[i] * dscaled
        row = (norms[i] * dnorm).mean(1, keepdim=True)
        dstream += inverses[i] * (dnorm - norms[i] * row)
        dnorms[i] = dnorm
        dhiddens[i] = dhidden
    dx = dstream
    return {
        "dx": dx, "dtarget": dtarget, "dWs": dWs, "dgains": dgains, "dnorms": dnorms, "dhiddens": dhiddens,
        "derror": derror,
    }  # fmt: skip


def inputs(generator):
    """Draw 6 examples of 4 features and 3 layers."""
    return {
        "x": torch.randn(6, 4, generator=generator),
        "target": torch.randn(6, 4, generator=generator),
        "Ws": torch.randn(3, 4, 4, generator=generator) * 0.5,
        "gains": 1 + 0.3 * torch.randn(3, 4, generator=generator),
    }
