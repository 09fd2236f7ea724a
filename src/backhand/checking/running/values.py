"""What the forward makes on the way: the operands and the result of every operation, turn by turn.

A backward that makes a tensor of the forward anew, or takes it from where the forward has put it, is held to
these as it is to the gradients that autograd knows.
"""

import ast
import collections
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from backhand.checking.running.complexes import is_differentiable
from backhand.checking.running.known import Known, Label, Seen, each_once


@dataclass(frozen=True)
class _Noted:
    """A tensor in the version in which an operation saw it, and what part it played there.

    Attributes:
        key: which operation of its statement, by name and number, and which operand; -1 and less of results.
    """

    key: tuple[str, int, int]
    value: Tensor
    version: int


class Values(TorchFunctionMode):
    """Notes the floating-point and complex tensors that go into each operation, and come out of it."""

    def __init__(self) -> None:
        super().__init__()
        self._now: list[_Noted] = []
        self._count: collections.Counter[str] = collections.Counter()
        self._turns: collections.Counter[ast.stmt | None] = collections.Counter()
        self._seen: list[tuple[ast.stmt | None, int, _Noted]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = _name_of(func)
        number, self._count[name] = self._count[name], self._count[name] + 1
        for i, value in enumerate(tensors_in(args)):
            self._note((name, number, i), value)
        for i, value in enumerate(tensors_in((result,))):
            self._note((name, number, -1 - i), value)
        return result

    def _note(self, key: tuple[str, int, int], value: Tensor) -> None:
        if is_differentiable(value) and value.dim():
            self._now.append(_Noted(key, value.detach(), value._version))

    def ended(self, statement: ast.stmt | None) -> None:
        """Take note that all operations so far belong to a statement that has run; None for a `return`."""
        self._seen += [(statement, self._turns[statement], noted) for noted in self._now]
        self._turns[statement] += 1
        self._now.clear()
        self._count.clear()

    def sequences(self) -> list[Known]:
        """Return what was seen, of what was not changed in place later."""
        found: dict[Any, list[Seen]] = {}
        labels: dict[Any, tuple[Label, Any]] = {}
        for age, (statement, turn, noted) in enumerate(self._seen):
            if noted.value._version == noted.version:
                name, _, part = noted.key
                # all of one name as well, for a loop that is an expression
                for key in (("value", statement, noted.key), ("value", statement, name, "all", part)):
                    found.setdefault(key, []).append(Seen(age, turn, noted.value))
                    labels[key] = Label("value", ((statement, name),)), key
        return each_once(found, labels)


@lru_cache(maxsize=1024)
def _name_of(func: Any) -> str:
    """Return what an operation is called; PyTorch looks it up among all that it has, without warnings."""
    return resolve_name(func) or getattr(func, "__name__", "")


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Yield the tensors among an operation's operands or results, also those in lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
