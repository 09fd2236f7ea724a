"""A linear layer and cross entropy in chunks beside torch's two calls: processor time and peak memory."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

N, D, V, ROUNDS = 2048, 256, 32_000, 7


def steps() -> dict[str, Callable[[], object]]:
    """Return a forward and backward by each."""
    import torch
    from torch.nn import functional as F

    import backhand
    from backhand.passes import linear_cross_entropy

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator).requires_grad_()
    W = (torch.randn(V, D, generator=generator) / D**0.5).requires_grad_()
    targets = torch.randint(V, (N,), generator=generator)
    chunked = backhand.differentiable(linear_cross_entropy)
    return {
        "in chunks": lambda: torch.autograd.grad(chunked(x, W, targets), (x, W)),
        "two calls": lambda: torch.autograd.grad(F.cross_entropy(F.linear(x, W), targets), (x, W)),
    }


def print_peak(name: str) -> None:
    """Print how much more memory this process has at most during a step, once it has made one."""
    step = steps()[name]
    step()
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")  # the peak is that from now on
    before = resident("VmRSS")
    step()
    print(f"{name}: {(resident('VmHWM') - before) / 1000:.0f} MB")


def resident(key: str) -> int:
    """Return a figure of this process in kB, as Linux tells it."""
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))


def main() -> None:
    """Print the peaks, each in a process of its own, then the times, in turn."""
    if len(sys.argv) > 1:
        print_peak(sys.argv[1])
        return
    given_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed leaves the process at once
    for name in steps():
        subprocess.run([sys.executable, __file__, name], check=True, env=given_back)
    times = np.empty((2, ROUNDS))
    for r in range(ROUNDS):
        for i, step in enumerate(steps().values()):
            began = time.process_time()
            step()
            times[i, r] = time.process_time() - began
    low, ratio, high = np.quantile(times[0] / times[1], [0.25, 0.5, 0.75])
    ours, theirs = np.median(times, axis=1)
    print(f"{ours:.2f} s and {theirs:.2f} s; ratio {ratio:.2f} [{low:.2f} to {high:.2f}], {ROUNDS} rounds")


if __name__ == "__main__":
    main()
