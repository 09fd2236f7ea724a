"""The small edits of a statement that a slip of the pen may have undone, simplest first."""

import ast
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from backhand.checking.executing import Namespace
from backhand.checking.source import writes_surely


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
class Scope:
    """What the variables of the statement hold."""

    namespace: Namespace
    gradients: Mapping[str, str]
    local_names: frozenset[str]

    def tensors(self) -> list[str]:
        """The local variables that hold floating-point tensors."""
        return [n for n in self.local_names if _is_tensor(self.namespace.get(n))]

    def is_gradient(self, name: str) -> bool:
        """Tell whether a variable holds a gradient."""
        return name in self.gradients or (name.startswith("d") and name[1:] in self.namespace)


Proposal = tuple[ast.expr, Edit]
Rule = Callable[[Place, Scope], Iterator[Proposal]]


def edits_of(
    statement: ast.stmt, namespace: Namespace, gradients: Mapping[str, str], local_names: frozenset[str]
) -> Generator[Edit, None, None]:
    """Yield every edit. Each is in force, in the statement itself, until the next one is asked for."""
    scope = Scope(namespace, gradients, local_names)
    yield from _statement_edits(statement)
    places = list(_places(statement, False, False))
    for rule in RULES:
        for place in places:
            yield from _tried(rule, place, scope)


def _tried(rule: Rule, place: Place, scope: Scope) -> Iterator[Edit]:
    for node, edit in rule(place, scope):
        place.put(ast.fix_missing_locations(ast.copy_location(node, place.node)))
        try:
            yield edit
        finally:
            place.put(place.node)


def _statement_edits(statement: ast.stmt) -> Iterator[Edit]:
    for node in ast.walk(statement):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            before = node.op
            node.op = ast.Sub() if isinstance(before, ast.Add) else ast.Add()
            try:
                yield Edit("sign", "a term has the opposite sign", {"branches": []})
            finally:
                node.op = before


def dropped(block: list[ast.stmt]) -> Generator[Edit, None, None]:
    """Yield the edits that leave out a statement which adds a term; each is in force until the next one."""
    for i, statement in enumerate(list(block)):
        if isinstance(statement, ast.AugAssign):
            block[i] = ast.copy_location(ast.Pass(), statement)
            try:
                yield Edit("repeated_branch", "a term is added twice", {"branches": []})
            finally:
                block[i] = statement


def accumulating(block: list[ast.stmt], variable: str) -> Generator[Edit, None, None]:
    """Yield the edits of `=` into `+=` for a variable, in inner blocks too; each lasts until the next."""
    for i, inner in enumerate(list(block)):
        for slot in ("body", "orelse"):
            if isinstance(nested := getattr(inner, slot, None), list):
                yield from accumulating(nested, variable)
        if isinstance(inner, ast.Assign) and len(inner.targets) == 1 and variable in writes_surely(inner):
            target = inner.targets[0]
            if isinstance(target, ast.Name | ast.Subscript):
                added = ast.AugAssign(target, ast.Add(), inner.value)
                block[i] = ast.fix_missing_locations(ast.copy_location(added, inner))
                try:
                    if isinstance(inner.value, ast.Constant):
                        yield Edit("partial", "a part is set to a constant", {"where": ast.unparse(target)})
                    else:
                        yield Edit("overwritten", "`=` stands where `+=` belongs")
                finally:
                    block[i] = inner


def _places(node: ast.AST, exponent: bool, index_: bool) -> Iterator[Place]:
    for slot, value in ast.iter_fields(node):
        if slot == "targets" or (slot == "target" and not isinstance(node, ast.For)):
            for part in ast.walk(value) if isinstance(value, ast.AST) else ():
                if isinstance(part, ast.Subscript):
                    yield Place(part, "slice", None, part.slice, False, True)
                    yield from _places(part.slice, False, True)
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
                yield from _places(item, within, indexing)


