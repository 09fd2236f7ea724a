"""Which statements of a backward make one gradient, without what they do for others."""

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch

from backhand.checking.running.names import root
from backhand.checking.running.program import Source
from backhand.checking.running.returning import returns
from backhand.checking.running.statements import (
    assigned,
    begins_anew,
    needs,
    places_written,
    reads,
    simple_statements,
    writes,
    writes_surely,
)


def slice_of(
    source: Source, path: str, statements: Sequence[ast.stmt], gradients: Mapping[str, str]
) -> list[ast.stmt]:
    """Return the top-level statements that write a gradient, and those that make the temporaries they use."""
    inner = set(map(id, statements))
    chosen = {i for i, top in enumerate(source.statements) if any(id(n) in inner for n in ast.walk(top))}
    # what is looked at is the variable afterwards; a `return` would end the slice before that
    chosen = {i for i in chosen if not isinstance(source.statements[i], ast.Return)}
    variable = root(path)
    last = max(chosen, default=-1)
    chosen |= {i for i in range(last) if variable in writes_surely(source.statements[i])}
    # what a loop takes over from turn to turn is the gradient in none of them
    known = (set(gradients) - _taken_over(source.statements)) | {variable}
    found = source.with_temporaries(chosen, known)
    heads = [n.iter if isinstance(n, ast.For) else n.test for s in found for n in ast.walk(s) if _branches(n)]
    needed = {variable} | {n.id for head in heads for n in ast.walk(head) if isinstance(n, ast.Name)}
    # other names of its memory, or of what it was made as
    needed |= {n for s in statements if variable not in writes(s) for n in writes_surely(s)}
    # within loops, until no temporary is missing: one may be made from another
    grows = True
    while grows:
        used = {n for s in simple_statements(found) if writes(s) & needed for n in reads(s)}
        grows = not used - known <= needed
        needed |= used - known
    # of what a loop makes only for others, what it begins with is not the value at its end
    return [_pruned(s, needed) for s in found if _matters(s, needed)]


def plain_slice_of(
    source: Source,
    path: str,
    statements: Sequence[ast.stmt],
    gradients: Mapping[str, str],
    namespace: Mapping[str, Any],
) -> tuple[ast.stmt, ...]:
    """Return those of them that make tensors, its own first, where no loop or condition is among them.

    Otherwise nothing: it would tell too little.
    """
    found = slice_of(source, path, statements, gradients)
    if found != simple_statements(found):
        return ()
    # of what the variable held before, or holds beside it in a dictionary, nothing is to be seen
    others = {s for s in found if root(path) in writes_surely(s) and s not in statements}
    kept = [s for s in found if s not in others and not makes_numbers(s, namespace)]
    kept = [s for s in kept if s in statements or not _only_names(s)]
    return tuple(sorted(kept, key=lambda s: s not in statements))


def sets_a_number(statement: ast.stmt) -> bool:
    """Tell whether a statement computes or writes out a number, as `scale = 2 / n` does."""
    value = statement.value if isinstance(statement, ast.Assign) else None
    return isinstance(value, ast.BinOp | ast.UnaryOp | ast.Constant) and computes(statement)


# What is asked of a tensor, and is none.
PLAIN = (int, float, str, torch.Size, torch.dtype, torch.device)


def makes_numbers(statement: ast.stmt, namespace: Mapping[str, Any]) -> bool:
    """Tell whether all that a statement writes are numbers, sizes and the like, as in `n = x.size(0)`."""
    written = writes(statement)
    return bool(written) and all(isinstance(namespace.get(n), PLAIN) for n in written)


def feeding(source: Source, statement: ast.stmt) -> list[ast.stmt]:
    """Return the statements that make what one of them reads, the nearest first.

    Those that only take apart or measure what there is, `x, w = cache` or `n = len(x)`, are left out.
    """
    plain = [s for s in source.simple if computes(s)]
    nodes = [n for top in source.statements for n in ast.walk(top)]
    loops = [frozenset(ast.walk(n)) for n in nodes if isinstance(n, ast.For | ast.While)]
    made = {s: _paths(s, ast.Store) for s in plain}
    wanted = {s: _paths(s, ast.Load) for s in (*plain, statement)}
    wanted[statement] |= _paths(statement, ast.Store)

    def feeds(maker: ast.stmt, reader: ast.stmt) -> bool:
        # what stands below is read in the next turn, or not at all
        in_time = maker.lineno < reader.lineno or any({maker, reader} <= loop for loop in loops)
        return in_time and bool(made[maker] & wanted[reader])

    found: dict[ast.stmt, None] = {statement: None}
    level = [statement]
    while level:
        level = [s for s in reversed(plain) if s not in found and any(feeds(s, r) for r in level)]
        found |= dict.fromkeys(level)
    return list(found)[1:]


