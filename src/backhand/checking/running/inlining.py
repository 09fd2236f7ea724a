"""A function's source with the helpers that it calls in the place of their calls, so that these are seen too.

`return silu_backward(x, dy)` is a common way to write a backward: its lines are those of the helper.
"""

import ast
import copy
from collections.abc import Mapping
from dataclasses import replace
from types import FunctionType
from typing import Any

from backhand.checking.running.program import Source, definition_of
from backhand.checking.running.returning import blocks, returns

# Helpers within helpers are looked into so often.
DEPTH = 3


def inlined(source: Source, around: Mapping[str, Any]) -> Source:
    """Return a source with those functions of its file written out whose result a statement takes as it is.

    Args:
        source: of a function.
        around: what its body sees.
    """
    for _ in range(DEPTH):
        found = _once(source, around)
        if found is source:
            break
        source = found
    return source


def _once(source: Source, around: Mapping[str, Any]) -> Source:
    if source.definition is None:
        return source
    definition = copy.deepcopy(source.definition)
    called = [n.id for n in ast.walk(definition) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    taken = set(source.local_names)
    changed = False
    for block in list(blocks(definition.body)):
        for statement in list(block):
            name = _called_by(statement)
            is_alone = called.count(name) == 1  # of several calls one would stand for all
            function = around.get(name) if name and is_alone else None
            if name in source.local_names or not isinstance(function, FunctionType):
                continue
            helper = definition_of(function, source)
            written = _written_out(statement, helper, function, taken) if helper is not None else None
            if written is not None:
                at = block.index(statement)
                block[at : at + 1] = written
                changed = True
    if not changed:
        return source
    statements = tuple(definition.body)
    return replace(source, statements=statements, definition=definition, local_names=frozenset(taken))


def _called_by(statement: ast.stmt) -> str:
    """Return the function whose result a statement takes as it is; empty where there is none."""
    value = statement.value if isinstance(statement, ast.Assign | ast.Return) else None
    return value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""


def _written_out(
    statement: Any, helper: ast.FunctionDef, function: FunctionType, taken: set[str]
) -> list[ast.stmt] | None:
    """Return what a call does, statement by statement, in variables that are not taken; None where it cannot.

    Args:
        statement: assigns or returns the call's result.
        helper: the definition of what is called, which is changed.
        function: the same as it is called.
        taken: names that are in use; those of the helper's variables are added.
    """
    given = _given(statement.value, helper)
    ends = returns(helper.body)
    later = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.Global | ast.Nonlocal
    made = ends[0].value if len(ends) == 1 and ends[0] is helper.body[-1] else None
    if given is None or made is None:
        return None
    if any(isinstance(n, later) for s in helper.body for n in ast.walk(s)):
        return None
    code = function.__code__
    # a variable of the caller would hide what the helper means by this name
    if taken & {*code.co_names} & function.__globals__.keys():
        return None
    variables = [n for s in helper.body for n in ast.walk(s) if isinstance(n, ast.Name)]
    rebound = {n.id for n in variables if not isinstance(n.ctx, ast.Load)}
    same = {n for n, v in given.items() if isinstance(v, ast.Name) and v.id == n and n not in rebound}
    names = {n: _free(n, taken) for n in code.co_varnames if n not in same}
    taken.update(names.values())
    for node in variables:
        node.id = names.get(node.id, node.id)
    bound: list[ast.stmt] = [
        ast.copy_location(ast.Assign([ast.Name(names[n], ast.Store())], value), statement)
        for n, value in given.items()
        if n not in same
    ]
    taken_over = copy.copy(statement)
    taken_over.value = made
    if not _only_names(made):  # what it computes stands in the helper's line
        ast.copy_location(taken_over, ends[0])
    written = [*bound, *helper.body[:-1], taken_over]
    return [ast.fix_missing_locations(s) for s in written]


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


def _free(name: str, taken: set[str]) -> str:
    """Return a name, or a longer one where it is taken."""
    while name in taken:
        name += "_"
    return name
