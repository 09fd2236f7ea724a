"""Timing `differentiable` beside a bare `torch.autograd.Function`, and the bytes that passes keep."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from backhand.differentiating import differentiable
from backhand.passes import batch_norm_fused, layer_norm, linear_cross_entropy, product, rms_norm
from backhand.remembering import Memory, memory

from .report import Overhead

CALLS = 50
"""In a row: a millisecond or more, far above what the clock can tell."""

Step = Callable[[], object]


class Bare(torch.autograd.Function):
    """The lecture's batch norm in one go, as one writes it without backhand; see `batch_norm_fused`."""

    @staticmethod
    def forward(ctx: Any, hprebn: Tensor, bngain: Tensor, bnbias: Tensor) -> Tensor:
        """Normalise, scale and shift."""
        ctx.n = hprebn.shape[0]
        bnvar_inv = (hprebn.var(0, keepdim=True, correction=1) + 1e-5) ** -0.5
        bnraw = (hprebn - hprebn.mean(0, keepdim=True)) * bnvar_inv
        ctx.save_for_backward(bngain, bnvar_inv, bnraw)
        return bngain * bnraw + bnbias

    @staticmethod
    def backward(ctx: Any, dhpreact: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compute the gradients of the three inputs."""
        n, (bngain, bnvar_inv, bnraw) = ctx.n, ctx.saved_tensors
        dbnbias = dhpreact.sum(0, keepdim=True)
        dbngain = (bnraw * dhpreact).sum(0, keepdim=True)
        dhprebn = bngain * bnvar_inv / n * (n * dhpreact - dbnbias - n / (n - 1) * bnraw * dbngain)
        return dhprebn, dbngain, dbnbias


class BareProduct(torch.autograd.Function):
    """A product, which does so little that what is done around it counts most; see `product`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Multiply."""
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compute the gradients of both factors."""
        a, b = ctx.saved_tensors
        return b * dy, a * dy


def measure_overheads(rounds: int) -> tuple[Overhead, ...]:
    """Time a step and an inference at the lecture's 32 x 200, in turn, beside a bare Function."""
    generator = torch.Generator().manual_seed(0)
    upstream = torch.randn(32, 200, generator=generator)

    def training(function: Callable[..., Tensor], leaves: Sequence[Tensor]) -> Step:
        return lambda: torch.autograd.grad(function(*leaves), leaves, upstream)

    def inference(function: Callable[..., Tensor], leaves: Sequence[Tensor]) -> Step:
        return torch.no_grad()(lambda: function(*leaves))

    passes = (("batch norm", batch_norm_fused, Bare, (32, 1, 1)), ("product", product, BareProduct, (32, 32)))
    drawn = {
        name: [torch.randn(n, 200, generator=generator).requires_grad_() for n in examples]
        for name, *_, examples in passes
    }
    return tuple(
        compared(
            f"{name}, {kind.__name__}",
            kind(differentiable(textbook), drawn[name]),
            kind(bare.apply, drawn[name]),
            rounds,
        )
        for name, textbook, bare, _ in passes
        for kind in (training, inference)
    )


def compared(name: str, step: Step, bare: Step, rounds: int) -> Overhead:
    """Time two steps in turn, and compare them round by round."""
    times = np.empty((2, rounds))
    for r in range(-2, rounds):  # the first two warm up
        for i, work in enumerate((step, bare)):
            began = time.perf_counter()
            for _ in range(CALLS):
                work()
            times[i, max(r, 0)] = (time.perf_counter() - began) / CALLS
    low, ratio, high = np.quantile(times[0] / times[1], [0.25, 0.5, 0.75]).tolist()
    ours, beside = np.median(times, axis=1) * 1e6
    return Overhead(name, float(ours), float(beside), ratio, low, high)


def measure_passes() -> dict[str, Memory]:
    """Return what some passes keep between forward and backward, beside autograd and torch's own."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "layer norm, 8 x 128 x 256": memory(
            layer_norm,
            {"x": drawn(8, 128, 256), "gain": drawn(256), "bias": drawn(256)},
            reference=lambda x, gain, bias: F.layer_norm(x, (256,), gain, bias),
        ),
        "RMS norm, 1024 x 256": memory(
            rms_norm,
            {"x": drawn(1024, 256), "gain": drawn(256)},
            reference=lambda x, gain: F.rms_norm(x, (256,), gain, 1e-6),
        ),
        "linear and cross entropy, 2048 x 64 x 8000": memory(
            linear_cross_entropy,
            {
                "x": drawn(2048, 64),
                "W": drawn(8000, 64),
                "targets": torch.randint(8000, (2048,), generator=generator),
            },
            reference=lambda x, W, targets: F.cross_entropy(F.linear(x, W), targets),
        ),
    }
