"""A recurrent layer in both directions: two loops, one after another, add to one gradient of the input."""

import torch

out = "ys"


def forward(x, Wf, Uf, Wb, Ub):
    """Return the states of both directions, ys (t, n, 2 m), of x (t, n, k)."""
    steps = x.shape[0]
    f = torch.zeros(x.shape[1], Uf.shape[0])  # (n, m)
    g = torch.zeros_like(f)  # (n, m)
    fs, gs = [], [None] * steps
    for t in range(steps):
        f = torch.tanh(x[t] @ Wf + f @ Uf)
        fs.append(f)
    for t in reversed(range(steps)):
        g = torch.tanh(x[t] @ Wb + g @ Ub)
        gs[t] = g
    return {"fs": fs, "gs": gs, "ys": torch.cat([torch.stack(fs), torch.stack(gs)], 2)}


def backward(dys, x, Wf, Uf, Wb, Ub, fs, gs):
    """Compute the gradients of the inputs."""
    steps, m = len(fs), Uf.shape[0]
    dx = torch.zeros_like(x)
    dWf, dUf = torch.zeros_like(Wf), torch.zeros_like(Uf)
    dWb, dUb = torch.zeros_like(Wb), torch.zeros_like(Ub)
    df = torch.zeros_like(fs[0])
    for t in reversed(range(steps)):
        df = df + dys[t, :, :m]
        da = (1 - fs[t] ** 2) * df
        dx[t] += da @ Wf.T
        dWf += x[t].T @ da
        if t > 0:
            dUf += fs[t - 1].T @ da
        df = da @ Uf.T
    dg = torch.zeros_like(gs[0])
    for t in range(steps):
        dg = dg + dys[t, :, m:]
        da = (1 - gs[t] ** 2) * dg
        dx[t] += da @ Wb.T
        dWb += x[t].T @ da
        if t < steps - 1:
            dUb += gs[t + 1].T @ da
        dg = da @ Ub.T
    return {"dx": dx, "dWf": dWf, "dUf": dUf, "dWb": dWb, "dUb": dUb}


def inputs(generator):
    """Draw 3 steps of 4 examples with 2 features and 5 units in each direction."""
    return {
        "x": torch.randn(3, 4, 2, generator=generator),
        "Wf": torch.randn(2, 5, generator=generator) * 0.5,
        "Uf": torch.randn(5, 5, generator=generator) * 0.5,
        "Wb": torch.randn(2, 5, generator=generator) * 0.5,
        "Ub": torch.randn(5, 5, generator=generator) * 0.5,
    }
