"""makemore's rnn as a whole, fused: the first layer as a table, and cross entropy in one line.

The same model as `rnn_model`, with words, targets and loss as there, and with two stretches in one go.

**The table.** What a symbol adds to a state, `E[s] @ Wx + b`, is the same wherever it stands: a row of
`table`, of which a word picks some. So the gradient of a row is the sum of `da` over the positions at which
its symbol stands, and those of E, Wx and b follow from V rows instead of n T. This replaces the lines of
`rnn_model.backward` from `db` to `dE`.

**Cross entropy.** As in `mlp_fused`: of a position that counts, dlogits = (softmax(logits) - [the target]) /
c, and 0 elsewhere. This replaces the lines from `dpicked` to `dlogits`.
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
    b: Tensor,
    Wo: Tensor,
    bo: Tensor,
) -> dict[str, object]:
    """Compute the loss of words Xb, Yb (n, T)."""
    table = E @ Wx + b  # (V, m)
    state = h0.expand(len(Xb), -1)  # (n, m)
    states = [state]  # T + 1 times (n, m)
    for x in table[Xb].unbind(1):
        state = torch.tanh(torch.addmm(x, state, Wh))  # (n, m)
        states.append(state)
    befores = torch.stack(states[:-1], 1)  # (n, T, m)
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
    Wo: Tensor,
    table: Tensor,
    befores: Tensor,
    h: Tensor,
    logprobs: Tensor,
    targets: Tensor,
    counted: Tensor,
) -> dict[str, object]:
    """Compute the gradient of every parameter, and of what stands between them and the loss."""
    weight = counted.to(E.dtype) / counted.sum()  # (n, T, 1): 1 / c where there is a target
    dlogits = logprobs.exp().scatter_add(2, targets, -torch.ones_like(weight)) * weight  # (n, T, V)
    dbo = dlogits.sum((0, 1))  # (V,)
    dWo = h.flatten(0, 1).T @ dlogits.flatten(0, 1)  # (m, V)
    da = (
        dlogits @ Wo.T
    )  # (n, T, m), what the logits send back to each state, and soon that of tanh's argument
    slope = 1 - h.square()  # (n, T, m)
    carried = torch.zeros_like(h[:, 0])  # (n, m), what the state after sends back
    for t in reversed(range(h.shape[1])):
        da[:, t] = slope[:, t] * (da[:, t] + carried)
        carried = da[:, t] @ Wh.T
    dh0 = carried.sum(0, keepdim=True)  # (1, m)
    dWh = befores.flatten(0, 1).T @ da.flatten(0, 1)  # (m, m)
    dtable = torch.zeros_like(table).index_add(0, Xb.flatten(), da.flatten(0, 1))  # (V, m)
    db = dtable.sum(0)  # (m,)
    dWx = E.T @ dtable  # (e, m)
    dE = dtable @ Wx.T  # (V, e)
    return locals()
