"""A block that holds a whole exercise, such as a training loop or `main`: its statements are judged.

It runs as it stands, with its `break` and `return`; of a loop the first turn is judged, and no other is made:
200,000 would show nothing more.
"""

import ast
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.program import Namespace
from backhand.checking.running.statements import (
    begins_anew,
    inner_blocks,
    reads,
    simple_statements,
    writes_surely,
)

# What the loops call. The names are kept where other names in `__` are dropped: functions look for them.
TURNS, TURN = "__turns__", "__turn__"
_END = object()


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

    A compound statement has run when one that does not stand in it runs: there may be no probe after it.

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
        if part is statement:  # a plain one, or one that has come to its end
            self._within = None
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


def begins(loop: ast.stmt, loss: str) -> bool:
    """Tell whether a loop makes the loss anew in each turn; one that adds to it is a forward by itself."""
    return isinstance(loop, ast.For | ast.While) and any(
        begins_anew(s, loss) for s in simple_statements([loop])
    )


def calls_backward(statement: ast.stmt) -> bool:
    """Tell whether a statement, or one within it, calls a method `backward`."""
    return any(isinstance(n, ast.Attribute) and n.attr == "backward" for n in ast.walk(statement))


def loops_of(statement: ast.stmt) -> list[ast.stmt]:
    """Return the loops in a statement, itself among them; of a definition, those in its body."""
    blocks = [statement.body] if isinstance(statement, ast.FunctionDef) else inner_blocks(statement)
    own = [statement] if isinstance(statement, ast.For | ast.While) else []
    inner = [loop for block in blocks for s in block if not _is_definition(s) for loop in loops_of(s)]
    return own + inner


def _is_definition(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def shortened(statement: ast.stmt, loops: Mapping[ast.stmt, int]) -> ast.stmt:
    """Return a statement in which some loops ask before they turn again; plain statements are the same nodes.

    Args:
        statement: it, or a block in which they stand.
        loops: those loops, numbered.
    """
    if not any(n in loops for n in ast.walk(statement)):
        return statement
    found = copy.copy(statement)
    if statement in loops and isinstance(found, ast.For):
        found.iter = _call(TURNS, loops[statement], found.iter)
    elif statement in loops and isinstance(found, ast.While):
        found.test = ast.BoolOp(ast.And(), [found.test, _call(TURN, loops[statement])])
    for slot in ("body", "orelse", "finalbody"):
        if isinstance(getattr(found, slot, None), list):
            setattr(found, slot, [shortened(s, loops) for s in getattr(found, slot)])
    for slot in ("handlers", "cases"):
        if hasattr(found, slot):
            setattr(found, slot, [shortened(part, loops) for part in getattr(found, slot)])
    return ast.fix_missing_locations(found)


def _call(function: str, number: int, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), [ast.Constant(number), *arguments], [])


class Turns:
    """Decides whether loops turn again.

    Args:
        is_made: tells of a loop, by number, whether a turn has made its loss.

    Attributes:
        left: the numbers of those that would have turned again.
    """

    def __init__(self, is_made: Callable[[int], bool]):
        self.left: dict[int, None] = {}
        self._is_made = is_made
        self._turned: set[int] = set()

    def hooks(self) -> dict[str, Any]:
        """Return what the loops call, by the names that they use."""
        return {TURNS: self._turns, TURN: self._turn}

    def _turns(self, number: int, items: Iterable[Any]) -> Iterator[Any]:
        iterator = iter(items)
        for item in iterator:
            yield item
            if self._is_made(number):
                if next(iterator, _END) is not _END:
                    self.left[number] = None
                return

    def _turn(self, number: int) -> bool:
        again = number in self._turned and self._is_made(number)
        self._turned.add(number)
        if again:
            self.left[number] = None
        return not again


def without_hooks(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's variables, and what his functions call, without those that Python puts there."""
    return {k: v for k, v in namespace.items() if not k.startswith("__") or k in (TURNS, TURN)}
