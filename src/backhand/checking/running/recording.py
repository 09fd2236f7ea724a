"""The cells of a live session as they run; from them, the pass that is hidden in the session is checked.

The forward is run again from the recorded statements and the values that its inputs had, so that it does not
matter whether the user's own graph is still alive.
"""

import ast
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from backhand.checking.files import without_magics
from backhand.checking.judging import check_resolved
from backhand.checking.report import Report
from backhand.checking.running.scripts import Cells, Played, as_pass
from backhand.checking.running.source import begins_anew, writes, writes_surely


class Recording:
    """What has run in a session, statement by statement.

    Args:
        loss: the name of the scalar in which the forward ends.
    """

    def __init__(self, loss: str = "loss"):
        self.loss = loss
        self._lines: list[str] = []
        self._starts: list[tuple[int, str]] = []
        self._ran: list[ast.stmt] = []
        self._played: Played | None = None

    def add(self, label: str, text: str, namespace: Mapping[str, Any]) -> tuple[str, ...]:
        """Take note of a cell that has run, and return the gradients that it assigned.

        Args:
            label: what the cell is called in messages.
            text: its source, magics included.
            namespace: the variables after it.
        """
        try:
            tree = ast.parse(without_magics(text))
        except SyntaxError:
            return ()
        ast.increment_lineno(tree, len(self._lines))
        self._starts.append((len(self._lines) + 1, label))
        self._lines += text.split("\n")
        found: dict[str, None] = {}
        for statement in tree.body:
            if isinstance(statement, ast.For | ast.While) and self.loss in writes(statement):
                continue  # training
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                continue
            for name in sorted(writes_surely(statement)):
                judged = isinstance(namespace.get(name[1:]), Tensor) and namespace.get(name) is not Ellipsis
                if name.startswith("d") and judged:
                    found[name] = None
            self._note(statement, namespace)
        return tuple(found)

    def _note(self, statement: ast.stmt, namespace: Mapping[str, Any]) -> None:
        """Keep a statement; one that assigns a gradient anew makes those before it void."""
        for name in writes_surely(statement):
            if name.startswith("d") and begins_anew(statement, name):
                self._ran = [s for s in self._ran if writes_surely(s) != {name}]
        self._ran.append(statement)
        value = namespace.get(self.loss)
        if self.loss in writes_surely(statement) and isinstance(value, Tensor) and value.numel() == 1:
            played = Played(self._source(), self.loss)
            played.ran = [statement]
            played.saw(statement, dict(namespace))
            self._played = played if played.loss_statement is not None else None

    def _source(self) -> Cells:
        statements = tuple(self._ran)
        return Cells(statements, tuple(self._lines), 1, None, frozenset(), tuple(self._starts))

    def knows_the_loss(self) -> bool:
        """Tell whether a cell that assigned the loss has been recorded."""
        return self._played is not None

    def report(self, namespace: Mapping[str, Any], *, draws: int = 1) -> Report:
        """Check the session as it stands.

        Args:
            namespace: the variables now.
            draws: how many sets of inputs to try: one is instant.

        Raises:
            CheckError: there is no loss, or no gradient of anything that it depends on.
        """
        played = Played(self._source(), self.loss, list(self._ran))
        if self._played is not None:
            played.at_loss, played.loss_statement = self._played.at_loss, self._played.loss_statement
        played.final = {k: v for k, v in namespace.items() if not k.startswith("_")}
        return check_resolved(as_pass(played), "this session", draws=draws, seed=0, stress=False)
