"""Time the checker beside torch's gradcheck, on the lecture's 26-gradient pass at (10, 64), batch 32.

    python benchmarks/gradcheck.py

gradcheck compares with finite differences: it says whether the gradients are right, not which line is
wrong. One thread; the best and the median of several runs, in milliseconds.
"""

import inspect
import linecache
import platform
import statistics
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import backhand
from backhand.passes import mlp_chunked


def timed(function: Callable[[], Any], runs: int) -> str:
    """Return the best and the median time of several runs."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - began))
    return f"best {min(times):9.2f} ms   median {statistics.median(times):9.2f} ms   ({runs} runs)"


def with_a_wrong_line() -> types.ModuleType:
    """Return the pass with Bessel's correction forgotten in its backward."""
    text = inspect.getsource(mlp_chunked).replace("1 / (n - 1) * dbnvar", "1 / n * dbnvar")
    linecache.cache["<wrong>"] = (len(text), None, text.splitlines(keepends=True), "<wrong>")
    module = types.ModuleType("wrong")
    exec(compile(text, "<wrong>", "exec"), module.__dict__)
    return module


def as_function(drawn: dict[str, Tensor]) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Return the pass as a function of its parameters, with the hand-written backward."""
    wanted = inspect.signature(mlp_chunked.backward).parameters
    names = [k for k, v in drawn.items() if v.is_floating_point()]

    class Lecture(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *parameters: Tensor) -> Tensor:
            tensors = mlp_chunked.forward(drawn["Xb"], drawn["Yb"], *parameters)
            ctx.tensors = {k: tensors[k] for k in wanted}
            return tensors["loss"]

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
            found = mlp_chunked.backward(**ctx.tensors)
            return tuple(found[f"d{k}"] * g for k in names)

    parameters = [drawn[k].double().requires_grad_() for k in names]
    return Lecture.apply, parameters


def main() -> None:
    """Run the benchmark."""
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    drawn = mlp_chunked.inputs(torch.Generator().manual_seed(0))
    leaves = {k: v.double().requires_grad_() if v.is_floating_point() else v for k, v in drawn.items()}
    wrong = with_a_wrong_line()
    assert backhand.check(mlp_chunked).ok
    assert [row.name for row in backhand.check(wrong).culprits] == ["bndiff2"]
    print(
        "forward and autograd's backward   ",
        timed(lambda: mlp_chunked.forward(**leaves)["loss"].backward(), 50),
    )
    print("check, right                      ", timed(lambda: backhand.check(mlp_chunked), 20))
    print("check, a wrong line               ", timed(lambda: backhand.check(wrong), 20))
    function, parameters = as_function(drawn)
    fast = lambda: torch.autograd.gradcheck(function, parameters, fast_mode=True)  # noqa: E731
    print("gradcheck, fast mode              ", timed(fast, 5))
    print(
        "gradcheck, slow mode              ", timed(lambda: torch.autograd.gradcheck(function, parameters), 1)
    )


if __name__ == "__main__":
    main()
