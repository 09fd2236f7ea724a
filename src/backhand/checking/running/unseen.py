"""What changes a tensor without PyTorch's counting it, as a compiled kernel does that fills one."""

import ast
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.instrumenting import Watcher


class Unseen(Watcher):
    """Takes note of the first such statement.

    Every watcher tells by `Tensor._version` when a gradient was written: after such a statement it would take
    for complete what is not filled yet.
    """

    def __init__(self) -> None:
        self.statement: ast.stmt | None = None
        self._kept: dict[int, tuple[Tensor, Tensor, int]] = {}  # kept, so that no identity is used twice

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Compare each tensor with what it was."""
        for value in variables.values():
            if not isinstance(value, Tensor):
                continue
            _, before, version = self._kept.get(id(value), (value, value, -1))
            if version == value._version and not _is_same(before, value):
                self.statement = self.statement or statement
                version = -1
            if version != value._version:
                self._kept[id(value)] = value, value.detach().clone(), value._version


def _is_same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())
