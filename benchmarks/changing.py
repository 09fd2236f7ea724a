"""The slips that can be made in one statement of a backward, each with the kinds that name it rightly."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mutating import Subject


@dataclass(frozen=True)
class Change:
    """A changed statement (or what stands for it), and the kinds that name the change rightly."""

    operation: str
    statement: ast.stmt
    kinds: frozenset[str]
    culprits: frozenset[str] | None = None


def written_by(statement: ast.stmt) -> set[str]:
    """Return the variables that a statement assigns."""
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = statement.targets
    elif isinstance(statement, ast.AugAssign):
        targets = [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        targets = [statement.value.func]
    else:
        return set()
    found = set()
    targets = [each for t in targets for each in (t.elts if isinstance(t, ast.Tuple) else [t])]
    for t in targets:
        while isinstance(t, ast.Attribute | ast.Subscript):
            t = t.value
        if isinstance(t, ast.Name):
            found.add(t.id)
    return found


def names_in(node: ast.AST) -> set[str]:
    """Return the variables that an expression mentions."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def changes(statement: ast.stmt, subject: "Subject") -> Iterator[Change]:
    """Yield every change of one statement."""
    yield from _whole(statement, subject)
    value = getattr(statement, "value", None)
    if value is None:
        return
    if isinstance(statement, ast.Expr):
        return
    for i, node in enumerate(list(ast.walk(value))):
        for operation, new, kinds in _expressions(node, subject, value):
            changed = copy.deepcopy(statement)
            target = list(ast.walk(changed.value))[i]  # type: ignore[attr-defined]
            yield Change(operation, _Swap(target, new).visit(changed), frozenset(kinds))


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return copy.deepcopy(self.new) if node is self.old else self.generic_visit(node)


def exponents(value: ast.AST) -> set[int]:
    """Return the nodes that lie within an exponent."""
    powers = [n for n in ast.walk(value) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Pow)]
    return {id(inner) for p in powers for inner in ast.walk(p.right)}


def of_numbers(value: ast.AST, subject: "Subject") -> set[int]:
    """Return the nodes that lie within the exponent of something without a tensor."""
    powers = [n for n in ast.walk(value) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Pow)]
    tensors = set(subject.values) | set(subject.given)
    return {id(inner) for p in powers if not names_in(p.left) & tensors for inner in ast.walk(p.right)}


def _whole(s: ast.stmt, subject: "Subject") -> Iterator[Change]:
    if isinstance(s, ast.AugAssign) and isinstance(s.op, ast.Add):
        yield Change("drop +=", ast.Pass(), frozenset({"missing_branch", "zero"}))
        yield Change(
            "= for +=", ast.Assign([s.target], s.value), frozenset({"overwritten", "missing_branch"})
        )
        yield Change("-= for +=", ast.AugAssign(s.target, ast.Sub(), s.value), frozenset({"sign"}))
        twice = ast.BinOp(s.value, ast.Add(), s.value)
        yield Change(
            "twice", ast.AugAssign(s.target, ast.Add(), twice), frozenset({"repeated_branch", "scale"})
        )
    if (
        isinstance(s, ast.Assign)
        and isinstance(s.targets[0], ast.Name)
        and s.targets[0].id in subject.gradients
    ):
        name = s.targets[0].id
        if not _is_zeros(s.value):
            zeros = ast.parse(f"{name} = torch.zeros_like({ast.unparse(s.value)})").body[0]
            yield Change("zeros", zeros, frozenset({"zero", "missing_branch"}))
            tail = ast.parse(
                f"{name} = ({ast.unparse(s.value)}).clone(); {name}[-1:] = 0"
                if _rows(subject, name)
                else "pass"
            ).body
            if len(tail) == 2:
                yield Change("tail", ast.If(ast.Constant(True), tail, []), frozenset({"partial"}))
        called = (
            s.value.func.attr
            if isinstance(s.value, ast.Call) and isinstance(s.value.func, ast.Attribute)
            else ""
        )
        if called == "clone" and isinstance(s.value, ast.Call) and isinstance(s.value.func, ast.Attribute):
            kept = s.value.func.value
            blamed = frozenset(names_in(kept) & subject.gradients)
            yield Change("no clone", ast.Assign(s.targets, kept), frozenset({"aliased"}), blamed)
    call = getattr(s, "value", None)
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "index_add_":
        name = next(iter(written_by(s)))
        where, what = ast.unparse(call.args[1]), ast.unparse(call.args[2])
        text = f"{name} = {ast.unparse(call.func.value)}\n{name}[{where}] = {what}"
        block = ast.If(ast.Constant(True), ast.parse(text).body, [])
        yield Change("overwritten indices", block, frozenset({"overwritten"}))


def _is_zeros(value: ast.expr) -> bool:
    return "zeros" in ast.unparse(value)


def _is_temporary(name: str, subject: "Subject") -> bool:
    """Tell whether a variable is one of the backward's own that is no gradient by name."""
    known = subject.gradients | set(subject.values) | set(subject.drawn.trace.upstream)
    return name in subject.given and name not in known


def _rows(subject: "Subject", name: str) -> bool:
    value = subject.given.get(name)
    return value is not None and value.dim() > 0 and value.shape[0] > 3


