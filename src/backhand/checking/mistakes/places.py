"""The places in a statement where an edit can be tried, and what the variables there hold."""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from backhand.checking.running.executing import Namespace


@dataclass(frozen=True)
class Edit:
    """One edit, with the mistake that it mends."""

    kind: str
    words: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """An expression within a statement: where it hangs, and whether it lies in an exponent or an index."""

    parent: ast.AST
    slot: str
    index: int | None
    node: ast.expr
    exponent: bool
    index_: bool

    def put(self, node: ast.AST) -> None:
        """Put another expression in its place."""
        if self.index is None:
            setattr(self.parent, self.slot, node)
        else:
            getattr(self.parent, self.slot)[self.index] = node


@dataclass(frozen=True)
class Derived:
    """A tensor that autograd knows and a statement may lack, in a variable of its own.

    Attributes:
        variable: what it is called on the benches.
        words: what it is.
        branch: the consumer through which it arrives, if it is a term; otherwise it is a factor.
    """

    variable: str
    words: str
    branch: str | None = None


@dataclass(frozen=True)
class Scope:
    """What the variables of the statement hold."""

    namespace: Namespace
    gradients: Mapping[str, str]
    local_names: frozenset[str]
    derived: Sequence[Derived] = ()

    def tensors(self) -> list[str]:
        """The local variables that hold floating-point tensors."""
        return [n for n in self.local_names if holds_tensor(self.namespace.get(n))]

    def is_gradient(self, name: str) -> bool:
        """Tell whether a variable holds a gradient."""
        return name in self.gradients or (name.startswith("d") and name[1:] in self.namespace)


VALUES = ast.Name | ast.BinOp | ast.Call | ast.Subscript  # expressions that may be a tensor
Proposal = tuple[ast.expr, Edit]


Rule = Callable[[Place, Scope], Iterator[Proposal]]


def places_of(node: ast.AST, exponent: bool = False, index_: bool = False) -> Iterator[Place]:
    """Yield every expression within a node, the outer before the inner."""
    for slot, value in ast.iter_fields(node):
        if slot == "targets" or (slot == "target" and not isinstance(node, ast.For)):
            for part in ast.walk(value) if isinstance(value, ast.AST) else ():
                if isinstance(part, ast.Subscript):
                    yield Place(part, "slice", None, part.slice, False, True)
                    yield from places_of(part.slice, False, True)
            continue
        within = exponent or (
            isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and slot == "right"
        )
        indexing = index_ or (isinstance(node, ast.Subscript) and slot == "slice") or _is_range(node)
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, item in items:
            if isinstance(item, ast.expr):
                yield Place(node, slot, index, item, within, indexing)
            if isinstance(item, ast.AST):
                yield from places_of(item, within, indexing)


def _is_range(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"


def holds_tensor(value: object) -> bool:
    """Tell whether a value is a floating-point tensor."""
    return isinstance(value, Tensor) and value.is_floating_point()
