"""Time the checker and gradcheck by the lecture's own cell, on its 26 gradients at (10, 64), batch 32.

    python benchmarks/checking.py

The measure is the lecture's own cell: the forward and autograd's backward in float32, the gradients of all
26 tensors kept. gradcheck compares with finite differences: it says whether the gradients are right, not
which line is wrong. One thread, and its processor time, so that what else the machine does is left out; all
take turns. Printed are the medians and quartiles of the rounds, and the median of the ratios in a round;
then the same of all of the pass's mutants (see mutants.py), three times each, and the slowest of them.
"""

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mutating import mutants_of
from subject import Subject

import backhand
from backhand.benching.gradchecks import gradcheck, lecture_cell, with_a_wrong_line
from backhand.passes import mlp_chunked


def milliseconds(function: Callable[[], Any], repeat: int = 1) -> float:
    """Return the processor time of a call; of several calls the median."""
    times = []
    for _ in range(repeat):
        began = time.process_time()
        function()
        times.append(1e3 * (time.process_time() - began))
    return statistics.median(times)


def told(label: str, times: list[float], cell: list[float]) -> str:
    """Return a line of the answer."""
    low, middle, high = statistics.quantiles(times, n=4)
    ratio = statistics.median(t / c for t, c in zip(times, cell, strict=True))
    return f"{label:34} {middle:9.2f} ms ({low:.2f} to {high:.2f})   {ratio:8.1f} times the cell"


def main() -> None:
    """Run the benchmark."""
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    drawn = mlp_chunked.inputs(torch.Generator().manual_seed(0))
    wrong = with_a_wrong_line()
    assert backhand.check(mlp_chunked).ok
    assert [row.name for row in backhand.check(wrong).culprits] == ["bndiff2"]
    cell = lecture_cell(drawn)
    contenders: dict[str, Callable[[], Any]] = {
        "check, right": lambda: backhand.check(mlp_chunked),
        "check, a wrong line": lambda: backhand.check(wrong),
        "gradcheck, fast mode": lambda: gradcheck(drawn, fast=True),
    }
    cells: list[float] = []
    times: dict[str, list[float]] = {label: [] for label in contenders}
    for _ in range(41):
        cells.append(milliseconds(cell, 9))
        for label, contender in contenders.items():
            times[label].append(milliseconds(contender, 3))
    print(told("forward and backward, 26 kept", cells, cells))
    for label, its in times.items():
        print(told(label, its, cells))
    slow = [milliseconds(lambda: gradcheck(drawn, fast=False)) for _ in range(3)]
    print(told("gradcheck, slow mode", slow, [statistics.median(cells)] * 3))
    wrong_lines = [mutant.module for mutant in mutants_of(Subject(mlp_chunked))]
    wrong_lines = [module for module in wrong_lines if not backhand.check(module).ok]
    each = [milliseconds(partial(backhand.check, module), 3) for module in wrong_lines]
    print(told(f"check, {len(each)} wrong lines", each, [statistics.median(cells)] * len(each)))
    print(f"{'the slowest of them':34} {max(each):9.2f} ms")


if __name__ == "__main__":
    main()
