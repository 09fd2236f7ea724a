"""What a function returns by name: each entry of the dictionary as a variable that a statement assigns."""

import ast
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def spelled_out(body: Sequence[ast.stmt], taken: Collection[str]) -> tuple[ast.stmt, ...]:
    """Return a function's statements, the expressions within the returned dictionary assigned before it.

    Args:
        body: the statements.
        taken: names that a new variable must not have.
    """
    entries = _entries(body)
    if all(isinstance(value, ast.Name) for value in entries.values()):
        return tuple(body)
    assignments: list[ast.stmt] = []
    names: list[ast.expr] = []
    for key, value in entries.items():
        if not isinstance(value, ast.Name):
            variable = key if key.isidentifier() and key not in taken else f"returned_{len(names)}"
            assignment = ast.Assign([ast.Name(variable, ast.Store())], value)
            assignments.append(ast.fix_missing_locations(ast.copy_location(assignment, value)))
            value = ast.copy_location(ast.Name(variable, ast.Load()), value)
        names.append(value)
    returned = ast.Return(ast.Dict([ast.Constant(key) for key in entries], names))
    return (*body[:-1], *assignments, ast.fix_missing_locations(ast.copy_location(returned, body[-1])))


def returned_variables(body: Sequence[ast.stmt]) -> dict[str, str]:
    """Return which variable stands behind each name of the returned dictionary, where the text tells.

    `return locals()` needs no entry: there the names are the variables.
    """
    return {k: v.id for k, v in _entries(body).items() if isinstance(v, ast.Name)}


def returned_container(body: Sequence[ast.stmt]) -> str | None:
    """Return the variable of a dictionary that is returned as it is: `return gradients`."""
    last = body[-1] if body else None
    return last.value.id if isinstance(last, ast.Return) and isinstance(last.value, ast.Name) else None


def returned_so_far(body: Sequence[ast.stmt], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables, and under their names in the returned dictionary those that are there already."""
    container = variables.get(returned_container(body) or "")
    renamed = {k: variables[v] for k, v in returned_variables(body).items() if v in variables}
    return {**variables, **renamed, **(container if isinstance(container, Mapping) else {})}


def _entries(body: Sequence[ast.stmt]) -> dict[str, ast.expr]:
    """Return the entries of a dictionary that is returned as a display or a call of `dict`."""
    last = body[-1] if body else None
    node = last.value if isinstance(last, ast.Return) else None
    if isinstance(node, ast.Dict):
        keys = [k.value if isinstance(k, ast.Constant) else None for k in node.keys]
        pairs = list(zip(keys, node.values, strict=True))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        pairs = [(k.arg, k.value) for k in node.keywords] if not node.args else []
    else:
        return {}
    return {k: v for k, v in pairs if isinstance(k, str)} if all(isinstance(k, str) for k, _ in pairs) else {}
