"""A block that holds a whole exercise, such as a training loop or `main`, opened: its statements are seen.

The block runs as it stands, with its `break` and `return`, and all its turns; each of its statements is told
of when it has run for the first time, so that of a loop the first turn is what is judged.
"""

import ast
import copy
from collections.abc import Iterable

from backhand.checking.running.statements import reads, writes_surely

TELL, SEEN = "__tell__", "__seen__"
PARTS = ("body", "orelse", "finalbody")


class Opened:
    """The blocks that hold both the loss and gradients, if no plain statement assigns the loss.

    Attributes:
        blocks: each of them with what is run in its place. It calls `TELL` with the number of each statement
            that has run and with its variables, unless `SEEN` holds that number.
        within: their statements, by number.
        loops: the loops among them, and within them.
    """

    def __init__(self, statements: Iterable[ast.stmt], loss: str):
        statements = list(statements)
        self._loss = loss
        self.within: list[ast.stmt] = []
        self.loops: list[ast.stmt] = []
        plain = any(loss in writes_surely(s) for s in statements if not hasattr(s, "body"))
        self.blocks = {} if plain else {s: self._open(s) for s in statements if self._holds_gradients(s)}

    def _holds_gradients(self, statement: ast.stmt) -> bool:
        written = writes_surely(statement)
        known = written | reads(statement)
        return self._holds_loss(statement) and any(n[:1] == "d" and n[1:] in known for n in written)

    def _holds_loss(self, statement: ast.stmt) -> bool:
        return _is_block(statement) and self._loss in writes_surely(statement)

    def _open(self, block: ast.stmt) -> ast.stmt:
        """Return a copy of a block that tells of its statements; those that hold the loss are opened too."""
        self.loops += [block] if isinstance(block, ast.For | ast.While) else []
        opened = copy.copy(block)
        for part in PARTS:
            if hasattr(block, part):
                setattr(opened, part, [new for s in getattr(block, part) for new in self._told(s)])
        return opened

    def _told(self, statement: ast.stmt) -> list[ast.stmt]:
        if self._holds_loss(statement):
            return [self._open(statement)]
        number = len(self.within)
        call = ast.parse(f"{number} in {SEEN} or {TELL}({number}, locals())").body[0]
        for node in ast.walk(call):
            ast.copy_location(node, statement)
        self.within.append(statement)
        return [statement, call]


def _is_block(statement: ast.stmt) -> bool:
    return hasattr(statement, "body") and not isinstance(statement, ast.ClassDef)