def _is_range(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _signs(place: Place, _: Scope) -> Iterator[Proposal]:
    node, edit = place.node, Edit("sign", "a term or factor has the opposite sign", {"branches": []})
    if place.exponent:
        edit = Edit("wrong_point", "a power has the wrong exponent", {"used": None, "expected": None})
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand, edit
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield ast.BinOp(node.left, other, node.right), edit
    if isinstance(node, ast.Name | ast.BinOp | ast.Constant):
        yield ast.UnaryOp(ast.USub(), node), edit


REDUCTIONS = {"sum": "mean", "mean": "sum"}


def _axes(place: Place, _: Scope) -> Iterator[Proposal]:
    node = place.node
    if not (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in REDUCTIONS
    ):
        return
    keep = next((k for k in node.keywords if k.arg == "keepdim"), None)
    rest = [k for k in node.keywords if k.arg != "keepdim"]
    flipped = [ast.keyword("keepdim", ast.Constant(True))] if keep is None else []
    shape = Edit("shape", "keepdim is lost or too many", {"expected": None, "got": None})
    yield ast.Call(node.func, node.args, rest + flipped), shape
    yield node.func.value, Edit("overreduced", "summed or averaged where nothing should be", {"axes": []})
    other = ast.Attribute(node.func.value, REDUCTIONS[node.func.attr], ast.Load())
    scale = Edit("scale", f"{node.func.attr} where a {other.attr} belongs", {"factor": None, "guess": "1/n"})
    yield ast.Call(other, node.args, node.keywords), scale
    keepers = [[], [ast.keyword("keepdim", ast.Constant(True))]]
    for axis in (0, 1, 2, -1, (0, 1), (0, 2), (1, 2)):
        for kept in keepers:
            edit = Edit("overreduced", f"summed over the wrong axis, not over {axis}", {"axes": [axis]})
            where = ast.parse(repr(axis), mode="eval").body
            yield ast.Call(node.func, [where], list(kept)), edit


def _transposes(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    edit = Edit("transposed", "an operand is transposed, or in the other order")
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield node.value, edit
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("transpose", "t")
    ):
        yield node.func.value, edit
    elif isinstance(node, ast.Name) and _is_tensor(scope.namespace.get(node.id)):
        yield ast.Attribute(node, "mT", ast.Load()), edit
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield ast.BinOp(node.right, ast.MatMult(), node.left), edit
        yield ast.Attribute(node, "mT", ast.Load()), edit
        yield ast.BinOp(ast.Attribute(node.left, "mT", ast.Load()), ast.MatMult(), node.right), edit
        yield ast.BinOp(node.left, ast.MatMult(), ast.Attribute(node.right, "mT", ast.Load())), edit
    elif isinstance(node, ast.Call):
        yield ast.Attribute(node, "mT", ast.Load()), edit


def _numbers(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    number = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    number = number and not isinstance(getattr(node, "value", None), bool)
    named = isinstance(node, ast.Name) and isinstance(scope.namespace.get(node.id), int | float)
    differs = isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant)
    if not (number or named or differs):
        return
    edit = Edit("scale", f"a factor is off at `{ast.unparse(node)}`", {"factor": None, "guess": ""})
    if place.exponent:
        edit = Edit(
            "wrong_point", "a power has the wrong exponent", {"used": ast.unparse(node), "expected": None}
        )
    if differs and isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield node.left, edit
    one, two = ast.Constant(1), ast.Constant(2)
    for op in (ast.Sub(), ast.Add()):
        yield ast.BinOp(node, op, one), edit
    for op in (ast.Mult(), ast.Div()):
        yield ast.BinOp(node, op, two), edit
    yield ast.BinOp(one, ast.Div(), node), edit
    yield ast.BinOp(one, ast.Sub(), node), edit


def _names(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
        return
    value = scope.namespace.get(node.id)
    if _is_tensor(value):
        for name in scope.tensors():
            if name != node.id:
                kind = "wrong_upstream" if scope.is_gradient(name) else "wrong_point"
                told = f"{node.id} is used where another tensor belongs"
                yield ast.Name(name, ast.Load()), Edit(kind, told, {"used": node.id, "expected": name})
    elif isinstance(value, int | float) and not isinstance(value, bool):
        for name in scope.local_names:
            if name != node.id and isinstance(scope.namespace.get(name), int | float):
                told = f"{node.id} is used where {name} belongs"
                yield ast.Name(name, ast.Load()), Edit("scale", told, {"factor": None, "guess": name})


def _factors(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.MatMult):
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            yield kept, _factor_edit(lost, scope, f"the factor `{ast.unparse(lost)}` is one too many")
        if isinstance(node.op, ast.Mult | ast.Div):
            other = ast.Div() if isinstance(node.op, ast.Mult) else ast.Mult()
            words = f"`{ast.unparse(node)}` multiplies where it should divide, or the other way round"
            yield ast.BinOp(node.left, other, node.right), _factor_edit(node.right, scope, words)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        words = f"the power in `{ast.unparse(node)}` is one too many"
        yield node.left, Edit("wrong_point", words, {"used": ast.unparse(node), "expected": None})


def _factor_edit(lost: ast.expr, scope: Scope, words: str) -> Edit:
    names = {n.id for n in ast.walk(lost) if isinstance(n, ast.Name)}
    if any(scope.is_gradient(n) for n in names):
        return Edit("wrong_upstream", words, {"used": ast.unparse(lost), "expected": None})
    if any(_is_tensor(scope.namespace.get(n)) for n in names):
        return Edit("wrong_point", words, {"used": ast.unparse(lost), "expected": None})
    return Edit("scale", words, {"factor": None, "guess": ast.unparse(lost)})


def _missing_factors(place: Place, scope: Scope) -> Iterator[Proposal]:
    if not isinstance(place.node, ast.Name | ast.BinOp | ast.Call) or place.exponent:
        return
    if isinstance(place.node, ast.Name) and not _is_tensor(scope.namespace.get(place.node.id)):
        return
    for name in scope.local_names:
        value = scope.namespace.get(name)
        tensor = _is_tensor(value)
        if not tensor and (not isinstance(value, int | float) or isinstance(value, bool)):
            continue
        kind = "scale" if not tensor else "wrong_upstream" if scope.is_gradient(name) else "wrong_point"
        detail = {"used": None, "expected": name} if tensor else {"factor": None, "guess": name}
        edit = Edit(kind, f"the factor {name} is missing", detail)
        for op in (ast.Mult(), ast.Div()):
            yield ast.BinOp(place.node, op, ast.Name(name, ast.Load())), edit


def only_terms(
    statement: ast.stmt, namespace: Namespace, gradients: Mapping[str, str], local_names: frozenset[str]
) -> Generator[Edit, None, None]:
    """Yield only the edits that drop a term."""
    scope = Scope(namespace, gradients, local_names)
    for place in _places(statement, False, False):
        yield from _tried(_terms, place, scope)


def _terms(place: Place, _: Scope) -> Iterator[Proposal]:
    node = place.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            words = f"the term `{ast.unparse(lost)}` is one too many"
            yield kept, Edit("repeated_branch", words, {"branches": []})


def _missing_terms(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    if place.exponent or place.index_ or not isinstance(node, ast.Name | ast.BinOp | ast.Call):
        return
    if isinstance(node, ast.Name) and not _is_tensor(scope.namespace.get(node.id)):
        return
    for name in scope.tensors():
        edit = Edit("missing_branch", f"the term {name} is missing", {"branches": []})
        for op in (ast.Sub(), ast.Add()):
            yield ast.BinOp(node, op, ast.Name(name, ast.Load())), edit


def _slices(place: Place, _: Scope) -> Iterator[Proposal]:
    node = place.node
    edit = Edit("partial", "only a part is written or read", {"where": None})
    if isinstance(node, ast.Slice) and (node.lower is not None or node.upper is not None):
        yield ast.Slice(None, None, node.step), edit
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield node.value, edit


def _sums(place: Place, _: Scope) -> Iterator[Proposal]:
    if not isinstance(place.node, ast.BinOp | ast.Name | ast.Call) or place.exponent:
        return
    for axis in (0, 1, -1):
        summed = ast.Attribute(place.node, "sum", ast.Load())
        for kept in ([], [ast.keyword("keepdim", ast.Constant(True))]):
            edit = Edit("unreduced", f"not summed over axis {axis}", {"axes": [axis]})
            yield ast.Call(summed, [ast.Constant(axis)], list(kept)), edit


# In this order: the first rule that mends the gradient names the mistake.
RULES: tuple[Rule, ...] = (
    _signs,
    _axes,
    _transposes,
    _slices,
    _numbers,
    _names,
    _factors,
    _terms,
    _missing_factors,
    _sums,
    _missing_terms,
)
