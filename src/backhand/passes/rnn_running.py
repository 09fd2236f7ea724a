r"""The layer of `rnn` with one running gradient for a list: `dhnext`, what the state after sends back.

At time t the state's gradient is complete when `dhnext` joins what its output sends back, and the next turn
of the loop needs nothing but the new `dhnext`. Where the loop ends it is the gradient of the first state.
Shapes: t times, n examples, sizes k, m and o.
"""

import torch
from torch import Tensor

out = "ys"


def forward(x: Tensor, h0: Tensor, Wxh: Tensor, Whh: Tensor, b: Tensor, Why: Tensor) -> dict[str, object]:
    """Run over x (t, n, k) from the state h0 (n, m); hs[t] is the state before time t."""
    h = h0
    hs = [h]  # t + 1 times (n, m)
    for t in range(len(x)):
        h = torch.tanh(x[t] @ Wxh + h @ Whh + b)  # (n, m)
        hs.append(h)
    ys = torch.stack([state @ Why for state in hs[1:]])  # (t, n, o)
    return {"hs": hs, "ys": ys}


def backward(
    dys: Tensor, x: Tensor, Wxh: Tensor, Whh: Tensor, b: Tensor, Why: Tensor, hs: list[Tensor]
) -> dict[str, Tensor]:
    """Compute the gradients of the inputs."""
    dx = torch.zeros_like(x)  # (t, n, k)
    dWxh = torch.zeros_like(Wxh)  # (k, m)
    dWhh = torch.zeros_like(Whh)  # (m, m)
    db = torch.zeros_like(b)  # (m,)
    dWhy = torch.zeros_like(Why)  # (m, o)
    dhnext = torch.zeros_like(hs[0])  # (n, m), what the state after sends back
    for t in reversed(range(len(x))):
        dWhy += hs[t + 1].T @ dys[t]
        dh = dys[t] @ Why.T + dhnext  # (n, m), through the output and the state after
        da = (1 - hs[t + 1] ** 2) * dh  # (n, m), of tanh's argument
        dx[t] = da @ Wxh.T
        dWxh += x[t].T @ da
        dWhh += hs[t].T @ da
        db += da.sum(0)
        dhnext = da @ Whh.T
    dh0 = dhnext  # (n, m)
    return {"dx": dx, "dh0": dh0, "dWxh": dWxh, "dWhh": dWhh, "db": db, "dWhy": dWhy}


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 4 times of 3 examples with 2 features, 5 hidden and 6 output units."""
    return {
        "x": torch.randn(4, 3, 2, generator=generator),
        "h0": torch.randn(3, 5, generator=generator),
        "Wxh": torch.randn(2, 5, generator=generator) * 0.5,
        "Whh": torch.randn(5, 5, generator=generator) * 0.5,
        "b": torch.randn(5, generator=generator) * 0.5,
        "Why": torch.randn(5, 6, generator=generator) * 0.5,
    }
