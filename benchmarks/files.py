"""The time of many small files: `python benchmarks/files.py [--files N] [--jobs N] [--wrong SHARE]`.

Each file holds one thing to check, a Function, a pass or a script, in turn. Printed: the seconds until the
first verdict, most of which import PyTorch, and the seconds a file after that.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from backhand import check_files

FUNCTION = """import torch


class Scaled{i}(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w.sigmoid()

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        s = w.sigmoid()
        dw = (dy * x * s * {slip}).sum(0)
        return dy * s, dw


def reference(x, w):
    return x / (1 + torch.exp(-w))


def inputs(g):
    return {{"x": torch.randn(5, 3, generator=g), "w": torch.randn(3, generator=g)}}
"""
PASS = """import torch


def forward(x, w):
    h = torch.sigmoid(x @ w)
    y = h * h
    return locals()


def backward(dy, x, w, h):
    dh = 2 * h * dy
    da = dh * h * {slip}
    dx = da @ w.T
    dw = x.T @ da
    return locals()


out = "y"


def inputs(g):
    return {{"x": torch.randn(4, 3, generator=g), "w": torch.randn(3, 5, generator=g)}}
"""
SCRIPT = """import torch

x = torch.randn(4, 3)
w = torch.randn(3, 2)
h = torch.sigmoid(x @ w)
loss = h.square().mean()

dh = 2 * h / h.numel()
da = dh * h * {slip}
dw = x.T @ da
dx = da @ w.T
"""
SLIPS = {FUNCTION: ("(1 - s)", "(1 + s)"), PASS: ("(1 - h)", "(1 + h)"), SCRIPT: ("(1 - h)", "(1 + h)")}


def write(folder: Path, files: int, wrong: float) -> None:
    """Write that many files, of which a share is wrong."""
    for i in range(files):
        text = (FUNCTION, PASS, SCRIPT)[i % 3]
        slip = SLIPS[text][int((i // 3) * wrong) != int((i // 3 + 1) * wrong)]
        name = folder / f"file_{i:04}.py"
        name.write_text(
            text.replace("{i}", str(i)).replace("{slip}", slip).replace("{{", "{").replace("}}", "}")
        )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--files", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--wrong", type=float, default=0.1, metavar="SHARE")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), chosen.files, chosen.wrong)
        began, states = time.perf_counter(), dict[str, int]()
        first = 0.0
        for checked in check_files([folder], jobs=chosen.jobs):
            first = first or time.perf_counter() - began
            states[checked.state] = states.get(checked.state, 0) + 1
        rest = (time.perf_counter() - began - first) / max(chosen.files - 1, 1)
    print(", ".join(f"{n} {state}" for state, n in sorted(states.items())))
    print(f"{chosen.jobs} jobs, load {os.getloadavg()[0]:.1f}:", end=" ")
    print(f"first verdict after {first:.1f} s, then {rest:.3f} s a file")


if __name__ == "__main__":
    main()