def _paths(statement: ast.stmt, context: type[ast.Load | ast.Store]) -> set[str]:
    """Return the variables and attributes that a statement reads, or puts something into."""
    owners = {n.value for n in ast.walk(statement) if isinstance(n, ast.Attribute)}
    tensors = [n for n in ast.walk(statement) if isinstance(n, ast.Name | ast.Attribute) and n not in owners]
    if context is ast.Load:
        return {ast.unparse(n) for n in tensors}
    places = [n for n in ast.walk(statement) if isinstance(n, ast.Subscript | ast.Name | ast.Attribute)]
    put = {_holder(n) for n in places if isinstance(n.ctx, ast.Store)}
    called = statement.value if isinstance(statement, ast.Expr) else None
    if changed := places_written(statement) if called is not None else []:
        put |= set(map(_holder, changed))  # dx.mul_(dy)
    elif isinstance(called, ast.Call) and called.args:  # np.add.at(dW, rows, dout)
        put.add(_holder(called.args[0]))
    return put


def _holder(node: ast.expr) -> str:
    while isinstance(node, ast.Subscript):
        node = node.value
    return ast.unparse(node)


def passing_on(source: Source, statement: ast.stmt) -> list[ast.stmt]:
    """Return the statements that give what one makes another name, and do nothing else to it."""
    made = _paths(statement, ast.Store)
    named = [s for s in source.simple if _only_names(s)]
    return [s for s in named if _paths(s, ast.Load) & made and s.lineno > statement.lineno]


def kept_by(source: Source, statement: ast.stmt) -> list[ast.stmt] | None:
    """Return the statements that put something where a `return` finds it, as `self.dW`; None for others."""
    taken = statement.value if isinstance(statement, ast.Assign) else None
    if not isinstance(taken, ast.Attribute | ast.Subscript):
        return None
    if statement.lineno not in {returned.lineno for returned in returns(source.statements)}:
        return None
    where = ast.unparse(taken)
    named = [where, *_called(source, where)]
    kept = [s for s in source.simple if any(_within(p, name) for p in _places(s) for name in named)]
    kept.sort(key=lambda s: isinstance(getattr(s, "value", None), ast.Constant))  # as it is emptied
    return kept or [s for s in source.simple if _leaves_within(s, where)]


def _called(source: Source, where: str) -> Iterator[str]:
    """Yield the variables that stand for what lies somewhere: `dW` after `dW, db = self.grads`."""
    for s in source.simple:
        if not isinstance(s, ast.Assign) or s.lineno in {
            returned.lineno for returned in returns(source.statements)
        }:
            continue
        taken, target = ast.unparse(s.value), s.targets[0]
        if isinstance(target, ast.Name) and taken == where:
            yield target.id
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else []
        yield from (n.id for i, n in enumerate(parts) if isinstance(n, ast.Name) and f"{taken}[{i}]" == where)


def _leaves_within(statement: ast.stmt, where: str) -> bool:
    """Tell whether a statement calls the backward of the layer on which a gradient lies."""
    calls = [n.func for n in ast.walk(statement) if isinstance(n, ast.Call)]
    backwards = [f for f in calls if isinstance(f, ast.Attribute) and "backward" in f.attr]
    return any(where.startswith(f"{ast.unparse(f.value)}.") for f in backwards)


def _places(statement: ast.stmt) -> list[str]:
    """Return where a statement puts something, with the index."""
    called = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(called, ast.Call) and called.args:
        return [ast.unparse(called.args[0])]
    nodes = [n for n in ast.walk(statement) if isinstance(n, ast.Attribute | ast.Subscript)]
    nodes += [statement.target] if isinstance(statement, ast.AugAssign) else []
    return [ast.unparse(n) for n in nodes if isinstance(n.ctx, ast.Store)]


def writes_on_objects(statement: ast.stmt) -> bool:
    """Tell whether a statement puts something on an object, as `self.dW = ...` does."""
    nodes = (n for n in ast.walk(statement) if isinstance(n, ast.Attribute))
    return any(isinstance(n.ctx, ast.Store) for n in nodes)


def _within(place: str, where: str) -> bool:
    """Tell whether a place is there, or is a part of what is there."""
    return place == where or place.startswith((f"{where}[", f"{where}."))


