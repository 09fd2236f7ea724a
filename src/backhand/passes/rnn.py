r"""A recurrent layer over time (Elman 1990), its backward through time.

h_t = tanh(x_t Wxh + h_{t-1} Whh + b). Each state has two consumers, the output at its time and the next
state; the weights are used at every time, so that their gradients accumulate. Shapes: t times, n examples,
sizes k, m and o.
"""

import torch
from torch import Tensor

out = "ys"


def forward(x: Tensor, Wxh: Tensor, Whh: Tensor, b: Tensor, Why: Tensor) -> dict[str, object]:
    """Run over x (t, n, k); return the outputs ys (t, n, o)."""
    h = x.new_zeros(x.shape[1], Whh.shape[0])  # (n, m)
    hs = []
    for t in range(len(x)):
        h = torch.tanh(x[t] @ Wxh + h @ Whh + b)  # (n, m)
        hs.append(h)
    ys = torch.stack([state @ Why for state in hs])  # (t, n, o)
    return {"hs": hs, "ys": ys}


def backward(
    dys: Tensor, x: Tensor, Wxh: Tensor, Whh: Tensor, b: Tensor, Why: Tensor, hs: list[Tensor]
) -> dict[str, object]:
    """Compute the gradients of every state, the weights and the input."""
    dx = torch.zeros_like(x)  # (t, n, k)
    dWxh = torch.zeros_like(Wxh)  # (k, m)
    dWhh = torch.zeros_like(Whh)  # (m, m)
    db = torch.zeros_like(b)  # (m,)
    dWhy = torch.zeros_like(Why)  # (m, o)
    dhs = [torch.zeros_like(h) for h in hs]  # t times (n, m)
    for t in reversed(range(len(hs))):
        dWhy += hs[t].T @ dys[t]
        dhs[t] += dys[t] @ Why.T  # what the next time sends back is there already
        dpre = (1 - hs[t] ** 2) * dhs[t]  # (n, m)
        dWxh += x[t].T @ dpre
        db += dpre.sum(0)
        dx[t] = dpre @ Wxh.T
        if t > 0:
            dWhh += hs[t - 1].T @ dpre
            dhs[t - 1] += dpre @ Whh.T
    return {"dx": dx, "dWxh": dWxh, "dWhh": dWhh, "db": db, "dWhy": dWhy, "dhs": dhs}


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 4 times of 3 examples with 2 features, 5 hidden and 6 output units."""
    return {
        "x": torch.randn(4, 3, 2, generator=generator),
        "Wxh": torch.randn(2, 5, generator=generator) * 0.5,
        "Whh": torch.randn(5, 5, generator=generator) * 0.5,
        "b": torch.randn(5, generator=generator) * 0.5,
        "Why": torch.randn(5, 6, generator=generator) * 0.5,
    }
