"""AdamW by hand (Loshchilov and Hutter 2019, algorithm 2), as torch.optim.AdamW computes it."""

from collections.abc import Mapping

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8
"""makemore's."""


@torch.no_grad()
def update(
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    *,
    rate: float,
    weight_decay: float,
    step: int,
) -> None:
    """Take one step; parameters and moments are updated in place.

    Args:
        parameters: by name.
        gradients: of each, named `d` and its name.
        first, second: running means of the gradients and of their squares, zeros at first.
        rate: the learning rate.
        weight_decay: what share of a parameter a step takes away, in learning rates.
        step: counted from 1; the means are corrected for having begun at zero.
    """
    for name, p in parameters.items():
        gradient = gradients[f"d{name}"]
        p.mul_(1 - rate * weight_decay)
        first[name].lerp_(gradient, 1 - BETA1)
        second[name].mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        size = second[name].sqrt() / (1 - BETA2**step) ** 0.5
        p.addcdiv_(first[name], size + EPSILON, value=-rate / (1 - BETA1**step))
