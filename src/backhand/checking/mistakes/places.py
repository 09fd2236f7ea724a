"""The places in a statement where an edit can be tried, and what the variables there hold."""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from backhand.checking.running.names import flatten
from backhand.checking.running.program import Namespace

Role = Literal["value", "exponent", "index", "axis"]


@dataclass(frozen=True)
class Edit:
    """One edit, with the mistake that it mends."""

    kind: str
    words: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """An expression within a statement: where it hangs, and the part it plays there."""

    parent: ast.AST
    slot: str
    index: int | None
    node: ast.expr
    role: Role

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
    numbers: Sequence[float]
    derived: Sequence[Derived]
    shape: tuple[int, ...]

    def tensors(self) -> list[str]:
        """The local variables that hold floating-point tensors, and items of dictionaries that do."""
        there = {n: self.namespace[n] for n in self.local_names if n in self.namespace}
        mappings = {n: v for n, v in there.items() if isinstance(v, Mapping)}
        return [n for n, v in (there | flatten(mappings)).items() if holds_tensor(v)]

    def expression(self, name: str) -> ast.expr:
        """Return the expression that reads one of these tensors."""
        return ast.parse(name, mode="eval").body

    def is_gradient(self, name: str) -> bool:
        """Tell whether a variable holds a gradient."""
        return name in self.gradients or (name.startswith("d") and name[1:] in self.namespace)

    def is_one(self, name: str) -> bool:
        """Tell whether a variable holds nothing but ones, so that a factor of it changes nothing."""
        value = self.namespace.get(name)
        return isinstance(value, Tensor) and bool((value == 1).all())


VALUES = ast.Name | ast.BinOp | ast.Call | ast.Subscript  # expressions that may be a tensor
OF_NUMBERS = {
    "add",
    "sub",
    "mul",
    "div",
    "full",
    "full_like",
    "fill",
    "masked_fill",
    "clamp",
    "tensor",
    "where",
}
Proposal = tuple[ast.expr, Edit]


Rule = Callable[[Place, Scope], Iterator[Proposal]]


def places_of(node: ast.AST, role: Role = "value") -> Iterator[Place]:
    """Yield every expression within a node, the outer before the inner."""
    for slot, value in ast.iter_fields(node):
        if slot == "targets" or (slot == "target" and not isinstance(node, ast.For)):
            for part in ast.walk(value) if isinstance(value, ast.AST) else ():
                if isinstance(part, ast.Subscript):
                    yield Place(part, "slice", None, part.slice, "index")
                    yield from places_of(part.slice, "index")
            continue
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, item in items:
            within = _role(node, slot, item) or role
            if isinstance(item, ast.expr):
                yield Place(node, slot, index, item, within)
            if isinstance(item, ast.AST):
                yield from places_of(item, within)


def _role(node: ast.AST, slot: str, item: object) -> Role | None:
    """Return the part that an item plays by where it hangs; None where it plays that of the whole."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and slot == "right":
        return "exponent"
    if isinstance(node, ast.Subscript) and slot == "slice":
        return "index"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        return "index"
    if isinstance(node, ast.keyword):
        return "axis" if _is_whole(item) else None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not _is_whole(item):
        return None
    called = node.func.attr.removesuffix("_")
    return "exponent" if called == "pow" else None if called in OF_NUMBERS else "axis"


def _is_whole(item: object) -> bool:
    """Tell whether an expression is a whole number as it stands, or its negative: an axis, as an argument."""
    node = item.operand if isinstance(item, ast.UnaryOp) else item
    return isinstance(node, ast.Constant) and type(node.value) is int


def holds_tensor(value: object) -> bool:
    """Tell whether a value is a floating-point tensor."""
    return isinstance(value, Tensor) and value.is_floating_point()
