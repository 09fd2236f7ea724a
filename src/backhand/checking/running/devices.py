"""What an altered statement picks by index from tensors of a GPU: tried first where that only raises."""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


def tried_first(values: Iterable[object]) -> contextlib.AbstractContextManager[object]:
    """Let what is given integers of a GPU be tried on the CPU first, where some of the values lie there.

    An index that lies outside raises on a CPU. On a GPU it ends all that the process has there: from then on
    everything raises, the user's own code too.
    """
    elsewhere = any(isinstance(v, Tensor) and v.device.type != "cpu" for v in values)
    return _TriedFirst() if elsewhere else contextlib.nullcontext()


class _TriedFirst(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(_are_indices(v) for v in tree_leaves((args, kwargs))):
            with contextlib.suppress(NotImplementedError):  # what there is for GPUs alone
                func(*tree_map(_on_cpu, args), **tree_map(_on_cpu, kwargs))
        return func(*args, **kwargs)


def _are_indices(value: object) -> bool:
    """Tell whether a value may be indices, on a GPU; a mask that does not fit is refused there as well."""
    if not isinstance(value, Tensor) or value.device.type == "cpu":
        return False
    return not value.dtype.is_floating_point and value.dtype != torch.bool


def _on_cpu(value: Any) -> Any:
    return value.to("cpu", copy=True) if isinstance(value, Tensor) else value
