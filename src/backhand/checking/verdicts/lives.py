"""From one fresh assignment of a gradient to the last statement that adds to it: when is it complete."""

import ast
from dataclasses import dataclass, field
from typing import Any

from backhand.checking.running.executing import Execution, Namespace
from backhand.checking.running.statements import begins_anew, writes
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
        if self.execution and any(s is statement for s, _ in self.execution.errors):
            written = self.variables.aimed_at(statement, self.namespace)
        else:
            written = self._changed(statement)
        for tensor in written:
            path, value = self.variables.path[tensor], self.variables.get(self.namespace, tensor)
            self._seen[tensor] = _mark(value)
            self._kept.append(value)
            its = self.lives.setdefault(tensor, [])
            if not its or begins_anew(statement, path):
                its.append(Life(step, step, [statement]))
            else:
                its[-1].last = step
                if statement not in its[-1].statements:
                    its[-1].statements.append(statement)

    def _changed(self, statement: ast.stmt) -> list[str]:
        held = self.variables.held_by(writes(statement))
        values = {tensor: self.variables.get(self.namespace, tensor) for tensor in held}
        return [t for t, v in values.items() if v is not None and self._seen.get(t) != _mark(v)]


def _mark(value: Any) -> tuple[int, int]:
    """Return what tells a value from the one before it, changed in place or not."""
    return id(value), getattr(value, "_version", 0)
