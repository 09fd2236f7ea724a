"""Where a NaN or an infinity came from, rather than where it was noticed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from backhand.passes import mlp_chunked, mlp_fused

from .stepping import Parameters, by_hand


def first_nonfinite(
    engine: str, parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float]
) -> tuple[int, str] | None:
    """Take some steps again; return the first that makes a tensor non-finite, and that tensor's name.

    Args:
        engine: its name; the steps are taken with the hand-written pass whose lines it computes.
        parameters: as they were before the steps; left alone.
        Xs, Ys, rates: the steps, as an `Engine` takes them.

    Returns:
        The step, counted from 0, and the name of the tensor: one of the forward's, in its order; or else a
        gradient; or else a parameter after its update. None if all are finite.
    """
    gradients_of = by_hand(mlp_chunked if engine == "chunked" else mlp_fused)
    parameters = {name: p.clone() for name, p in parameters.items()}
    for step, (Xb, Yb, rate) in enumerate(zip(Xs, Ys, rates, strict=True)):
        with torch.no_grad():
            tensors, gradients = gradients_of(parameters, Xb, Yb)
            parameters = {name: p - rate * gradients[f"d{name}"] for name, p in parameters.items()}
        made = tensors | {name: g for name, g in gradients.items() if name not in tensors} | parameters
        for name, tensor in [*tensors.items(), *gradients.items(), *parameters.items()]:
            if isinstance(tensor, Tensor) and not tensor.isfinite().all():
                return step, name
    return None
