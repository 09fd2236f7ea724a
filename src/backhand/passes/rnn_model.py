r"""makemore's rnn as a whole (Elman 1990): embedding, recurrent units, linear, cross entropy.

    h_t = tanh(x_t Wx + h_{t-1} Wh + b)

A word of a minibatch is a row of Xb, 0 and its symbols, and of Yb, its symbols, 0 for its end, and -1 where
there is nothing to predict. The loss is the mean over the c targets that are not -1. What leads from the
inputs to the states, and from the states to the logits, is one product for all positions; only the states
need one another. Shapes: n words, T positions, V symbols, e numbers an embedding, m a state.
"""

import torch
from torch import Tensor

SHAPES = {"E": "V e", "h0": "1 m", "Wx": "e m", "Wh": "m m", "b": "m", "Wo": "m V", "bo": "V"}
"""The axes of each parameter."""


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
    emb = E[Xb]  # (n, T, e)
    a = emb @ Wx + b  # (n, T, m)
    state = h0.expand(len(Xb), -1)  # (n, m)
    before, after = [], []  # T times (n, m)
    for t in range(Xb.shape[1]):
        before.append(state)
        state = torch.tanh(a[:, t] + state @ Wh)  # (n, m)
        after.append(state)
    befores = torch.stack(before, 1)  # (n, T, m)
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
    Wo: Tensor,
    emb: Tensor,
    befores: Tensor,
    h: Tensor,
    logprobs: Tensor,
    targets: Tensor,
    counted: Tensor,
) -> dict[str, object]:
    """Compute the gradient of every parameter, and of what stands between them and the loss."""
    dpicked = -counted.to(E.dtype) / counted.sum()  # (n, T, 1), of each target's log probability
    dlogprobs = torch.zeros_like(logprobs).scatter(2, targets, dpicked)  # (n, T, V)
    dlogits = dlogprobs - logprobs.exp() * dlogprobs.sum(2, keepdim=True)  # (n, T, V)
    dbo = dlogits.sum((0, 1))  # (V,)
    dWo = h.flatten(0, 1).T @ dlogits.flatten(0, 1)  # (m, V)
    above = dlogits @ Wo.T  # (n, T, m), what the logits send back to each state
    da = torch.zeros_like(h)  # (n, T, m)
    carried = torch.zeros_like(h[:, 0])  # (n, m), what the state after sends back
    for t in reversed(range(h.shape[1])):
        da[:, t] = (1 - h[:, t] ** 2) * (above[:, t] + carried)
        carried = da[:, t] @ Wh.T
    dh0 = carried.sum(0, keepdim=True)  # (1, m), for all words begin with it
    dWh = befores.flatten(0, 1).T @ da.flatten(0, 1)  # (m, m)
    db = da.sum((0, 1))  # (m,)
    dWx = emb.flatten(0, 1).T @ da.flatten(0, 1)  # (e, m)
    demb = da @ Wx.T  # (n, T, e)
    dE = torch.zeros_like(E).index_add(0, Xb.flatten(), demb.flatten(0, 1))  # (V, e)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, object]:
    """Draw 3 words, of 2, 4 and 0 letters out of 5; embeddings of 3 numbers, states of 4."""
    shapes = {"E": (6, 3), "h0": (1, 4), "Wx": (3, 4), "Wh": (4, 4), "b": (4,), "Wo": (4, 6), "bo": (6,)}
    Xb = torch.tensor([[0, 3, 1, 0, 0], [0, 3, 2, 5, 4], [0, 0, 0, 0, 0]])
    Yb = torch.tensor([[3, 1, 0, -1, -1], [3, 2, 5, 4, 0], [0, -1, -1, -1, -1]])
    parameters = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    return {"Xb": Xb, "Yb": Yb, **parameters}
