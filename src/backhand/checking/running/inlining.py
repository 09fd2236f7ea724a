"""A function's source with the helpers that it calls in the place of their calls, so that these are seen too.

`return silu_backward(x, dy)` is a common way to write a backward: its lines are those of the helper.
"""

import ast
import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from backhand.checking.running.private import before_compiling
from backhand.checking.running.program import Source, definition_of
from backhand.checking.running.returning import blocks, returns
from backhand.checking.running.statements import root_of
from backhand.checking.running.taken import Taken

# Helpers within helpers are looked into so often.
DEPTH = 3
# A function of more statements is not made longer: each of them is tried.
LONG = 120
# On the tuple of the arguments of a call whose function is written out: the call.
CALLED = "called"
# On each statement: the variables of the function in which it stands, as they are called here.
FRAME = "frame"
# What computes its elements as often as there are some.
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def inlined(source: Source, around: Mapping[str, Any], held: Mapping[str, Any] | None = None) -> Source:
    """Return a source with those functions of its file written out whose result a statement takes as it is.

    Args:
        source: of a function.
        around: what its body sees.
        held: what some of its variables hold where it runs, such as an object whose methods it calls.
    """
    seen = _Seen(around, held or {})
    for _ in range(DEPTH):
        found = _once(source, seen)
        if found is source:
            break
        source = found
    return source


@dataclass(frozen=True)
class _Seen:
    """What a body sees, and what some of its variables hold where it runs."""

    around: Mapping[str, Any]
    held: Mapping[str, Any]

    def called(self, node: ast.expr, source: Source) -> Any:
        """Return what an expression of names, attributes and items is, where that can be told."""
        if isinstance(node, ast.Name):
            return (self.held if node.id in source.local_names else self.around).get(node.id)
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Subscript):
            return self._item(node, source)
        if not isinstance(node, ast.Attribute):
            return None
        holder, root = self.called(node.value, source), root_of(node)
        if root not in self.held and not isinstance(holder, type):
            return None
        try:
            return getattr(holder, node.attr, None)
        except Exception:  # a property of the user's may raise anything
            return None

    def _item(self, node: ast.Subscript, source: Source) -> Any:
        """Return an item of a dictionary or a list, as `BACKWARDS[ctx.kind]` is."""
        key, table = self.called(node.slice, source), node.value
        if not isinstance(key, str | int):
            return None
        if isinstance(table, ast.Dict):
            pairs = zip(table.keys, table.values, strict=True)
            own = (v for k, v in pairs if isinstance(k, ast.Constant) and k.value == key)
            return next((self.called(v, source) for v in own), None)
        held = self.called(table, source)
        if not isinstance(held, dict | list | tuple):
            return None
        try:
            return operator.getitem(held, key)  # type: ignore[call-overload]
        except (KeyError, IndexError, TypeError):
            return None


def _once(source: Source, seen: _Seen) -> Source:
    if source.definition is None or len(source.simple) > LONG:
        return source
    definition = copy.deepcopy(source.definition)
    for statement in (s for block in blocks(definition.body) for s in block):
        if not hasattr(statement, FRAME):
            setattr(statement, FRAME, source.local_names)
    taken = Taken(set(source.local_names), dict(source.as_written))
    changed = False
    for block in list(blocks(definition.body)):
        for statement in list(block):
            written = _with_helper(statement, _call_of(statement), source, seen, taken)
            above = [] if written is not None else _taken_out(statement, source, seen, taken)
            if written is not None or above:
                at = block.index(statement)
                block[at : at + 1] = written if written is not None else [*above, statement]
                changed = True
    if not changed:
        return source
    return taken.rewritten(source, definition)


def _call_of(statement: Any) -> ast.expr | None:
    """Return the call whose result a statement takes as it is."""
    return statement.value if isinstance(statement, ast.Assign | ast.Return | ast.Expr) else None


