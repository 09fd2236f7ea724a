"""The changes of one statement of a backward: those of the tables, and those that depend on the tensors."""

import ast
import copy
from collections.abc import Iterator
from typing import TypeGuard

from patterns import expression, filled, matched, statements
from reading import in_order, mark, names_in, written_by
from slips import ALIASES, EXPRESSIONS, MUST_RUN, STATEMENTS
from subject import Change, Subject

Expressions = Iterator[tuple[str, ast.expr, set[str]]]


def changes(statement: ast.stmt, subject: Subject) -> Iterator[Change]:
    """Yield every change of one statement; one that counts a loop's turns would never let it end."""
    loops = (s for s in in_order(subject.body()) if isinstance(s, ast.While))
    if any(written_by(statement) & names_in(loop.test) for loop in loops):
        return
    yield from _whole(statement, subject)
    yield from within(statement, subject)


def within(statement: ast.stmt, subject: Subject) -> Iterator[Change]:
    """Yield the changes of the expressions in a statement."""
    value = getattr(statement, "value", None)
    if not isinstance(value, ast.expr):
        return
    for i, node in enumerate(list(ast.walk(value))):
        for operation, new, kinds in _expressions(node, subject, value):
            changed = copy.deepcopy(statement)
            old = list(ast.walk(changed.value))[i]  # type: ignore[attr-defined]
            changed = mark(_Swap(old, new).visit(changed))
            everything = subject.gradients if operation == "in place" else None
            yield Change(
                operation,
                (changed,),
                frozenset(kinds),
                culprits=everything,
                needs=_new_name(new, subject),
                raises=operation not in MUST_RUN,
            )


class _Swap(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return copy.deepcopy(self.new) if node is self.old else self.generic_visit(node)


def _new_name(new: ast.AST, subject: Subject) -> str | None:
    wanted = names_in(new) & (set(subject.values) - subject.arguments - set(subject.own))
    return next(iter(wanted), None)


def _whole(s: ast.stmt, subject: Subject) -> Iterator[Change]:
    for operation, pattern, template, kinds in (*STATEMENTS, *ALIASES):
        bound = matched(statements(pattern)[0], s, subject.fits)
        if bound is None or (operation == "tail" and not subject.has_rows(bound["_o"])):
            continue
        if operation == "zeros" and "zeros" in ast.unparse(s):
            continue  # that is how it begins
        new = tuple(filled(each, bound) for each in statements(template))
        aliased = (operation, pattern, template, kinds) in ALIASES
        if aliased and bound["_o"].id == bound["_h"].id:
            continue
        for i, each in enumerate(new):
            mark(each, i if aliased else 0)
        named = frozenset({bound["_h"].id}) if aliased else None
        said = frozenset(kinds.split())
        yield Change(operation, new, said, culprits=named, raises=operation not in MUST_RUN)
    if _is_carried(s, subject):
        kinds_ = {"missing_branch", "zero", "wrong_upstream"}
        kinds_ |= {"wrong_point", "scale"} if names_in(s.value) & written_by(s) else set()  # type: ignore[attr-defined]
        yield Change("no carry", (mark(ast.Pass()),), frozenset(kinds_))


def _is_carried(s: ast.stmt, subject: Subject) -> bool:
    """Tell whether a statement in a loop assigns what the next turn reads."""
    if not isinstance(s, ast.Assign) or not isinstance(s.targets[0], ast.Name):
        return False
    name = s.targets[0].id
    return name in subject.own and name in subject.assigned_before(s)


def exponents(value: ast.AST) -> set[int]:
    """Return the nodes that lie within an exponent."""
    powers = [n for n in ast.walk(value) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Pow)]
    return {id(inner) for p in powers for inner in ast.walk(p.right)}


def _of_numbers(value: ast.AST, subject: Subject) -> set[int]:
    """Return the nodes that lie within the exponent of something without a tensor."""
    powers = [n for n in ast.walk(value) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Pow)]
    tensors = set(subject.values) | set(subject.own)
    return {id(inner) for p in powers if not _values_in(p.left) & tensors for inner in ast.walk(p.right)}


def _expressions(node: ast.AST, subject: Subject, value: ast.AST) -> Expressions:
    for operation, pattern, template, kinds in EXPRESSIONS:
        bound = matched(expression(pattern), node, subject.fits)
        if bound is not None:
            yield operation, filled(expression(template), bound), set(kinds.split())
    exponent = exponents(value)
    if isinstance(node, ast.BinOp) and id(node) not in exponent:
        yield from _operators(node, subject)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        kinds_ = {"wrong_point"} if id(node) in exponent else {"sign"}
        if isinstance(node.operand, ast.Constant) and isinstance(node.operand.value, int):
            # an axis or an item, counted from the end
            kinds_ |= {"overreduced", "wrong_point", "transposed", "partial", "shape"}
        yield "no minus", node.operand, kinds_
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield from _constants(node, id(node) in exponent, id(node) in _of_numbers(value, subject))
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield from _names(node, subject)


