r"""The lecture's batch norm in one go, with Bessel's correction (Karpathy, "makemore part 4", exercise 3).

Down one column, with D = bngain * dhpreact and s = (v + eps) ** -1/2 for the variance v of divisor n - 1,

    dhprebn_i = s / n * (n D_i - sum_j D_j - n / (n - 1) xhat_i sum_j D_j xhat_j):

directly, through the mean, and through the variance; `mlp_fused` derives it. Shapes: n examples of k units.
"""

import torch
from torch import Tensor

out = "hpreact"


def forward(hprebn: Tensor, bngain: Tensor, bnbias: Tensor) -> dict[str, Tensor]:
    """Normalise each column of hprebn (n, k), then scale and shift it by bngain and bnbias (1, k)."""
    n = hprebn.shape[0]
    bnmeani = hprebn.mean(0, keepdim=True)  # (1, k)
    bnvar = hprebn.var(0, keepdim=True, correction=1)  # (1, k), divisor n - 1
    bnvar_inv = (bnvar + 1e-5) ** -0.5  # (1, k)
    bnraw = (hprebn - bnmeani) * bnvar_inv  # (n, k)
    hpreact = bngain * bnraw + bnbias  # (n, k)
    return locals()


def backward(dhpreact: Tensor, n: int, bngain: Tensor, bnvar_inv: Tensor, bnraw: Tensor) -> dict[str, Tensor]:
    """Compute the gradients of the three inputs."""
    dbnbias = dhpreact.sum(0, keepdim=True)  # (1, k)
    dbngain = (bnraw * dhpreact).sum(0, keepdim=True)  # (1, k)
    # (n, k)
    dhprebn = bngain * bnvar_inv / n * (n * dhpreact - dbnbias - n / (n - 1) * bnraw * dbngain)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 7 examples of 4 units."""
    return {
        "hprebn": torch.randn(7, 4, generator=generator),
        "bngain": torch.randn(1, 4, generator=generator),
        "bnbias": torch.randn(1, 4, generator=generator),
    }
