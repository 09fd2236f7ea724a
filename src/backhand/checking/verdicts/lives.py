"""From one fresh assignment of a gradient to the last statement that adds to it: when is it complete."""

import ast
from dataclasses import dataclass, field
from typing import Any

from backhand.checking.running.executing import Execution, Namespace
from backhand.checking.running.flattening import root
from backhand.checking.running.source import begins_anew, writes, writes_surely
from backhand.checking.verdicts.variables import Variables


@dataclass
class Life:
    """The steps from a fresh assignment to the last statement that adds to it, both counted."""

    first: int
    last: int
    statements: list[ast.stmt] = field(default_factory=list)


Lives = dict[str, list[Life]]


class Recorder:
    """Watches a run: when is each gradient written, and by which statements."""

    def __init__(self, variables: Variables):
        self.variables = variables
        self.lives: Lives = {}
        self.namespace: Namespace = {}
        self.execution: Execution | None = None
        self._seen: dict[str, tuple[int, int]] = {}
        self._kept: list[Any] = []  # so that no identity is used twice

    def __call__(self, step: int, statement: ast.stmt) -> None:
        """Look at what a statement has written."""
        for tensor in self.variables.held_by(writes(statement)):
            path = self.variables.path[tensor]
            value = self.variables.get(self.namespace, tensor)
            mark = (id(value), getattr(value, "_version", 0))
            surely = root(path) in writes_surely(statement)
            raised = surely and self.execution and any(s is statement for s, _ in self.execution.errors)
            if (not raised or "[" in path) and value is not None and self._seen.get(tensor) == mark:
                continue
            if value is None and ("[" in path or not raised):
                continue
            self._seen[tensor] = mark
            self._kept.append(value)
            its = self.lives.setdefault(tensor, [])
            if not its or begins_anew(statement, path):
                its.append(Life(step, step, [statement]))
            else:
                its[-1].last = step
                if statement not in its[-1].statements:
                    its[-1].statements.append(statement)