def _expressions(
    node: ast.AST, subject: "Subject", value: ast.AST
) -> Iterator[tuple[str, ast.expr, set[str]]]:
    exponent = exponents(value)
    if isinstance(node, ast.BinOp) and id(node) not in exponent:
        yield from _operators(node, subject)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        kinds = {"wrong_point"} if id(node) in exponent else {"sign"}
        if isinstance(node.operand, ast.Constant) and isinstance(node.operand.value, int):
            kinds |= {"overreduced"}  # an axis, counted from the end
        yield "no minus", node.operand, kinds
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield from _constants(node, id(node) in exponent, id(node) in of_numbers(value, subject))
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from _names(node, subject)
    if isinstance(node, ast.Attribute) and node.attr == "T":
        yield "no .T", node.value, {"transposed"}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield from _calls(node)


def _operators(node: ast.BinOp, subject: "Subject") -> Iterator[tuple[str, ast.expr, set[str]]]:
    tensors = names_in(node) & (set(subject.values) | set(subject.given) | subject.gradients)
    if isinstance(node.op, ast.Add | ast.Sub) and tensors:
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield "sign", ast.BinOp(node.left, other, node.right), {"sign"}
        graded = all(
            names_in(part) & (subject.gradients | set(subject.given)) for part in (node.left, node.right)
        )
        kinds = {"missing_branch"} if graded else {"missing_branch", "wrong_point", "sign", "scale"}
        yield "drop term", node.left, kinds
        if isinstance(node.op, ast.Add):  # without the old value of the variable, it is `=` for `+=`
            yield "drop term", node.right, kinds | {"overwritten"}
    if isinstance(node.op, ast.Mult | ast.Div) and tensors:
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            if isinstance(node.op, ast.Div) and kept is node.right:
                continue
            names = names_in(lost)
            if names & subject.gradients or names & set(subject.drawn.trace.upstream):
                kinds = {"wrong_upstream"}
            elif names & set(subject.values) and not isinstance(lost, ast.Attribute):
                a_sum = any(isinstance(n, ast.Add | ast.Sub) for n in ast.walk(lost))
                kinds = {"wrong_point", "wrong_upstream"} | ({"missing_branch"} if a_sum else set())
            elif any(_is_temporary(name, subject) for name in names):
                kinds = {"scale", "wrong_point", "wrong_upstream"}
            else:
                kinds = {"scale", "sign"}
            yield "drop factor", kept, kinds
    if isinstance(node.op, ast.MatMult):
        yield "swap @", ast.BinOp(node.right, ast.MatMult(), node.left), {"transposed"}
        transposed = ast.BinOp(
            ast.Attribute(node.right, "mT", ast.Load()),
            ast.MatMult(),
            ast.Attribute(node.left, "mT", ast.Load()),
        )
        yield "transpose @", transposed, {"transposed"}


def _constants(
    node: ast.Constant, within_power: bool, of_number: bool
) -> Iterator[tuple[str, ast.expr, set[str]]]:
    value = node.value
    assert isinstance(value, int | float)
    if within_power:  # of a plain number, it is a factor
        yield "exponent", ast.Constant(value + 1), {"wrong_point"} | ({"scale"} if of_number else set())
    elif isinstance(value, float):
        yield (
            "constant",
            ast.Constant(2 * value),
            {"scale", "wrong_point", "missing_branch", "repeated_branch"},
        )


def _names(node: ast.Name, subject: "Subject") -> Iterator[tuple[str, ast.expr, set[str]]]:
    if node.id == "n":
        yield "n - 1", ast.parse("(n - 1)", mode="eval").body, {"scale"}
        return
    given, values = subject.given.get(node.id), subject.values.get(node.id)
    is_gradient = given is not None and node.id not in subject.values
    pool = subject.given if is_gradient else subject.values
    value = given if is_gradient else values
    if value is None or not value.is_floating_point():
        return
    alike = [k for k, v in pool.items() if k != node.id and v.shape == value.shape and v.is_floating_point()]
    alike = [k for k in alike if k in subject.known and (is_gradient or k not in subject.given)]
    for name in alike[-2:]:
        if is_gradient:
            kinds = {"wrong_upstream"} | ({"wrong_point"} if _is_temporary(node.id, subject) else set())
            yield "wrong upstream", ast.Name(name, ast.Load()), kinds
        elif name in _reachable(subject):
            yield "wrong saved", ast.Name(name, ast.Load()), {"wrong_point"}


def _reachable(subject: "Subject") -> set[str]:
    arguments = next(
        n for n in subject.tree.body if isinstance(n, ast.FunctionDef) and n.name == "backward"
    ).args
    return {a.arg for a in arguments.args}


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.expr, set[str]]]:
    function = node.func
    assert isinstance(function, ast.Attribute)
    if function.attr == "sum":
        yield "no sum", function.value, {"unreduced"}
        mean = ast.Attribute(function.value, "mean", ast.Load())
        yield "mean", ast.Call(mean, node.args, node.keywords), {"scale"}
        if node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value in (0, 1):
            axis = ast.Constant(1 - node.args[0].value)
            yield "wrong axis", ast.Call(function, [axis], node.keywords), {"overreduced"}
        if node.keywords:
            yield "no keepdim", ast.Call(function, node.args, []), {"shape"}
        else:
            keep = ast.keyword("keepdim", ast.Constant(True))
            yield "keepdim", ast.Call(function, node.args, [keep]), {"shape"}
    if function.attr == "mean":
        yield "no mean", function.value, {"unreduced", "missing_branch", "scale", "overreduced"}
        total = ast.Attribute(function.value, "sum", ast.Load())
        yield "sum", ast.Call(total, node.args, node.keywords), {"scale"}
    if function.attr in ("expand_as", "view"):
        yield f"no {function.attr}", function.value, {"shape"}
    if function.attr == "transpose":
        yield "no transpose", function.value, {"transposed"}