def _with_helper(
    statement: Any, call: ast.expr | None, source: Source, seen: _Seen, taken: Taken
) -> list[ast.stmt] | None:
    """Return what a statement does that takes a call's result as it is, if a helper can be written out."""
    function, owner = _called_by(call, source, seen)
    helper = definition_of(function, source) if function is not None else None
    if helper is None or function is None or not isinstance(call, ast.Call):
        return None
    if owner is not None:  # a method of an object, which is its first argument
        statement = copy.copy(statement)
        statement.value = ast.copy_location(ast.Call(call.func, [owner, *call.args], call.keywords), call)
        setattr(statement.value, CALLED, call)
    return _written_out(statement, helper, function, taken)


def _taken_out(statement: ast.stmt, source: Source, seen: _Seen, taken: Taken) -> list[ast.stmt]:
    """Return the helpers within a statement's expression written out, which takes their results instead.

    So it is in `return of_x(dy, w), of_w(dy, x)`. What may not be computed at all stays as it is.
    """
    written: list[ast.stmt] = []
    for call in _computed(statement):
        function, _ = _called_by(call, source, seen)
        if function is None:
            continue
        own = taken.copy()
        name = own.another(f"{function.__name__}_")
        own.as_written[name] = ast.unparse(call)
        takes = ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], copy.deepcopy(call)), call)
        setattr(takes, FRAME, getattr(statement, FRAME))
        above = _with_helper(ast.fix_missing_locations(takes), takes.value, source, seen, own)
        if above is not None:
            written += above
            _put_in_place(statement, call, ast.copy_location(ast.Name(name, ast.Load()), call))
            taken.take(own)
    return written


def _computed(statement: ast.stmt) -> list[ast.Call]:
    """Return the calls within a simple statement's value that are made in any case, first the outer ones."""
    is_simple = isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Return | ast.Expr)
    waiting: list[ast.AST | None] = [statement.value] if is_simple else []
    found: list[ast.Call] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            found.append(node)
        if isinstance(node, ast.BoolOp | ast.IfExp):
            waiting.append(node.values[0] if isinstance(node, ast.BoolOp) else node.test)
        elif node is not None and not isinstance(node, ast.Lambda | ast.comprehension | COMPREHENSIONS):
            waiting += reversed([*ast.iter_child_nodes(node)])
    return found


def _put_in_place(statement: ast.stmt, call: ast.Call, value: ast.expr) -> None:
    """Let a statement have something else where a call stands, if it still does."""
    for node in ast.walk(statement):
        for field, held in ast.iter_fields(node):
            if held is call:
                setattr(node, field, value)
            elif isinstance(held, list) and call in held:
                held[held.index(call)] = value


def _called_by(
    call: ast.expr | None, source: Source, seen: _Seen
) -> tuple[FunctionType | None, ast.expr | None]:
    """Return the plain function that a call is of, also one that is kept in a class, or compiled.

    With it stands the object whose method it is, if that is one.
    """
    called = call.func if isinstance(call, ast.Call) else None
    found, owner = seen.called(called, source) if called is not None else None, None
    if isinstance(found, MethodType) and isinstance(called, ast.Attribute):
        if isinstance(found.__self__, type):
            return None, None
        found, owner = found.__func__, called.value
    found = before_compiling(found)
    return (found, owner) if isinstance(found, FunctionType) else (None, None)


