r"""makemore's gru as a whole (Cho et al. 2014): embedding, gated recurrent units, linear, cross entropy.

    r = sigmoid(x Wx_r + h Wh_r + b_r), z = sigmoid(x Wx_z + h Wh_z + b_z)
    candidate = tanh(x Wx_n + (r h) Wn + b_n), h <- (1 - z) h + z candidate

with the columns of Wx and b in three blocks r, z, n, and those of Wh in two. Here the reset comes before the
product, as in the paper; in `gru`, as in PyTorch, after it. Words, targets and loss are those of
`rnn_model`. Shapes: n words, T positions, V symbols, e numbers an embedding, m a state.
"""

import torch
from torch import Tensor

SHAPES = {
    "E": "V e",
    "h0": "1 m",
    "Wx": "e 3m",
    "Wh": "m 2m",
    "Wn": "m m",
    "b": "3m",
    "Wo": "m V",
    "bo": "V",
}
"""The axes of each parameter; 3m are three blocks of m."""


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
    emb = E[Xb]  # (n, T, e)
    a = emb @ Wx + b  # (n, T, 3 m)
    state = h0.expand(len(Xb), -1)  # (n, m)
    before, resets, updates, candidates, after = [], [], [], [], []  # each T times (n, m)
    for t in range(Xb.shape[1]):
        before.append(state)
        gates = torch.sigmoid(a[:, t, : 2 * m] + state @ Wh)  # (n, 2 m)
        reset, update = gates[:, :m], gates[:, m:]  # (n, m) each
        candidate = torch.tanh(a[:, t, 2 * m :] + (reset * state) @ Wn)  # (n, m)
        state = (1 - update) * state + update * candidate  # (n, m)
        resets.append(reset)
        updates.append(update)
        candidates.append(candidate)
        after.append(state)
    befores = torch.stack(before, 1)  # (n, T, m)
    r = torch.stack(resets, 1)  # (n, T, m)
    z = torch.stack(updates, 1)  # (n, T, m)
    c = torch.stack(candidates, 1)  # (n, T, m)
    h = torch.stack(after, 1)  # (n, T, m)
    logits = h @ Wo + bo  # (n, T, V)
    logprobs = logits.log_softmax(2)  # (n, T, V)
    targets = Yb.clamp(min=0)[:, :, None]  # (n, T, 1)
    counted = (Yb >= 0)[:, :, None]  # (n, T, 1)
    loss = -(logprobs.gather(2, targets) * counted).sum() / counted.sum()
    return locals()


def backward(
    Xb: Tensor,
    E: Tensor,
    Wx: Tensor,
    Wh: Tensor,
    Wn: Tensor,
    Wo: Tensor,
    emb: Tensor,
    befores: Tensor,
    r: Tensor,
    z: Tensor,
    c: Tensor,
    h: Tensor,
    logprobs: Tensor,
    targets: Tensor,
    counted: Tensor,
) -> dict[str, object]:
    """Compute the gradient of every parameter, and of what stands between them and the loss."""
    m = h.shape[2]
    dpicked = -counted.to(E.dtype) / counted.sum()  # (n, T, 1), of each target's log probability
    dlogprobs = torch.zeros_like(logprobs).scatter(2, targets, dpicked)  # (n, T, V)
    dlogits = dlogprobs - logprobs.exp() * dlogprobs.sum(2, keepdim=True)  # (n, T, V)
    dbo = dlogits.sum((0, 1))  # (V,)
    dWo = h.flatten(0, 1).T @ dlogits.flatten(0, 1)  # (m, V)
    above = dlogits @ Wo.T  # (n, T, m), what the logits send back to each state
    da = torch.zeros_like(torch.cat([h, h, h], 2))  # (n, T, 3 m)
    carried = torch.zeros_like(h[:, 0])  # (n, m), what the state after sends back
    for t in reversed(range(h.shape[1])):
        dstate = above[:, t] + carried  # (n, m)
        inner = (1 - c[:, t] ** 2) * z[:, t] * dstate  # (n, m), of tanh's argument
        product = inner @ Wn.T  # (n, m), of reset times state
        reset = r[:, t] * (1 - r[:, t]) * befores[:, t] * product  # (n, m), of sigmoid's argument
        update = z[:, t] * (1 - z[:, t]) * (c[:, t] - befores[:, t]) * dstate  # (n, m), as well
        da[:, t] = torch.cat([reset, update, inner], 1)
        carried = (1 - z[:, t]) * dstate + r[:, t] * product + da[:, t, : 2 * m] @ Wh.T
    dh0 = carried.sum(0, keepdim=True)  # (1, m), for all words begin with it
    dWh = befores.flatten(0, 1).T @ da[:, :, : 2 * m].flatten(0, 1)  # (m, 2 m)
    dWn = (r * befores).flatten(0, 1).T @ da[:, :, 2 * m :].flatten(0, 1)  # (m, m)
    db = da.sum((0, 1))  # (3 m,)
    dWx = emb.flatten(0, 1).T @ da.flatten(0, 1)  # (e, 3 m)
    demb = da @ Wx.T  # (n, T, e)
    dE = torch.zeros_like(E).index_add(0, Xb.flatten(), demb.flatten(0, 1))  # (V, e)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, object]:
    """Draw 3 words, of 2, 4 and 0 letters out of 5; embeddings of 3 numbers, states of 4."""
    ends = {"Wo": (4, 6), "bo": (6,)}
    shapes = {"E": (6, 3), "h0": (1, 4), "Wx": (3, 12), "Wh": (4, 8), "Wn": (4, 4), "b": (12,), **ends}
    Xb = torch.tensor([[0, 3, 1, 0, 0], [0, 3, 2, 5, 4], [0, 0, 0, 0, 0]])
    Yb = torch.tensor([[3, 1, 0, -1, -1], [3, 2, 5, 4, 0], [0, -1, -1, -1, -1]])
    parameters = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    return {"Xb": Xb, "Yb": Yb, **parameters}