def begins_with_zeros(statement: ast.stmt) -> bool:
    """Tell whether a statement makes zeros, for others to add to or to put something in."""
    value = statement.value if isinstance(statement, ast.Assign) else None
    attributes = (
        n.attr for n in (ast.walk(value) if value is not None else ()) if isinstance(n, ast.Attribute)
    )
    return any(name.removeprefix("new_").startswith("zeros") for name in attributes)


def only_begins(source: Source, statement: ast.stmt) -> bool:
    """Tell whether a statement makes zeros that others fill or add to: what is wrong is looked for there."""
    others = (s for s in source.simple if s is not statement)
    filled = any(assigned(statement) & (writes_surely(s) - assigned(s)) for s in others)
    return filled and begins_with_zeros(statement)


def multiplies(statement: ast.stmt) -> bool:
    """Tell whether a statement only multiplies what has a name, or hands it on: the chain rule alone."""
    value = getattr(statement, "value", None)
    plain = ast.Name | ast.Attribute | ast.Subscript
    while isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult) and isinstance(value.right, plain):
        value = value.left
    return isinstance(value, plain)


def computes(statement: ast.stmt) -> bool:
    """Tell whether a statement does more than take apart or measure what there is."""
    if not isinstance(statement, ast.Assign):
        return isinstance(statement, ast.AugAssign | ast.AnnAssign | ast.Expr)
    inner = [
        n
        for n in ast.walk(statement.value)
        if isinstance(n, ast.BinOp | ast.UnaryOp | ast.Compare | ast.Call)
    ]
    measures = all(isinstance(n, ast.Call) and getattr(n.func, "id", "") == "len" for n in inner)
    sizes = any(getattr(n, "attr", "") == "shape" for n in ast.walk(statement.value))
    return not measures or not (inner or sizes or takes_apart(statement))


def takes_apart(statement: ast.stmt) -> bool:
    """Tell whether a statement gives names to the items of something, as `x, w = cache` does."""
    if not isinstance(statement, ast.Assign):
        return False
    return isinstance(statement.targets[0], ast.Tuple) and not isinstance(statement.value, ast.Tuple)


def taken_together(statement: ast.AST) -> list[str]:
    """Return what a statement gives the values that come from one place, or one call; nothing twice."""
    at_once = ast.Name | ast.Attribute | ast.Subscript | ast.Call
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, at_once):
        return []
    names = [ast.unparse(n) for n in getattr(statement.targets[0], "elts", ())]
    return names if len({*names}) == len(names) and not any(n.startswith("*") for n in names) else []


def only_reads(statement: ast.stmt) -> bool:
    """Tell whether a statement takes parts of what there is, and computes nothing: it lacks no derivative."""
    computed = ast.BinOp | ast.UnaryOp | ast.Compare | ast.Call
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Assign) and not any(isinstance(n, computed) for n in _of_values(value))


def _of_values(node: ast.AST | None) -> Iterator[ast.AST]:
    """Yield an expression and what it is made of, without indices."""
    if node is None:
        return
    yield node
    for slot, inner in ast.iter_fields(node):
        for part in inner if isinstance(inner, list) else [inner]:
            if isinstance(part, ast.AST) and slot != "slice":
                yield from _of_values(part)


def _taken_over(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the variables that loops give a new value in each turn, having used that of the last."""
    loops = [top for top in statements if isinstance(top, ast.For | ast.While)]
    inner = [(loop, s) for loop in loops for s in simple_statements(loop.body)]
    return {n for loop, s in inner for n in assigned(s) & needs(loop) if begins_anew(s, n)}


def _only_names(statement: ast.stmt) -> bool:
    """Tell whether a statement gives names to what is there, as `x, w = cache` does, and makes no tensor."""
    return isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name | ast.Attribute)


def _branches(node: ast.AST) -> TypeGuard[ast.For | ast.If | ast.While]:
    return isinstance(node, ast.For | ast.If | ast.While)


def _pruned(statement: ast.stmt, needed: set[str]) -> ast.stmt:
    """Return a loop without assignments to what is not needed; the rest of it is the same nodes."""
    blocks = {slot: getattr(statement, slot, None) for slot in ("body", "orelse")}
    if not blocks["body"] or isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement
    pruned = copy.copy(statement)
    for slot, block in blocks.items():
        kept = [_pruned(s, needed) for s in block or () if _matters(s, needed)]
        setattr(pruned, slot, kept or [ast.copy_location(ast.Pass(), statement)] if block else [])
    return pruned


def _matters(statement: ast.stmt, needed: set[str]) -> bool:
    plain = isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr)
    return not plain or bool(writes(statement) & needed)
