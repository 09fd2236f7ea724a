"""Which gradients of a learner's backward are still `...`, and which lines wait for them."""

import ast

from backhand.checking.running.program import Source
from backhand.checking.running.statements import reads, simple_statements, writes_surely


def unfinished(source: Source, asked: set[str]) -> dict[str, str]:
    """Return the gradients that have no value yet, each with what it waits for, if it does.

    A gradient is unfinished where the last thing assigned to it is `...`, where it is not assigned at all, or
    where a line that makes it uses an unfinished one.
    """
    statements = simple_statements(source.statements)
    found = {name: "" for name in sorted(asked) if _is_blank(statements, name)}
    grown = True
    while grown:
        grown = False
        for statement in statements:
            if isinstance(statement, ast.Return):
                continue
            blocked = sorted(set(reads(statement)) & set(found))
            for name in sorted(writes_surely(statement)) if blocked else ():
                if name not in found:
                    found[name] = blocked[0]
                    grown = True
    return found


def waiting_lines(source: Source, waiting: dict[str, str]) -> set[int]:
    """Return the numbers of the lines that cannot run before the unfinished gradients have their values."""
    return {s.lineno for s in simple_statements(source.statements) if reads(s) & set(waiting)}


def _is_blank(statements: list[ast.stmt], name: str) -> bool:
    """Tell whether a gradient is never assigned anything but `...`."""
    last: ast.stmt | None = None
    for statement in statements:
        if name in writes_surely(statement):
            last = statement
    if last is None:
        return True
    value = getattr(last, "value", None)
    return isinstance(last, ast.Assign) and isinstance(value, ast.Constant) and value.value is Ellipsis
