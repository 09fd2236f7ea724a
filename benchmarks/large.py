"""Time the check of SiLU at 4096 x 4096, and take the memory that it needs.

    python benchmarks/large.py

The measure is a forward and backward of the reference in float64 on the same tensors. Printed are the first
check's peak of resident memory above what was held before, as a multiple of the input's (float32), and the
processor time of the checks as a multiple of the measure taken beside each, median and extremes of five.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import silu

import backhand


class SiLU(Function):
    """The function with its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return x sigmoid(x)."""
        ctx.save_for_backward(x)
        return silu(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        """Return the gradient of x."""
        return backward(dy, *ctx.saved_tensors)["dx"]


def backward(dy: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Return the gradient of x by name."""
    s = torch.sigmoid(x)
    return {"dx": dy * s * (1 + x * (1 - s))}


def seconds(function: Callable[[], Any]) -> float:
    """Return the processor time of a call."""
    began = time.process_time()
    function()
    return time.process_time() - began


def resident(what: str) -> int:
    """Return a line of the process's status, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(what)).split()[1])


def measured(label: str, check: Callable[[Tensor], backhand.Report], x: Tensor) -> str:
    """Return a line of the answer."""
    assert check(x[:1100, :1100].clone()).ok  # large as well: what is loaded at first use is not counted
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    assert check(x).ok
    peak = (resident("VmHWM") - before) / x.nbytes
    leaf, upstream = x.double().requires_grad_(), torch.randn(x.shape, dtype=torch.float64)
    ratios = []
    for _ in range(5):
        own = min(seconds(lambda: torch.autograd.grad(silu(leaf), leaf, upstream)) for _ in range(3))
        ratios.append(seconds(lambda: check(x)) / own)
    middle = statistics.median(ratios)
    return f"{label:16} {middle:5.1f} times ({min(ratios):.1f} to {max(ratios):.1f}), memory {peak:.1f} times"


def main() -> None:
    """Run the benchmark."""
    x = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    print(measured("check_function", lambda x: backhand.check_function(SiLU, silu, {"x": x}), x))
    plain = partial(backhand.check, lambda x: {"y": silu(x)}, backward, out="y")
    print(measured("check", lambda x: plain(inputs={"x": x}), x))


if __name__ == "__main__":
    main()
