r"""Softplus, log(1 + exp(x)): the gradient of exp is its own value, that of log one over its argument.

Together: dy/dx = exp(x) / (1 + exp(x)), the sigmoid. Shapes: n elements.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor) -> dict[str, Tensor]:
    """Compute softplus of x (n,), one operation a line."""
    e = x.exp()  # (n,)
    total = 1 + e  # (n,)
    y = total.log()  # (n,)
    return locals()


def backward(dy: Tensor, e: Tensor, total: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dtotal = dy / total  # (n,)
    de = dtotal  # (n,)
    dx = e * de  # (n,)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 6 elements."""
    return {"x": torch.randn(6, generator=generator)}
