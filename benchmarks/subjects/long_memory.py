"""A long short-term memory: `dh` and `dc` are carried, the four gates are written one under another."""

import torch

out = ("ys", "c")


def forward(x, h0, c0, W, U, b):
    """Return the states ys (t, n, m) and the last cell c (n, m); W is (k, 4 m), U (m, 4 m)."""
    h, c, m = h0, c0, h0.shape[1]
    hs, cells, gates = [], [], []
    for xt in x:
        a = xt @ W + h @ U + b  # (n, 4 m)
        i, f, o = a[:, : 3 * m].sigmoid().chunk(3, 1)  # (n, m) each
        g = a[:, 3 * m :].tanh()  # (n, m)
        c = f * c + i * g  # (n, m)
        h = o * c.tanh()  # (n, m)
        gates.append((i, f, o, g))
        cells.append(c)
        hs.append(h)
    return {"gates": gates, "cells": cells, "hs": hs, "ys": torch.stack(hs), "c": c}


def backward(dys, dc, x, h0, c0, W, U, gates, cells, hs):
    """Compute the gradients of the inputs."""
    dx = torch.zeros_like(x)
    dW, dU = torch.zeros_like(W), torch.zeros_like(U)
    db = torch.zeros(W.shape[1])
    dh_next = torch.zeros_like(h0)
    dc_next = dc.clone()
    for t in reversed(range(len(hs))):
        i, f, o, g = gates[t]
        c_before = cells[t - 1] if t > 0 else c0
        h_before = hs[t - 1] if t > 0 else h0
        tc = torch.tanh(cells[t])
        dh = dys[t] + dh_next
        do = dh * tc
        dct = dh * o * (1 - tc**2)
        dct += dc_next
        di = dct * g
        dg = dct * i
        df = dct * c_before
        dc_next = dct * f
        dai = di * i * (1 - i)
        daf = df * f * (1 - f)
        dao = do * o * (1 - o)
        dag = dg * (1 - g**2)
        da = torch.cat((dai, daf, dao, dag), 1)
        dW += x[t].T @ da
        dU += h_before.T @ da
        db += da.sum(0)
        dx[t] = da @ W.T
        dh_next = da @ U.T
    return {"dx": dx, "dW": dW, "dU": dU, "db": db, "dh0": dh_next, "dc0": dc_next}


def inputs(generator):
    """Draw 3 steps of 4 examples with 2 features and 3 units."""
    return {
        "x": torch.randn(3, 4, 2, generator=generator),
        "h0": torch.randn(4, 3, generator=generator),
        "c0": torch.randn(4, 3, generator=generator),
        "W": torch.randn(2, 12, generator=generator) * 0.5,
        "U": torch.randn(3, 12, generator=generator) * 0.5,
        "b": torch.randn(12, generator=generator) * 0.5,
    }
