"""A block that holds a whole exercise, such as a training loop or `main`: its statements are judged.

It runs as it stands, with its `break` and `return`; of a loop the first turn is judged, and no other
is made.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.program import Namespace
from backhand.checking.running.statements import inner_blocks, reads, writes_surely
from backhand.checking.sources.turns import begins, calls_backward, loops_of


def opened(statements: Sequence[ast.stmt], loss: str) -> tuple[ast.stmt, ...]:
    """Return the blocks whose statements are judged one by one: those that hold the loss with its gradients.

    So are loops that hold the loss, where the gradients stand below. A function counts only where no plain
    statement assigns the loss: its variables are others than those of the script.
    """
    plain = any(loss in writes_surely(s) for s in statements if not hasattr(s, "body"))
    found = []
    for i, s in enumerate(statements):
        if not _holds(s, loss) or not _can_be_seen_into(s):
            continue
        held = _holds_gradients(s) and not (plain and isinstance(s, ast.FunctionDef))
        if held or (begins(s, loss) and _gradients_follow(s, statements[i + 1 :], loss)):
            found.append(s)
    return tuple(found)


def _gradients_follow(loop: ast.stmt, later: Sequence[ast.stmt], loss: str) -> bool:
    """Tell whether gradients of what a loop makes are assigned before the loss is made again."""
    known = {f"d{name}" for name in writes_surely(loop) | reads(loop)}
    until = next((i for i, s in enumerate(later) if _assigns(s, loss)), len(later))
    return any(writes_surely(s) & known for s in later[:until])


def _assigns(statement: ast.stmt, loss: str) -> bool:
    return not isinstance(statement, ast.FunctionDef | ast.ClassDef) and loss in writes_surely(statement)


def _holds(statement: ast.stmt, loss: str) -> bool:
    block = hasattr(statement, "body") and not isinstance(statement, ast.ClassDef)
    return block and loss in writes_surely(statement)


def _holds_gradients(statement: ast.stmt) -> bool:
    written = writes_surely(statement)
    known = written | reads(statement)
    return any(n[:1] == "d" and n[1:] in known for n in written)


def _can_be_seen_into(statement: ast.stmt) -> bool:
    """Tell whether a block means the same with its statements seen; of functions, those that are plain."""
    if not isinstance(statement, ast.FunctionDef):
        return not isinstance(statement, ast.AsyncFunctionDef)
    arguments = statement.args
    # it is called again by the names of its parameters, without what a decorator would put around it
    odd = statement.decorator_list or arguments.posonlyargs or arguments.vararg or arguments.kwarg
    others = ast.Global | ast.Yield | ast.YieldFrom  # its globals are a copy; a generator runs later
    return not odd and not any(isinstance(n, others) for n in ast.walk(statement))


def parts_of(block: ast.stmt, loss: str) -> list[ast.stmt]:
    """Return the statements of a block that are judged one by one.

    Blocks within it that hold the loss are opened as well; any other compound statement is one part.
    """
    blocks = [block.body] if isinstance(block, ast.FunctionDef) else inner_blocks(block)
    return [
        part for inner in blocks for s in inner for part in (parts_of(s, loss) if _holds(s, loss) else [s])
    ]


def loops_within(block: ast.stmt, loss: str) -> list[ast.stmt]:
    """Return the loops that hold the loss: a block itself, and those within it."""
    blocks = [block.body] if isinstance(block, ast.FunctionDef) else inner_blocks(block)
    found = [loop for inner in blocks for s in inner if _holds(s, loss) for loop in loops_within(s, loss)]
    return ([block] if isinstance(block, ast.For | ast.While) else []) + found


def left_early(statement: ast.stmt, loss: str, opened: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return the loops of a statement that make the loss anew and need make one turn only.

    Those are training, or judged: a loop without gradients may be what a forward needs all turns of.
    """
    loops = [loop for loop in loops_of(statement) if begins(loop, loss)]
    if isinstance(statement, ast.FunctionDef):  # which may be called more than once
        loops = [loop for loop in loops if isinstance(loop, ast.For)]
    judged = statement in opened
    return [loop for loop in loops if judged or calls_backward(loop) or _holds_gradients(loop)]


class FirstTurn(Watcher):
    """Tells of each part of a block once, when it has run for the first time.

    A compound statement has run when one that does not stand in it runs, for probes stand after plain ones.

    Args:
        parts: as `parts_of` gives them.
        tell: called with a part and the variables after it.

    Attributes:
        seen: the parts that have run.
    """

    def __init__(self, parts: Sequence[ast.stmt], tell: Callable[[ast.stmt, Mapping[str, Any]], None]):
        self.parts: tuple[ast.stmt, ...] = tuple(parts)
        self.seen: set[ast.stmt] = set()
        self._tell_of = tell
        self._part_of = {inner: part for part in parts for inner in ast.walk(part)}
        self._within: ast.stmt | None = None
        self._variables: Namespace = {}

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Tell of a plain statement now, of a compound one when it is left."""
        part = self._part_of.get(statement)
        if part is not self._within:
            self.leave()
        if part is None or part in self.seen:
            return
        if part is statement:  # a plain one
            self._tell(part, variables)
        else:
            self._within, self._variables = part, dict(variables)  # a copy: they go on changing

    def leave(self) -> None:
        """Tell of the compound statement that has come to its end, if there is one."""
        if self._within is not None:
            self._tell(self._within, self._variables)
            self._within = None

    def raised(self, step: int, statement: ast.stmt, error: Exception) -> None:
        """Let it end the cell, as it does in a notebook."""
        raise error  # otherwise it would be passed over, as in a backward

    def _tell(self, part: ast.stmt, variables: Mapping[str, Any]) -> None:
        self.seen.add(part)
        self._tell_of(part, variables)
