"""A training loop makes one turn: that is enough to judge it, and 200,000 would show nothing more."""

import ast
import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from backhand.checking.running.statements import begins_anew, inner_blocks, simple_statements

# What the loops call. The names are kept where other names in `__` are dropped: functions look for them.
TURNS, TURN = "__turns__", "__turn__"
_END = object()


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


def without_hooks(namespace: Mapping[str, Any], kept: Collection[str] = (TURNS, TURN)) -> dict[str, Any]:
    """Return the user's variables, and what his functions call, without those that Python puts there."""
    return {k: v for k, v in namespace.items() if not k.startswith("__") or k in kept}
