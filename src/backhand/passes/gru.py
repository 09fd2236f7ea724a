r"""One step of a gated recurrent unit (Cho et al. 2014, in the form with the reset gate after the product).

    r = sigmoid(a_r + c_r), z = sigmoid(a_z + c_z), candidate = tanh(a_n + r c_n), y = (1 - z) candidate + z h

with a = x W + b and c = h U, each three blocks of m columns. Shapes: n examples, k inputs, m units.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, h: Tensor, W: Tensor, U: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Take the state h (n, m) one step further with x (n, k), W (k, 3 m), U (m, 3 m) and b (3 m,)."""
    m = h.shape[1]
    a = x @ W + b  # (n, 3 m)
    c = h @ U  # (n, 3 m)
    r = torch.sigmoid(a[:, :m] + c[:, :m])  # (n, m), reset
    z = torch.sigmoid(a[:, m : 2 * m] + c[:, m : 2 * m])  # (n, m), update
    memory = c[:, 2 * m :]  # (n, m)
    candidate = torch.tanh(a[:, 2 * m :] + r * memory)  # (n, m)
    y = (1 - z) * candidate + z * h  # (n, m)
    return locals()


def backward(
    dy: Tensor,
    x: Tensor,
    h: Tensor,
    W: Tensor,
    U: Tensor,
    r: Tensor,
    z: Tensor,
    memory: Tensor,
    candidate: Tensor,
) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dz = (h - candidate) * dy  # (n, m)
    dcandidate = (1 - z) * dy  # (n, m)
    inner = (1 - candidate**2) * dcandidate  # (n, m), of tanh's argument
    dr = memory * inner  # (n, m)
    dmemory = r * inner  # (n, m)
    reset = r * (1 - r) * dr  # (n, m), of sigmoid's argument
    update = z * (1 - z) * dz  # (n, m)
    da = torch.cat([reset, update, inner], 1)  # (n, 3 m)
    dc = torch.cat([reset, update, dmemory], 1)  # (n, 3 m)
    dW = x.T @ da  # (k, 3 m)
    dU = h.T @ dc  # (m, 3 m)
    db = da.sum(0)  # (3 m,)
    dx = da @ W.T  # (n, k)
    dh = z * dy + dc @ U.T  # (n, m), through y and c
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 examples of 3 inputs and 4 units."""
    return {
        "x": torch.randn(5, 3, generator=generator),
        "h": torch.randn(5, 4, generator=generator),
        "W": torch.randn(3, 12, generator=generator) * 0.5,
        "U": torch.randn(4, 12, generator=generator) * 0.5,
        "b": torch.randn(12, generator=generator) * 0.5,
    }
