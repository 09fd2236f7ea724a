r"""The gated layer SwiGLU (Shazeer 2020, equation 6): y = (silu(x W) * (x V)) O.

silu(a) = a s with s = sigmoid(a), and dsilu/da = s + a s (1 - s). Shapes: n examples, which may be
several axes, sizes k and m.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, W: Tensor, V: Tensor, O: Tensor) -> dict[str, Tensor]:  # noqa: E741
    """Apply the layer with W and V (k, m) and O (m, k) to x (n, k)."""
    gate = x @ W  # (n, m)
    up = x @ V  # (n, m)
    s = torch.sigmoid(gate)  # (n, m)
    silu = gate * s  # (n, m)
    hidden = silu * up  # (n, m)
    y = hidden @ O  # (n, k)
    return locals()


def backward(
    dy: Tensor,
    x: Tensor,
    W: Tensor,
    V: Tensor,
    O: Tensor,  # noqa: E741
    gate: Tensor,
    up: Tensor,
    s: Tensor,
    silu: Tensor,
    hidden: Tensor,
) -> dict[str, Tensor]:
    """Compute the gradients of the inputs and of the tensors in between, but for s, fused into gate's."""
    dO = hidden.reshape(-1, hidden.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])  # (m, k)
    dhidden = dy @ O.T  # (n, m)
    dup = silu * dhidden  # (n, m)
    dsilu = up * dhidden  # (n, m)
    dgate = dsilu * (s + silu * (1 - s))  # (n, m)
    rows = x.reshape(-1, x.shape[-1])  # (n, k)
    dW = rows.T @ dgate.reshape(-1, dgate.shape[-1])  # (k, m)
    dV = rows.T @ dup.reshape(-1, dup.shape[-1])  # (k, m)
    dx = dgate @ W.T + dup @ V.T  # (n, k), through gate and up
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 examples, sizes 3 and 4."""
    return {
        "x": torch.randn(5, 3, generator=generator),
        "W": torch.randn(3, 4, generator=generator),
        "V": torch.randn(3, 4, generator=generator),
        "O": torch.randn(4, 3, generator=generator),
    }
