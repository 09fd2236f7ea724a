"""Which statements of a backward ran on a draw: of the others nothing is known."""

import ast
import contextlib
from collections.abc import Mapping
from typing import Any

from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.statements import gives_nothing, simple_statements, writes
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.repairing import watched

BRANCHES = ast.If | ast.Match


class _Ran(Watcher):
    """Notes which statements run."""

    def __init__(self) -> None:
        self.statements: set[ast.stmt] = set()

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Take note of one."""
        self.statements.add(statement)


def reached(chosen: Pass, draw: Draw) -> frozenset[ast.stmt]:
    """Return the statements of the backward that ran."""
    seen = _Ran()
    with contextlib.suppress(Exception):  # the user's code may raise anything
        watched(chosen, draw, seen)
    return frozenset(seen.statements)


def left_out(chosen: Pass, draw: Draw) -> list[int]:
    """Return the lines of a function that make something in a branch, and that did not run.

    After a `return` nobody looks whether it ran.
    """
    source = chosen.backward_source
    if source is None or chosen.scope is not None or source.simple == tuple(source.statements):
        return []  # where no statement holds another one there are no branches
    nodes = (n for top in source.statements for n in ast.walk(top))
    within = {s for n in nodes if isinstance(n, BRANCHES) for s in simple_statements([n])}
    making = [s for s in within if writes(s) and not gives_nothing(s)]
    ran = reached(chosen, draw) if making else frozenset[ast.stmt]()
    return sorted({s.lineno for s in making if s not in ran})
