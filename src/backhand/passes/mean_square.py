r"""The mean squared error: a mean sends one n-th of its upstream gradient to each of n elements.

Shapes: n predictions. The upstream gradient of the loss is 1.
"""

import torch
from torch import Tensor


def forward(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Compute the loss of a prediction (n,) for a target (n,)."""
    error = prediction - target  # (n,)
    squared = error**2  # (n,)
    loss = squared.mean()  # ()
    return locals()


def backward(error: Tensor, squared: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    n = squared.shape[0]
    dsquared = torch.ones_like(squared) / n  # (n,)
    derror = 2 * error * dsquared  # (n,)
    dprediction = derror  # (n,)
    dtarget = -derror  # (n,)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 6 predictions."""
    return {
        "prediction": torch.randn(6, generator=generator),
        "target": torch.randn(6, generator=generator),
    }
