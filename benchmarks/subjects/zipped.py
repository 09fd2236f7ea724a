"""A recurrent layer, backward over the zipped and reversed lists of its forward; no index anywhere."""

import torch


def forward(x, target, W, U, V):
    """Average the squared errors of every step; x is (t, n, k), target (t, n, o)."""
    h = torch.zeros(x.shape[1], U.shape[0])  # (n, m)
    before, after, errors = [], [], []
    for xt, yt in zip(x, target, strict=True):
        before.append(h)
        h = torch.sigmoid(xt @ W + h @ U)  # (n, m)
        after.append(h)
        errors.append(h @ V - yt)  # (n, o)
    loss = torch.stack(errors).square().mean()
    return {"before": before, "after": after, "errors": errors, "loss": loss}


def backward(x, target, W, U, V, before, after, errors):
    """Compute the gradients of the inputs."""
    dW, dU, dV = torch.zeros_like(W), torch.zeros_like(U), torch.zeros_like(V)
    dtarget, dx = [], []
    carried = torch.zeros_like(after[0])
    for xt, h_prev, h, error in zip(x.flip(0), before[::-1], after[::-1], errors[::-1], strict=True):
        derror = 2 * error / target.numel()
        dtarget.insert(0, -derror)
        dV += h.T @ derror
        grad_h = derror @ V.T + carried
        grad_pre = grad_h * h * (1 - h)
        dW += xt.T @ grad_pre
        dU += h_prev.T @ grad_pre
        dx.insert(0, grad_pre @ W.T)
        carried = grad_pre @ U.T
    dtarget = torch.stack(dtarget)
    dx = torch.stack(dx)
    return {"dx": dx, "dW": dW, "dU": dU, "dV": dV, "dtarget": dtarget}


def inputs(generator):
    """Draw 4 steps of 3 examples with 2 features, 5 hidden and 4 output units."""
    return {
        "x": torch.randn(4, 3, 2, generator=generator),
        "target": torch.randn(4, 3, 4, generator=generator),
        "W": torch.randn(2, 5, generator=generator),
        "U": torch.randn(5, 5, generator=generator),
        "V": torch.randn(5, 4, generator=generator),
    }
