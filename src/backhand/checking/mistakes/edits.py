"""The edits that can be tried on a statement: in which place, what instead, and the mistake that it mends."""

import ast
import contextlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from backhand.checking.mistakes.dialects import TORCH, Dialect
from backhand.checking.mistakes.finding import Finding
from backhand.checking.running.complexes import is_differentiable
from backhand.checking.running.containers import flatten
from backhand.checking.running.names import root
from backhand.checking.running.statements import writes_surely
from backhand.checking.verdicts.comparing import close

Role = Literal["value", "exponent", "index", "axis"]
OVERWRITTEN = Finding("overwritten", {}, "`=` stands where `+=` belongs")
VALUES = ast.Name | ast.BinOp | ast.Call | ast.Subscript | ast.Compare  # expressions that may be a tensor
# What is asked of a tensor that is no value of it.
MEASURES = {"shape", "dtype", "device", "ndim", "layout"}
# Methods whose whole numbers are numbers; those of the others are axes, as a rule.
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


@dataclass(frozen=True)
class Place:
    """A node within a statement, or a statement in its block: where it hangs, and the part it plays there."""

    parent: ast.AST
    slot: str
    index: int | None
    node: Any
    role: Role = "value"

    def holds_value(self, scope: "Scope") -> bool:
        """Tell whether an expression stands there that may be a tensor."""
        if self.role != "value" or not isinstance(self.node, VALUES):
            return False
        if not isinstance(self.node, ast.Name | ast.Compare):
            return True
        names = [n.id for n in ast.walk(self.node) if isinstance(n, ast.Name)]
        return any(holds_tensor(scope.namespace.get(name)) for name in names)

    def put(self, node: Any) -> None:
        """Put another node in its place, or other statements in that of a block's."""
        if self.index is None:
            setattr(self.parent, self.slot, node)
        else:
            getattr(self.parent, self.slot)[self.index] = node


