"""The lecture's 26-gradient pass as torch's gradcheck takes it: what the checker is timed beside."""

import inspect
import linecache
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from backhand.differentiating import differentiable
from backhand.passes import mlp_chunked


def lecture_cell(drawn: dict[str, Tensor]) -> Callable[[], None]:
    """Return the lecture's own check without its comparison: forward and backward, all 26 gradients kept."""
    leaves = {k: v.clone().requires_grad_(v.is_floating_point()) for k, v in drawn.items()}

    def cell() -> None:
        for leaf in leaves.values():
            leaf.grad = None
        tensors = mlp_chunked.forward(**leaves)
        for tensor in tensors.values():
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.retain_grad()
        tensors["loss"].backward()

    return cell


def gradcheck(drawn: dict[str, Tensor], *, fast: bool) -> bool:
    """Return whether torch's gradcheck finds the pass right, in float64.

    It compares the hand-written backward with finite differences: it says whether the gradients of the
    parameters are right, not which line is wrong. `fast` compares random projections of them.
    """
    wired = differentiable(mlp_chunked)
    leaves = [v.double().requires_grad_() if v.is_floating_point() else v for v in drawn.values()]
    return torch.autograd.gradcheck(wired, leaves, fast_mode=fast, raise_exception=False)


def with_a_wrong_line() -> ModuleType:
    """Return the pass with Bessel's correction forgotten in its backward."""
    text = inspect.getsource(mlp_chunked).replace("1 / (n - 1) * dbnvar", "1 / n * dbnvar")
    linecache.cache["<wrong>"] = (len(text), None, text.splitlines(keepends=True), "<wrong>")
    module = ModuleType("wrong")
    exec(compile(text, "<wrong>", "exec"), module.__dict__)
    return module
