"""A gated recurrent unit over time; every inner gradient is returned in a list."""

import torch


def forward(x, h0, W, U, b):
    """Average the squared states; x is (t, n, k), W (k, 3 m), U (m, 3 m)."""
    h, m = h0, h0.shape[1]
    hs, rs, zs, ms, cs = [], [], [], [], []
    for xt in x:
        a = xt @ W + b  # (n, 3 m)
        c = h @ U  # (n, 3 m)
        r = torch.sigmoid(a[:, :m] + c[:, :m])  # (n, m), reset
        z = torch.sigmoid(a[:, m : 2 * m] + c[:, m : 2 * m])  # (n, m), update
        memory = c[:, 2 * m :]  # (n, m)
        candidate = torch.tanh(a[:, 2 * m :] + r * memory)  # (n, m)
        h = (1 - z) * candidate + z * h  # (n, m)
        rs.append(r)
        zs.append(z)
        ms.append(memory)
        cs.append(candidate)
        hs.append(h)
    loss = torch.stack(hs).square().mean()
    return {"rs": rs, "zs": zs, "ms": ms, "cs": cs, "hs": hs, "loss": loss}


def backward(x, h0, W, U, b, rs, zs, ms, cs, hs):
    """Compute the gradients of the gates, the states, the weights and the input."""
    steps = len(hs)
    dx, dW, dU, db = (torch.zeros_like(each) for each in (x, W, U, b))
    dh = torch.zeros_like(h0)
    drs, dzs, dcs, dhs = [None] * steps, [None] * steps, [None] * steps, [None] * steps
    for t in reversed(range(steps)):
        before = hs[t - 1] if t > 0 else h0
        dh = dh + 2 * hs[t] / (steps * h0.numel())
        dz = (before - cs[t]) * dh
        dc = (1 - zs[t]) * dh
        inner = (1 - cs[t] ** 2) * dc
        dr = ms[t] * inner
        reset = rs[t] * (1 - rs[t]) * dr
        update = zs[t] * (1 - zs[t]) * dz
        da = torch.cat([reset, update, inner], 1)
        dcs_U = torch.cat([reset, update, rs[t] * inner], 1)
        dW += x[t].T @ da
        dU += before.T @ dcs_U
        db += da.sum(0)
        dx[t] = da @ W.T
        drs[t], dzs[t], dcs[t], dhs[t] = dr, dz, dc, dh
        dh = zs[t] * dh + dcs_U @ U.T
    dh0 = dh
    return {
        "dx": dx, "dW": dW, "dU": dU, "db": db, "dh0": dh0, "drs": drs, "dzs": dzs, "dcs": dcs, "dhs": dhs,
    }  # fmt: skip


def inputs(generator):
    """Draw 3 steps of 4 examples with 2 features and 3 units."""
    return {
        "x": torch.randn(3, 4, 2, generator=generator),
        "h0": torch.randn(4, 3, generator=generator),
        "W": torch.randn(2, 9, generator=generator) * 0.5,
        "U": torch.randn(3, 9, generator=generator) * 0.5,
        "b": torch.randn(9, generator=generator) * 0.5,
    }