@dataclass(frozen=True)
class Edit:
    """Another node in a place, or other statements in a block's, with the mistake that it mends."""

    place: Place
    node: Any
    mends: Finding

    def told(self, words: str) -> "Edit":
        """Return it with other words for the same mistake."""
        return replace(self, mends=replace(self.mends, words=words))

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Have it in force within a block."""
        new = self.node
        if isinstance(new, ast.expr | ast.stmt):
            _locate(new, self.place.node)
        self.place.put(new)
        try:
            yield
        finally:
            self.place.put(self.place.node)


def _locate(new: ast.AST, like: ast.AST) -> None:
    """Give what is new in a node the line of what it stands for, which may be a part of it.

    That part, often most of the node, is passed over; `ast.fix_missing_locations` looks at each of its own.
    """
    stack = [new]
    while stack:
        node = stack.pop()
        if node is not like:
            if "lineno" in node._attributes and not hasattr(node, "lineno"):
                ast.copy_location(node, like)
            stack += ast.iter_child_nodes(node)


@dataclass(frozen=True, eq=False)
class Scope:
    """What the variables of the statement hold.

    Attributes:
        namespace: the variables.
        gradients: the variables that hold gradients, or what is made of some.
        names: the variables that a slip may have put in another's place.
        numbers: constants of the forward, which a line may lack.
        shape: that of the gradient.
        known: what autograd knows of this step: each tensor's variable, what it is, and the branch that it
            is, if it is a term and no factor.
        dialect: how the statements call operations.
        parts: the tensors that lie on objects, as on `self`, or at an index, by what reads them.
    """

    namespace: Mapping[str, Any]
    gradients: Container[str]
    names: Sequence[str]
    numbers: Sequence[float]
    shape: tuple[int, ...]
    known: Sequence[tuple[str, str, str | None]] = ()
    dialect: Dialect = TORCH
    parts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> list[str]:
        """The variables that hold floating-point tensors, and the items and parts that do."""
        there = {n: self.namespace[n] for n in self.names if n in self.namespace}
        mappings = {n: v for n, v in there.items() if isinstance(v, Mapping)}
        items = {**flatten(mappings), **self.parts}
        return [n for n, v in (there | items).items() if holds_tensor(v)]

    def held(self, name: str) -> Any:
        """Return what a variable or a part holds, None where there is none."""
        return self.namespace.get(name, self.parts.get(name))

    def masks_of(self, name: str) -> list[str]:
        """Return the variables that hold masks of the shape of a tensor."""
        like = self.held(name)
        held = {n: v for n in self.names if isinstance(v := self.namespace.get(n), Tensor)}
        return [n for n, v in held.items() if v.dtype == torch.bool and v.shape == like.shape]

    def is_tensor(self, node: ast.AST) -> bool:
        """Tell whether an attribute is a tensor, and no function of a module or size of an array."""
        return isinstance(node, ast.Attribute) and _text(node) in self.parts

    def squashed(self, node: ast.expr) -> dict[str, bool]:
        """Return the variables that may be what a tanh, a sigmoid or a softmax gave: none is larger than 1.

        They are of the shape of the gradient, or of a node; with each stands whether none is negative.
        """
        shapes = {self.shape, self.shape_of(node)}
        return {n: positive for n, (shape, positive) in self._squashed.items() if shape in shapes}

    @cached_property
    def _squashed(self) -> dict[str, tuple[tuple[int, ...], bool]]:
        held = {n: v for n in self.tensors if isinstance(v := self.held(n), Tensor) and not v.is_complex()}
        small = {n: v for n, v in held.items() if not bool((v.abs() > 1).any())}
        return {n: (tuple(v.shape), not bool((v < 0).any())) for n, v in small.items()}

    @cached_property
    def summing_to_one(self) -> list[tuple[str, int]]:
        """The variables that may be what a softmax gave, each with an axis along which it sums to 1."""
        held = {n: v for n in self.tensors if isinstance(v := self.held(n), Tensor)}
        return [(n, axis) for n, v in held.items() for axis in sums_to_one(v)]

    def expression(self, name: str) -> ast.expr:
        """Return the expression that reads one of these tensors."""
        if name.isidentifier():  # most are
            return ast.Name(name, ast.Load())
        return ast.parse(name, mode="eval").body

    def is_gradient(self, name: str) -> bool:
        """Tell whether a variable holds a gradient."""
        return root(name) in self.gradients

    def is_one(self, name: str) -> bool:
        """Tell whether a variable holds nothing but ones, so that a factor of it changes nothing."""
        value = self.namespace.get(name)
        return isinstance(value, Tensor) and bool((value == 1).all())

    def value_of(self, node: ast.expr) -> Any:
        """Return what an expression gives; None where it raises, or calls a function."""
        if any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) for n in ast.walk(node)):
            return None
        try:
            return eval(compile(ast.Expression(node), "<operand>", "eval"), dict(self.namespace))
        except Exception:  # it may be what raised
            return None

    @cached_property
    def sees_complex(self) -> bool:
        """Whether a variable holds complex numbers."""
        held = (self.held(n) for n in self.tensors)
        return any(isinstance(v, Tensor) and v.is_complex() for v in held)

    def shape_of(self, node: ast.expr) -> tuple[int, ...] | None:
        """Return the shape of a product's side; None where it calls a function, which may do anything."""
        shape = getattr(self.value_of(node), "shape", None)  # NumPy's functions make arrays of tensors
        return tuple(shape) if shape is not None else None


Proposal = tuple[ast.expr, Finding]
Rule = Callable[[Place, Scope], Iterator[Proposal]]


def sums_to_one(value: Tensor) -> list[int]:
    """Return the axes along which a tensor sums to 1 as a softmax's result does, none of it negative."""
    if value.is_complex() or bool((value < 0).any()):
        return []
    sums = {axis: value.sum(axis) for axis in range(value.dim()) if value.shape[axis] > 1}
    return [axis for axis, total in sums.items() if close(total, torch.ones_like(total))]


def _text(node: ast.AST) -> str:
    """Return an expression as the names of tensors have it."""
    return ast.unparse(node).replace("'", '"')