def _operators(node: ast.BinOp, subject: Subject) -> Expressions:
    left, right = node.left, node.right
    tensors = names_in(node) & (set(subject.values) | set(subject.own) | subject.gradients)
    if isinstance(node.op, ast.Sub) and ast.unparse(node) == "n - 1":
        yield "no Bessel", left, {"scale"}
    if isinstance(node.op, ast.Add | ast.Sub) and tensors:
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield "sign", ast.BinOp(left, other, right), {"sign"}
        graded = all(names_in(part) & (subject.gradients | set(subject.own)) for part in (left, right))
        kinds = {"missing_branch"} if graded else {"missing_branch", "wrong_point", "sign", "scale"}
        yield "drop term", left, kinds
        if isinstance(node.op, ast.Add):  # without the old value of the variable, it is `=` for `+=`
            yield "drop term", right, kinds | {"overwritten"}
    if isinstance(node.op, ast.Mult | ast.Div) and tensors and not isinstance(left, ast.List):
        yield "drop factor", left, _kinds_without(right, subject)
        if isinstance(node.op, ast.Mult):
            yield "drop factor", right, _kinds_without(left, subject)


def _kinds_without(lost: ast.expr, subject: Subject) -> set[str]:
    """Return the kinds that name a factor that was left out."""
    names = _values_in(lost)
    if names & subject.masks:
        return {"wrong_point", "wrong_upstream", "partial"}
    if names & (subject.gradients | subject.upstream):
        return {"wrong_upstream"} | ({"wrong_point"} if names & set(subject.values) else set())
    if names & set(subject.values) and not isinstance(lost, ast.Attribute):
        a_sum = any(isinstance(n, ast.Add | ast.Sub) for n in ast.walk(lost))
        return {"wrong_point", "wrong_upstream"} | ({"missing_branch"} if a_sum else set())
    if names & set(subject.own):
        return {"scale", "wrong_point", "wrong_upstream"}
    return {"scale", "sign"}


def _values_in(node: ast.expr) -> set[str]:
    """Return the names of the values of an expression, keys too; not those of which only the size counts."""
    sizes = [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and n.attr in ("shape", "numel")]
    lengths = [n for n in ast.walk(node) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "len"]
    measured = {id(inner) for n in (*sizes, *lengths) for inner in ast.walk(n)}
    keys = [n.slice.value for n in ast.walk(node) if isinstance(n, ast.Subscript) and _is_key(n.slice)]
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and id(n) not in measured} | {*keys}


def _is_key(node: ast.expr) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _constants(node: ast.Constant, within_power: bool, of_number: bool) -> Expressions:
    value = node.value
    assert isinstance(value, int | float)
    if within_power:  # of a plain number, it is a factor
        yield "exponent", ast.Constant(value + 1), {"wrong_point"} | ({"scale"} if of_number else set())
    elif isinstance(value, float):
        kinds = {"scale", "wrong_point", "missing_branch", "repeated_branch"}
        yield "constant", ast.Constant(2 * value), kinds


def _names(node: ast.Name, subject: Subject) -> Expressions:
    name = node.id
    if name in ("n", "N") and name not in subject.values:
        yield "n - 1", expression(f"({name} - 1)"), {"scale"}
        return
    if name in subject.upstream:
        yield "ones for upstream", expression(f"torch.ones_like({name})"), {"wrong_upstream"}
        yield "one of upstream", expression(f"{name}.flatten()[-1]"), {"wrong_upstream", "ignores_upstream"}
    if name in subject.own or name in subject.upstream:
        kinds = {"wrong_upstream"} | ({"wrong_point"} if name not in subject.gradients else set())
        for other in subject.alike(name, [*subject.own, *sorted(subject.upstream)])[-2:]:
            yield "wrong upstream", ast.Name(other, ast.Load()), kinds
    elif name in subject.values:
        for other in subject.alike(name, [v for v in subject.values if v in subject.arguments])[-2:]:
            yield "wrong saved", ast.Name(other, ast.Load()), {"wrong_point"}
        unasked = [v for v in subject.values if v not in subject.arguments and v not in subject.own]
        for other in subject.alike(name, unasked, also_unknown=True)[-1:]:
            yield "wrong saved, not asked for", ast.Name(other, ast.Load()), {"wrong_point"}
