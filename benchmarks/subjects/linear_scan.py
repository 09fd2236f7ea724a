"""A linear recurrence with a decay of exp(-exp(w)), as in linear attention: a state of outer products."""

import torch

out = "ys"


def forward(r, k, v, w, u):
    """Return ys (t, e) of r, k (t, d) and v (t, e), with the decay's w and the bonus u (d,)."""
    rate = -torch.exp(w)  # (d,)
    decay = torch.exp(rate)  # (d,)
    state = torch.zeros(k.shape[1], v.shape[1])  # (d, e)
    states, ys = [], []
    for t in range(r.shape[0]):
        states.append(state)
        kv = torch.outer(k[t], v[t])  # (d, e)
        ys.append(r[t] @ (state + u[:, None] * kv))  # (e,)
        state = decay[:, None] * state + kv  # (d, e)
    return {"rate": rate, "decay": decay, "states": states, "ys": torch.stack(ys)}


def backward(dys, r, k, v, w, u, rate, decay, states):
    """Compute the gradients of the inputs and the decay."""
    dr, dk, dv = torch.zeros_like(r), torch.zeros_like(k), torch.zeros_like(v)
    du = torch.zeros_like(u)
    ddecay = torch.zeros_like(decay)
    ds = torch.zeros_like(states[0])
    for t in reversed(range(r.shape[0])):
        kv = torch.outer(k[t], v[t])
        dout = torch.outer(r[t], dys[t])
        dr[t] = (states[t] + u[:, None] * kv) @ dys[t]
        du += (dout * kv).sum(1)
        dkv = u[:, None] * dout + ds
        dk[t] = dkv @ v[t]
        dv[t] = k[t] @ dkv
        ddecay += (ds * states[t]).sum(1)
        ds = decay[:, None] * ds + dout
    drate = decay * ddecay
    dw = rate * drate
    return {"dr": dr, "dk": dk, "dv": dv, "du": du, "ddecay": ddecay, "drate": drate, "dw": dw}


def inputs(generator):
    """Draw 5 steps with 3 features of the keys and 4 of the values."""
    return {
        "r": torch.randn(5, 3, generator=generator),
        "k": torch.randn(5, 3, generator=generator),
        "v": torch.randn(5, 4, generator=generator),
        "w": torch.randn(3, generator=generator) * 0.5,
        "u": torch.randn(3, generator=generator),
    }
