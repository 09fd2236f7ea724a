r"""A gated recurrent unit over time: the step of `gru` at every time, its backward with a running `dhnext`.

The outputs are the states themselves, so that a state has the gradient that arrives at its output, and what
the next step sends back: directly, as a part of the mixture, and through the gates. Shapes: t times, n
examples, k inputs, m units.
"""

import torch
from torch import Tensor

out = "ys"


def forward(x: Tensor, h0: Tensor, W: Tensor, U: Tensor, b: Tensor) -> dict[str, object]:
    """Run over x (t, n, k) from the state h0 (n, m), with W (k, 3 m), U (m, 3 m) and b (3 m,)."""
    m = h0.shape[1]
    h = h0
    hs, rs, zs, memories, candidates = [h], [], [], [], []  # t + 1 times (n, m), and t times (n, m) each
    for t in range(len(x)):
        a = x[t] @ W + b  # (n, 3 m)
        c = h @ U  # (n, 3 m)
        r = torch.sigmoid(a[:, :m] + c[:, :m])  # (n, m), reset
        z = torch.sigmoid(a[:, m : 2 * m] + c[:, m : 2 * m])  # (n, m), update
        memory = c[:, 2 * m :]  # (n, m)
        candidate = torch.tanh(a[:, 2 * m :] + r * memory)  # (n, m)
        h = (1 - z) * candidate + z * h  # (n, m)
        hs.append(h)
        rs.append(r)
        zs.append(z)
        memories.append(memory)
        candidates.append(candidate)
    ys = torch.stack(hs[1:])  # (t, n, m)
    return {"ys": ys, "hs": hs, "rs": rs, "zs": zs, "memories": memories, "candidates": candidates}


def backward(
    dys: Tensor,
    x: Tensor,
    W: Tensor,
    U: Tensor,
    b: Tensor,
    hs: list[Tensor],
    rs: list[Tensor],
    zs: list[Tensor],
    memories: list[Tensor],
    candidates: list[Tensor],
) -> dict[str, Tensor]:
    """Compute the gradients of the inputs."""
    dx = torch.zeros_like(x)  # (t, n, k)
    dW = torch.zeros_like(W)  # (k, 3 m)
    dU = torch.zeros_like(U)  # (m, 3 m)
    db = torch.zeros_like(b)  # (3 m,)
    dhnext = torch.zeros_like(hs[0])  # (n, m), what the state after sends back
    for t in reversed(range(len(x))):
        dh = dys[t] + dhnext  # (n, m)
        dz = (hs[t] - candidates[t]) * dh  # (n, m)
        dcandidate = (1 - zs[t]) * dh  # (n, m)
        inner = (1 - candidates[t] ** 2) * dcandidate  # (n, m), of tanh's argument
        dr = memories[t] * inner  # (n, m)
        reset = rs[t] * (1 - rs[t]) * dr  # (n, m), of sigmoid's argument
        update = zs[t] * (1 - zs[t]) * dz  # (n, m)
        da = torch.cat([reset, update, inner], 1)  # (n, 3 m)
        dc = torch.cat([reset, update, rs[t] * inner], 1)  # (n, 3 m)
        dx[t] = da @ W.T
        dW += x[t].T @ da
        dU += hs[t].T @ dc
        db += da.sum(0)
        dhnext = zs[t] * dh + dc @ U.T
    dh0 = dhnext  # (n, m)
    return {"dx": dx, "dh0": dh0, "dW": dW, "dU": dU, "db": db}


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 4 times of 5 examples, 3 inputs and 2 units."""
    return {
        "x": torch.randn(4, 5, 3, generator=generator),
        "h0": torch.randn(5, 2, generator=generator),
        "W": torch.randn(3, 6, generator=generator) * 0.5,
        "U": torch.randn(2, 6, generator=generator) * 0.5,
        "b": torch.randn(6, generator=generator) * 0.5,
    }
