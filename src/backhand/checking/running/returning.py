"""What a function returns by name: each entry of the dictionary as a variable that a statement assigns."""

import ast
import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from backhand.checking.running.statements import inner_blocks, writes


def spell_out(body: list[ast.stmt], taken: Collection[str]) -> None:
    """Put assignments before each `return` of a dictionary, one for every expression that stands in it.

    Args:
        body: the statements of a function, which are changed.
        taken: names that a new variable must not have.
    """
    for block in blocks(body):
        for returned in [s for s in block if isinstance(s, ast.Return)]:
            at = block.index(returned)
            block[at : at + 1] = _put_together(returned, body) or _spelled_out(returned, taken)


def _put_together(returned: ast.Return, body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return `{**gradients, "dx": dx}` as what puts into a dictionary that the body made, and returns that.

    Nothing where it is something else.
    """
    merged = _merged(returned.value)
    if not merged or isinstance(returned.value, ast.Name):
        return []
    (_, first), *rest = merged
    made = {
        target.id
        for s in body
        for n in ast.walk(s)
        if isinstance(n, ast.Assign)
        for target in n.targets
        if isinstance(target, ast.Name)
    }
    if not isinstance(first, ast.Name) or first.id not in made or merged[0][0] is not None:
        return []
    put: list[ast.stmt] = []
    for key, value in rest:
        if key is not None:
            place = ast.Subscript(ast.Name(first.id, ast.Load()), ast.Constant(key), ast.Store())
            put.append(ast.copy_location(ast.Assign([place], value), value))
        else:
            update = ast.Attribute(ast.Name(first.id, ast.Load()), "update", ast.Load())
            put.append(ast.copy_location(ast.Expr(ast.Call(update, [value], [])), value))
    last = ast.copy_location(ast.Return(ast.Name(first.id, ast.Load())), returned)
    return [ast.fix_missing_locations(s) for s in (*put, last)]


def _merged(node: ast.expr | None) -> list[tuple[str | None, ast.expr]] | None:
    """Return what is merged into a dictionary, a whole one first: others have no key, entries their own."""
    if isinstance(node, ast.Name):
        return [(None, node)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        left, right = _merged(node.left), _merged(node.right)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return [*((None, a) for a in node.args), *((k.arg, k.value) for k in node.keywords)]
    if isinstance(node, ast.Dict) and all(k is None or isinstance(k, ast.Constant) for k in node.keys):
        keys = [str(k.value) if isinstance(k, ast.Constant) else None for k in node.keys]
        return list(zip(keys, node.values, strict=True))
    return None


def _spelled_out(returned: ast.Return, taken: Collection[str]) -> list[ast.stmt]:
    entries = _entries(returned)
    if all(isinstance(value, ast.Name) for value in entries.values()):
        return [returned]
    assignments: list[ast.stmt] = []
    names: list[ast.expr] = []
    for key, value in entries.items():
        if not isinstance(value, ast.Name):
            variable = key if key.isidentifier() and key not in taken else f"returned_{len(names)}"
            assignment = ast.Assign([ast.Name(variable, ast.Store())], value)
            assignments.append(ast.fix_missing_locations(ast.copy_location(assignment, value)))
            value = ast.copy_location(ast.Name(variable, ast.Load()), value)
        names.append(value)
    spelled = ast.Return(ast.Dict([ast.Constant(key) for key in entries], names))
    return [*assignments, ast.fix_missing_locations(ast.copy_location(spelled, returned))]


def returned_variables(body: Sequence[ast.stmt]) -> dict[str, str]:
    """Return which variable stands behind each name of the returned dictionary, where the text tells.

    `return locals()` needs no entry: there the names are the variables.
    """
    entries = {k: v for returned in returns(body) for k, v in _entries(returned).items()}
    return {k: v.id for k, v in entries.items() if isinstance(v, ast.Name)}


def returned_container(body: Sequence[ast.stmt]) -> str | None:
    """Return the variable of a dictionary that is returned as it is: `return gradients`."""
    names = {r.value.id if isinstance(r.value, ast.Name) else None for r in returns(body)}
    return names.pop() if len(names) == 1 else None


def returned_so_far(
    body: Sequence[ast.stmt], variables: Mapping[str, Any], around: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a function that raised would have returned, of the variables that are there.

    All of them are, and under their names in the returned dictionary those that stand in it. A `return` that
    computes its dictionary, as one that picks from `locals()`, is computed of them.

    Args:
        body: its statements.
        variables: what they had assigned.
        around: what they see besides.
    """
    computed = [r.value for r in returns(body) if isinstance(r.value, ast.DictComp)]
    for expression in computed[-1:]:
        read = {n.id for n in ast.walk(expression) if isinstance(n, ast.Name)}
        missing = {name for name in read if variables.get(name) is None}
        makers: list[ast.stmt] = [s for s in body if isinstance(s, ast.Assign) and missing & writes(s)]
        # until Python 3.11 a comprehension's inner names are looked up among the globals
        there = {**around, **variables}
        with contextlib.suppress(Exception):  # these may raise as well
            exec(compile(ast.Module(makers, []), "<return>", "exec"), there)
            local = {name: there[name] for name in variables}
            return dict(eval(compile(ast.Expression(expression), "<return>", "eval"), there, local))
    container = variables.get(returned_container(body) or "")
    renamed = {k: variables[v] for k, v in returned_variables(body).items() if v in variables}
    return {**variables, **renamed, **(container if isinstance(container, Mapping) else {})}


def returns(body: Sequence[ast.stmt]) -> list[ast.Return]:
    """Return a function's own `return` statements, wherever they stand, in order of the text."""
    found: list[ast.Return] = []
    for s in body:
        found += (
            [s] if isinstance(s, ast.Return) else [r for inner in inner_blocks(s) for r in returns(inner)]
        )
    return found


def blocks(body: Sequence[ast.stmt]) -> Iterator[Any]:
    """Yield a block of statements and the blocks within it, but not those of functions defined there."""
    yield body
    for s in body:
        for inner in inner_blocks(s):
            yield from blocks(inner)


def _entries(returned: ast.Return) -> dict[str, ast.expr]:
    """Return the entries of a dictionary that is returned as a display or a call of `dict`."""
    node = returned.value
    if isinstance(node, ast.Dict):
        keys = [k.value if isinstance(k, ast.Constant) else None for k in node.keys]
        pairs = list(zip(keys, node.values, strict=True))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        pairs = [(k.arg, k.value) for k in node.keywords] if not node.args else []
    else:
        return {}
    return {k: v for k, v in pairs if isinstance(k, str)} if all(isinstance(k, str) for k, _ in pairs) else {}