def _written_out(
    statement: Any, helper: ast.FunctionDef, function: FunctionType, taken: Taken
) -> list[ast.stmt] | None:
    """Return what a call does, statement by statement, in variables that are not taken; None where it cannot.

    Args:
        statement: assigns or returns the call's result, or lets it be.
        helper: the definition of what is called, which is changed.
        function: the same as it is called.
        taken: names that are in use; those of the helper's variables are added.
    """
    call: ast.Call = statement.value
    given = _given(call, helper)
    later = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.Global | ast.Nonlocal
    fills = isinstance(statement, ast.Expr)
    if given is None or not ends_below(helper.body, fills):
        return None
    if any(isinstance(n, later) for s in helper.body for n in ast.walk(s)):
        return None
    code = function.__code__
    # a variable of the caller would hide what the helper means by this name
    if taken.names & {*code.co_names} & function.__globals__.keys():
        return None
    variables = [n for s in helper.body for n in ast.walk(s) if isinstance(n, ast.Name)]
    rebound = {n.id for n in variables if not isinstance(n.ctx, ast.Load)}
    same = {n for n, v in given.items() if isinstance(v, ast.Name) and v.id == n and n not in rebound}
    names = {n: taken.another(n) for n in code.co_varnames if n not in same}
    for node in variables:
        node.id = names.get(node.id, node.id)
    bound = _bound({names[n]: v for n, v in given.items() if n not in same}, call)
    for s in bound:
        setattr(s, FRAME, getattr(statement, FRAME))
    for s in (s for block in blocks(helper.body) for s in block):
        setattr(s, FRAME, frozenset({*names.values(), *same}))
    written = [ast.copy_location(s, statement) for s in bound] + helper.body
    for block in blocks(written):
        for at, end in enumerate(block):
            if isinstance(end, ast.Return):
                block[at] = _handed_over(end, statement)
    return [ast.fix_missing_locations(s) for s in written]


def ends_below(body: list[ast.stmt], fills: bool) -> bool:
    """Let what follows a block that ends a function early stand in its `else`; tell whether all can.

    Args:
        body: of the function, which is changed.
        fills: whether what it returns is not asked for.
    """
    for at, s in enumerate(body):
        if isinstance(s, ast.Return):
            del body[at + 1 :]
            return fills or s.value is not None
        if not returns([s]):
            continue
        if not isinstance(s, ast.If) or not isinstance(s.body[-1], ast.Return):
            return False
        if not ends_below(s.body, fills):
            return False
        s.orelse += body[at + 1 :]
        del body[at + 1 :]
        return ends_below(s.orelse, fills)
    return fills


def _handed_over(end: ast.Return, statement: ast.stmt) -> ast.stmt:
    """Return what a statement does that takes a helper's result, where the helper returns it."""
    if isinstance(statement, ast.Expr) and (end.value is None or _only_names(end.value)):
        return ast.copy_location(ast.Pass(), end)
    taken_over: Any = copy.copy(statement)
    taken_over.value = end.value
    setattr(taken_over, FRAME, getattr(end, FRAME))
    # what it computes stands in the helper's line
    is_made = end.value is not None and not _only_names(end.value)
    return ast.copy_location(taken_over, end if is_made else statement)


def _bound(values: Mapping[str, ast.expr], call: ast.Call) -> list[ast.stmt]:
    """Return the statement that gives a helper's parameters their values, which may be in disorder there."""
    targets: list[ast.expr] = [ast.Name(n, ast.Store()) for n in values]
    if len(targets) < 2:
        return [ast.Assign([target], value) for target, value in zip(targets, values.values(), strict=True)]
    given = ast.Tuple(list(values.values()), ast.Load())
    setattr(given, CALLED, copy.deepcopy(getattr(call, CALLED, call)))
    return [ast.Assign([ast.Tuple(targets, ast.Store())], given)]


def _given(call: ast.Call, helper: ast.FunctionDef) -> dict[str, ast.expr] | None:
    """Return the expression of each of a helper's parameters; None where they cannot be told."""
    a = helper.args
    if a.vararg or a.kwarg or any(isinstance(v, ast.Starred) for v in call.args):
        return None
    places = [p.arg for p in (*a.posonlyargs, *a.args)]
    defaults = dict(zip(reversed(places), reversed(a.defaults), strict=False))
    defaults |= {p.arg: d for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d is not None}
    found: dict[str, ast.expr] = {n: d for n, d in defaults.items() if isinstance(d, ast.Constant)}
    found |= dict(zip(places, call.args, strict=False))
    found |= {k.arg: k.value for k in call.keywords if k.arg is not None}
    names = [*places, *(p.arg for p in a.kwonlyargs)]
    fits = len(call.args) <= len(places) and all(k.arg in names for k in call.keywords)
    return {n: found[n] for n in names} if fits and all(n in found for n in names) else None


def _only_names(value: ast.expr) -> bool:
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    return all(isinstance(part, ast.Name) for part in parts)
