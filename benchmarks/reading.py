"""Statements as they are read and marked: what they write, what they mention, and which lines they take."""

import ast
from collections.abc import Iterator
from typing import TypeVar

Node = TypeVar("Node", bound=ast.AST)


def names_in(node: ast.AST) -> set[str]:
    """Return the variables that an expression mentions."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def written_by(statement: ast.stmt) -> set[str]:
    """Return the variables that a statement assigns or changes, and the keys of a dictionary of gradients."""
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = list(statement.targets)
    elif isinstance(statement, ast.AugAssign):
        targets = [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        targets = [statement.value.func]
    else:
        return set()
    found: set[str] = set()
    for target in targets:
        for each in target.elts if isinstance(target, ast.Tuple) else [target]:
            found |= _roots(each)
    return found


def _roots(target: ast.expr) -> set[str]:
    """Return the variable that a target begins with, and the keys on the way to what is assigned."""
    found: set[str] = set()
    while isinstance(target, ast.Attribute | ast.Subscript):
        key = target.slice if isinstance(target, ast.Subscript) else None
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            found.add(key.value)
        target = target.value
    return found | ({target.id} if isinstance(target, ast.Name) else set())


def read_by(statement: ast.stmt) -> set[str]:
    """Return the variables that a simple statement reads; `a += b` reads both."""
    if isinstance(statement, ast.Assign):
        plain = {t.id for t in statement.targets if isinstance(t, ast.Name)}
        inner = [n for t in statement.targets if not isinstance(t, ast.Name) for n in names_in(t)]
        return names_in(statement.value) | (set(inner) - plain)
    return names_in(statement)


def blocks(statements: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """Yield a list of statements and those within it."""
    yield statements
    for s in statements:
        for slot in ("body", "orelse"):
            if isinstance(inner := getattr(s, slot, None), list):
                yield from blocks(inner)


def in_order(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements and those within them, in the order of the text."""
    for s in statements:
        yield s
        for slot in ("body", "orelse"):
            if isinstance(inner := getattr(s, slot, None), list):
                yield from in_order(inner)


def mark(node: Node, group: int = 0) -> Node:
    """Mark a statement as at fault: of every group, one must be shown."""
    node.at_fault = group  # type: ignore[attr-defined]
    return node


def mark_of(node: ast.AST) -> int | None:
    """Return the group in which a statement is at fault, if it is."""
    return getattr(node, "at_fault", None)
