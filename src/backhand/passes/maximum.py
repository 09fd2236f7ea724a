r"""The distance to a row's maximum: the maximum passes its gradient to the element that it was found in.

Where several elements tie, any share that adds up to the whole is a subgradient; `max` over an axis gives
it all to the one at `argmax`. Shapes: n rows of k elements.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor, gain: Tensor) -> dict[str, Tensor]:
    """Subtract from x (n, k) the maximum of each row, and scale the columns by gain (k,)."""
    top = x.max(1, keepdim=True).values  # (n, 1)
    below = x - top  # (n, k)
    y = gain * below  # (n, k)
    return locals()


def backward(dy: Tensor, x: Tensor, gain: Tensor, below: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dgain = (below * dy).sum(0)  # (k,)
    dbelow = gain * dy  # (n, k)
    dtop = -dbelow.sum(1, keepdim=True)  # (n, 1)
    dx = dbelow.clone()  # (n, k), directly
    dx += torch.nn.functional.one_hot(x.argmax(1), x.shape[1]) * dtop  # through top
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 rows of 4 elements."""
    return {"x": torch.randn(5, 4, generator=generator), "gain": torch.randn(4, generator=generator)}
