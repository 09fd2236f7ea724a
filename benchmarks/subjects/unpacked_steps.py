"""An LSTM whose forward keeps what a step's backward needs as one tuple, which that unpacks."""

import torch


def forward(x, Wx, Wh, b, h0, c0, target):
    """Return the squared error a word of the last state, from x (t, n, k), h0, c0 and target (n, m)."""
    m = h0.shape[1]
    h, c, cache = h0, c0, []
    for xt in x:
        a = xt @ Wx + h @ Wh + b  # (n, 4 m)
        i, f = torch.sigmoid(a[:, :m]), torch.sigmoid(a[:, m : 2 * m])
        o, g = torch.sigmoid(a[:, 2 * m : 3 * m]), torch.tanh(a[:, 3 * m :])
        c_next = f * c + i * g
        bent = torch.tanh(c_next)
        cache.append((h, c, i, f, o, g, bent))
        h, c = o * bent, c_next
    error = h - target
    loss = (error**2).sum() / error.shape[0]
    return {"cache": cache, "error": error, "loss": loss}


def backward(x, Wx, Wh, h0, error, cache):
    """Compute the gradients of the inputs, the last step first."""
    dWx, dWh = torch.zeros_like(Wx), torch.zeros_like(Wh)
    db = torch.zeros(4 * h0.shape[1])
    dx = torch.zeros_like(x)
    derror = 2 * error / error.shape[0]
    dtarget = -derror
    dh = derror.clone()
    dc = torch.zeros_like(dh)
    for t in reversed(range(x.shape[0])):
        h, c, i, f, o, g, bent = cache[t]
        do = dh * bent
        dc = dc + dh * o * (1 - bent**2)
        di = dc * g
        dg = dc * i
        df = dc * c
        da = torch.cat([di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g**2)], dim=1)
        dx[t] = da @ Wx.T
        dWx += x[t].T @ da
        dWh += h.T @ da
        db += da.sum(0)
        dh = da @ Wh.T
        dc = dc * f
    dh0, dc0 = dh, dc
    return {"dx": dx, "dWx": dWx, "dWh": dWh, "db": db, "dh0": dh0, "dc0": dc0, "dtarget": dtarget}


def inputs(generator):
    """Draw 4 steps of 3 words with 2 features, and 3 units."""
    shapes = {"x": (4, 3, 2), "Wx": (2, 12), "b": (12,), "h0": (3, 3), "c0": (3, 3), "target": (3, 3)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**drawn, "Wh": torch.randn(3, 12, generator=generator) * 0.5}
