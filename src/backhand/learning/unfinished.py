"""Which gradients of a learner's backward are still `...`, wholly or partly, and what waits for them."""

import ast
from collections.abc import Sequence

from backhand.checking.running.program import Source
from backhand.checking.running.statements import reads, simple_statements, writes_surely


def unfinished(source: Source, asked: set[str]) -> dict[str, str]:
    """Return the gradients that have no value yet, each with what it waits for, if it does.

    A gradient is unfinished where the last thing assigned to it is `...`, where it is not assigned at all, or
    where a line that makes it uses an unfinished one.
    """
    statements = source.simple
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


def only_begun(source: Source, asked: set[str]) -> set[str]:
    """Return the gradients that are begun, as with zeros before a loop, and that nothing arrives at yet."""
    statements = source.simple
    made = {name: [s for s in statements if name in writes_surely(s)] for name in asked}
    return {name for name, its in made.items() if not any(_uses_a_gradient(s, name) for s in its)}


def _uses_a_gradient(statement: ast.stmt, name: str) -> bool:
    return any(used.startswith("d") for used in reads(statement) - {name})


def _open_stages(statements: Sequence[ast.stmt]) -> list[ast.AugAssign]:
    """Return the stages that are still blank, such as `dcounts += ...`."""
    stages = [s for s in simple_statements(statements) if isinstance(s, ast.AugAssign)]
    return [s for s in stages if _is_ellipsis(s.value) and isinstance(s.target, ast.Name)]


def without_open_stages(text: str, function: str) -> tuple[str, frozenset[str]]:
    r"""Return a file's text with `pass` for each blank stage of a function, and the gradients that have one.

    So what is there already can run.

    >>> text, names = without_open_stages("def f(dx):\n    dx += ...  # second", "f")
    >>> print(text, *names)
    def f(dx):
        pass  # second dx
    """
    definitions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == function]
    lines = text.encode().splitlines(keepends=True)  # the parser counts columns in bytes, and by these lines
    stages = _open_stages(definitions[-1].body) if definitions else []
    for stage in stages:
        assert stage.end_lineno is not None
        head = lines[stage.lineno - 1][: stage.col_offset]
        tail = lines[stage.end_lineno - 1][stage.end_col_offset :]
        blank = [b"\n"] * (stage.end_lineno - stage.lineno)  # what comes below keeps its number
        lines[stage.lineno - 1 : stage.end_lineno] = [head + b"pass" + tail, *blank]
    names = frozenset(n for stage in stages for n in writes_surely(stage))
    return b"".join(lines).decode(), names


def waiting_lines(source: Source, waiting: dict[str, str]) -> set[int]:
    """Return the numbers of the lines that cannot run before the unfinished gradients have their values."""
    return {s.lineno for s in source.simple if reads(s) & set(waiting)}


def _is_blank(statements: Sequence[ast.stmt], name: str) -> bool:
    """Tell whether a gradient is never assigned anything but `...`."""
    last: ast.stmt | None = None
    for statement in statements:
        if name in writes_surely(statement):
            last = statement
    if last is None:
        return True
    return isinstance(last, ast.Assign) and _is_ellipsis(last.value)


def _is_ellipsis(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is Ellipsis