def holds_tensor(value: object) -> bool:
    """Tell whether a value is a tensor that may have a gradient."""
    return is_differentiable(value)


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number: a size, a step, an index."""
    return isinstance(value, int) and not isinstance(value, bool)


def edits_of(statement: ast.stmt, scope: Scope, rules: Sequence[Rule]) -> Iterator[Edit]:
    """Yield the edits of a statement, rule by rule."""
    yield from _other_signs(statement)
    places = list(places_of(statement))
    for rule in rules:
        for place in places:
            for node, mended in rule(place, scope):
                yield Edit(place, node, mended)


def _other_signs(statement: ast.stmt) -> Iterator[Edit]:
    for node in ast.walk(statement):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            mended = Finding("sign", {"branches": []}, "a term has the opposite sign")
            yield Edit(Place(node, "op", None, node.op), other, mended)


def dropped(block: ast.Module) -> Iterator[Edit]:
    """Yield the edits that leave out a statement which adds a term."""
    for i, statement in enumerate(block.body):
        if isinstance(statement, ast.AugAssign):
            mended = Finding("repeated_branch", {"branches": []}, "a term is added twice")
            yield Edit(Place(block, "body", i, statement), ast.Pass(), mended)


def accumulating(block: ast.AST, variable: str) -> Iterator[Edit]:
    """Yield the edits of `=` into `+=` for a variable, in inner blocks first."""
    for slot in ("body", "orelse"):
        inner = getattr(block, slot, None)
        for i, statement in enumerate(inner if isinstance(inner, list) else ()):
            yield from accumulating(statement, variable)
            if isinstance(statement, ast.Assign) and variable in writes_surely(statement):
                yield from _accumulating(Place(block, slot, i, statement))
            copied = overwritten(statement)
            if copied is not None and variable in writes_surely(statement):
                mended = Finding("overwritten", {}, "`copy_` stands where `add_` belongs")
                added = ast.Attribute(copied.value, "add_", ast.Load())
                yield Edit(Place(statement.value, "func", None, copied), added, mended)


def overwritten(statement: ast.AST) -> ast.Attribute | None:
    """Return the `x.copy_` of a statement that calls it and does nothing else."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    function = call.func if isinstance(call, ast.Call) else None
    return function if isinstance(function, ast.Attribute) and function.attr == "copy_" else None


def _accumulating(place: Place) -> Iterator[Edit]:
    statement: ast.Assign = place.node
    target = statement.targets[0]
    if len(statement.targets) > 1 or not isinstance(target, ast.Name | ast.Subscript):
        return
    text = ast.unparse(target)
    if any(ast.unparse(n) == text for n in ast.walk(statement.value)):
        return  # it makes the new value from the old one
    for op, sign in ((ast.Add(), "+="), (ast.Sub(), "-=")):
        mended = Finding("overwritten", {}, f"`=` stands where `{sign}` belongs")
        if isinstance(statement.value, ast.Constant):
            mended = Finding("partial", {"where": text}, "a part is set to a constant")
        yield Edit(place, ast.AugAssign(target, op, statement.value), mended)


def places_of(node: ast.AST, role: Role = "value") -> Iterator[Place]:
    """Yield every expression within a node, the outer before the inner."""
    for slot, value in ast.iter_fields(node):
        if slot == "targets" or (slot == "target" and not isinstance(node, ast.For)):
            targets = value if isinstance(value, list) else [value]
            for part in (n for target in targets for n in ast.walk(target)):
                if isinstance(part, ast.Subscript):
                    yield Place(part, "slice", None, part.slice, "index")
                    yield from places_of(part.slice, "index")
            continue
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, item in items:
            within = _role(node, slot, item) or role
            if isinstance(item, ast.expr) and not isinstance(node, ast.JoinedStr):  # its pieces are text
                yield Place(node, slot, index, item, within)
            if isinstance(item, ast.AST):
                yield from places_of(item, within)


def _role(node: ast.AST, slot: str, item: object) -> Role | None:
    """Return the part that an item plays by where it hangs; None where it plays that of the whole."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and slot == "right":
        return "exponent"
    if isinstance(node, ast.Subscript) and slot == "slice":
        return "index"
    if isinstance(node, ast.Attribute) and node.attr in MEASURES:
        return "index"  # what is asked of it is no number of it
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("range", "slice"):
        return "index"
    if isinstance(node, ast.keyword):
        return "axis" if _is_axis(item) and str(node.arg).startswith(("dim", "ax")) else None
    if isinstance(node, ast.Call) and any(item is bound for bound in bounds_given(node)):
        return "index"
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not _is_axis(item):
        return None
    called = node.func.attr.removesuffix("_")
    return "exponent" if called == "pow" else None if called in OF_NUMBERS else "axis"


def bounds_given(call: ast.Call) -> list[ast.expr]:
    """Return what a call says of where a part lies: in `x.narrow(axis, start, length)` all after the axis."""
    function = call.func
    if not isinstance(function, ast.Attribute) or function.attr not in ("narrow", "select"):
        return []
    is_of_torch = isinstance(function.value, ast.Name) and function.value.id == "torch"
    return call.args[2 if is_of_torch else 1 :]


def _is_axis(item: object) -> bool:
    """Tell whether an expression is an axis, or a row of axes, as an argument."""
    return _is_whole(item) or (isinstance(item, ast.Tuple) and all(map(_is_whole, item.elts)))


def _is_whole(item: object) -> bool:
    """Tell whether an expression is a whole number as it stands, or its negative."""
    node = item.operand if isinstance(item, ast.UnaryOp) else item
    return isinstance(node, ast.Constant) and type(node.value) is int
