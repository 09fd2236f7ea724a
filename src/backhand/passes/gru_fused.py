"""makemore's gru as a whole, fused: the first layer as a table, and cross entropy in one line.

The same model as `gru_model`; the two stretches are those of `rnn_fused`, which derives them, with the
table's columns in three blocks as those of Wx are. What does not depend on the state after is computed for
all positions at once.
"""

import torch
from torch import Tensor


def forward(
    Xb: Tensor,
    Yb: Tensor,
    E: Tensor,
    h0: Tensor,
    Wx: Tensor,
    Wh: Tensor,
    Wn: Tensor,
    b: Tensor,
    Wo: Tensor,
    bo: Tensor,
) -> dict[str, object]:
    """Compute the loss of words Xb, Yb (n, T)."""
    m = h0.shape[1]
    table = E @ Wx + b  # (V, 3 m)
    state = h0.expand(len(Xb), -1)  # (n, m)
    states, opened, candidates = [state], [], []  # T + 1 times (n, m); T times (n, 2 m) and (n, m)
    for x in table[Xb].unbind(1):
        gates = torch.sigmoid(torch.addmm(x[:, : 2 * m], state, Wh))  # (n, 2 m)
        candidate = torch.tanh(torch.addmm(x[:, 2 * m :], gates[:, :m] * state, Wn))  # (n, m)
        state = torch.lerp(state, candidate, gates[:, m:])  # (n, m)
        opened.append(gates)
        candidates.append(candidate)
        states.append(state)
    befores = torch.stack(states[:-1], 1)  # (n, T, m)
    rz = torch.stack(opened, 1)  # (n, T, 2 m)
    c = torch.stack(candidates, 1)  # (n, T, m)
    h = torch.stack(states[1:], 1)  # (n, T, m)
    logits = h @ Wo + bo  # (n, T, V)
    targets = Yb.clamp(min=0)[:, :, None]  # (n, T, 1)
    counted = (Yb >= 0)[:, :, None]  # (n, T, 1)
    logprobs = logits.log_softmax(2)  # (n, T, V)
    loss = -(logprobs.gather(2, targets) * counted).sum() / counted.sum()
    return locals()


def backward(
    Xb: Tensor,
    E: Tensor,
    Wx: Tensor,
    Wh: Tensor,
    Wn: Tensor,
    Wo: Tensor,
    table: Tensor,
    befores: Tensor,
    rz: Tensor,
    c: Tensor,
    h: Tensor,
    logprobs: Tensor,
    targets: Tensor,
    counted: Tensor,
) -> dict[str, object]:
    """Compute the gradient of every parameter, and of what stands between them and the loss."""
    m = h.shape[2]
    weight = counted.to(E.dtype) / counted.sum()  # (n, T, 1): 1 / c where there is a target
    dlogits = logprobs.exp().scatter_add(2, targets, -torch.ones_like(weight)) * weight  # (n, T, V)
    dbo = dlogits.sum((0, 1))  # (V,)
    dWo = h.flatten(0, 1).T @ dlogits.flatten(0, 1)  # (m, V)
    above = dlogits @ Wo.T  # (n, T, m), what the logits send back to each state
    r, z = rz.split(m, 2)  # (n, T, m) each
    inner_slope = (1 - c.square()) * z  # (n, T, m), from a state to tanh's argument
    reset_slope = r * (1 - r) * befores  # (n, T, m), from the reset state to the reset's argument
    update_slope = z * (1 - z) * (c - befores)  # (n, T, m), from a state to the update's argument
    da = torch.empty_like(torch.cat([rz, c], 2))  # (n, T, 3 m)
    carried = torch.zeros_like(h[:, 0])  # (n, m), what the state after sends back
    for t in reversed(range(h.shape[1])):
        dstate = above[:, t] + carried  # (n, m)
        da[:, t, 2 * m :] = inner_slope[:, t] * dstate
        product = da[:, t, 2 * m :] @ Wn.T  # (n, m), of reset times state
        da[:, t, :m] = reset_slope[:, t] * product
        da[:, t, m : 2 * m] = update_slope[:, t] * dstate
        carried = (1 - z[:, t]) * dstate + r[:, t] * product + da[:, t, : 2 * m] @ Wh.T
    dh0 = carried.sum(0, keepdim=True)  # (1, m)
    dWh = befores.flatten(0, 1).T @ da[:, :, : 2 * m].flatten(0, 1)  # (m, 2 m)
    dWn = (r * befores).flatten(0, 1).T @ da[:, :, 2 * m :].flatten(0, 1)  # (m, m)
    dtable = torch.zeros_like(table).index_add(0, Xb.flatten(), da.flatten(0, 1))  # (V, 3 m)
    db = dtable.sum(0)  # (3 m,)
    dWx = E.T @ dtable  # (e, 3 m)
    dE = dtable @ Wx.T  # (V, e)
    return locals()
