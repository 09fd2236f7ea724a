"""The lecture's 26-gradient pass as torch's gradcheck takes it: what the checker is timed beside."""

import inspect
import linecache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from backhand.passes import mlp_chunked


def gradcheck(drawn: dict[str, Tensor], *, fast: bool) -> bool:
    """Return whether torch's gradcheck finds the pass right, in float64.

    It compares the hand-written backward with finite differences: it says whether the gradients of the
    parameters are right, not which line is wrong. `fast` compares random projections of them.
    """
    wanted = inspect.signature(mlp_chunked.backward).parameters
    names = [name for name, value in drawn.items() if value.is_floating_point()]

    class Lecture(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *parameters: Tensor) -> Tensor:
            named = dict(zip(names, parameters, strict=True))
            tensors = mlp_chunked.forward(drawn["Xb"], drawn["Yb"], **named)
            ctx.tensors = {name: tensors[name] for name in wanted}
            return tensors["loss"]

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, ...]:
            found = mlp_chunked.backward(**ctx.tensors)
            return tuple(found[f"d{name}"] * upstream[0] for name in names)

    parameters = [drawn[name].double().requires_grad_() for name in names]
    return torch.autograd.gradcheck(Lecture.apply, parameters, fast_mode=fast, raise_exception=False)


def with_a_wrong_line() -> ModuleType:
    """Return the pass with Bessel's correction forgotten in its backward."""
    text = inspect.getsource(mlp_chunked).replace("1 / (n - 1) * dbnvar", "1 / n * dbnvar")
    linecache.cache["<wrong>"] = (len(text), None, text.splitlines(keepends=True), "<wrong>")
    module = ModuleType("wrong")
    exec(compile(text, "<wrong>", "exec"), module.__dict__)
    return module
