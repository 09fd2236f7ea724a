"""What changes a tensor without PyTorch's counting it, as a compiled kernel does that fills one."""

import ast
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.containers import is_strided, place_of
from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.slicing import computes
from backhand.checking.running.statements import writes


class Unseen(Watcher):
    """Takes note of the statements that do so, and of what they change.

    Every watcher tells by `Tensor._version` when a gradient was written: after such a statement it would take
    for complete what is not filled yet. What the backward only reads may change so: its input that was saved,
    as an array over NumPy.

    Attributes:
        sees_sparse_tensors: whether a variable held one, which no watcher can look into.
    """

    def __init__(self) -> None:
        self.sees_sparse_tensors: bool = False
        self._changed: list[tuple[ast.stmt, Tensor]] = []
        self._made: set[int] = set()
        self._kept: dict[int, tuple[Tensor, Tensor, int]] = {}  # kept, so that no identity is used twice

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Compare each tensor with what it was."""
        written = writes(statement) if computes(statement) else set()
        for name, value in variables.items():
            if not is_strided(value):
                self.sees_sparse_tensors |= isinstance(value, Tensor)
                continue
            if id(value) not in self._kept and name in written:
                self._made.add(id(value))
            _, before, version = self._kept.get(id(value), (value, value, -1))
            if version == value._version and not _is_same(before, value):
                self._changed.append((statement, value))
                version = -1
            if version != value._version:
                self._kept[id(value)] = value, value.detach().clone(), value._version

    def first(self, returned: Iterable[Any]) -> ast.stmt | None:
        """Return the first statement that so changes what the backward makes, or what it returns."""
        places = {place_of(value) for value in returned} - {None}
        found = (s for s, value in self._changed if id(value) in self._made or place_of(value) in places)
        return next(found, None)


def _is_same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())
