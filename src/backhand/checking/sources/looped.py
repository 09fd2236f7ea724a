"""A loop over NumPy that trains and stands in no function: its first turn, as a function of its weights.

`for t in range(500): ... loss = ...; grad_w1 = ...; w1 -= rate * grad_w1`: what the loss and the gradients
are made of becomes the body of a function that returns them, and is judged as such functions are.
"""

import ast
import contextlib
import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType
from typing import Any, TypeGuard

import numpy as np

from backhand.checking.report import Report
from backhand.checking.running.endings import from_outside
from backhand.checking.running.program import Namespace, Source, made_of
from backhand.checking.running.sandbox import sandbox
from backhand.checking.running.statements import reads, writes_surely
from backhand.checking.sources.batches import Options
from backhand.checking.sources.chapters import is_definition, needed_for
from backhand.checking.sources.coursework import Running
from backhand.checking.sources.fetched import files_from
from backhand.checking.sources.overnumpy import noting
from backhand.checking.sources.paired import Functions
from backhand.checking.sources.pairs import judge_pair
from backhand.checking.sources.returned import tensor_named
from backhand.checking.sources.subjects import Subject
from backhand.errors import CheckError, in_short

# What is called when the first turn begins.
BEGUN = "__begun__"


class BegunError(BaseException):
    """A loop has come to its first turn; not an `Exception`, which the user's code may catch."""


@dataclass(frozen=True)
class Loop:
    """A loop that assigns a loss and gradients.

    Attributes:
        whole: the statement of the file that holds it, perhaps another loop.
        own: the loop.
        loss: the variable of the loss.
        gradients: the tensors of what it assigns that is called like gradients, by these names.
    """

    whole: ast.stmt
    own: ast.For | ast.While
    loss: str
    gradients: Mapping[str, str]

    @staticmethod
    def among(statements: Sequence[ast.stmt], loss: str) -> "Loop | None":
        """Return the first of a file that has gradients of what it does not make itself.

        >>> text = "for t in range(9):\\n  loss = ((x * w) ** 2).sum()\\n  dw = 2 * x * x * w"
        >>> found = Loop.among(ast.parse(text).body, "loss")
        >>> found.gradients
        {'dw': 'w'}
        """
        for whole in statements:
            loops = [] if is_definition(whole) else [n for n in ast.walk(whole) if _is_loop(n)]
            for own in reversed(loops):  # the inner ones first
                assigned = {n for s in own.body for n in writes_surely(s)}
                begun = {n for s in own.body for n in reads(s)} - _made(own.body)
                named = {g: t for g in sorted(assigned) for t in tensor_named(g)[:1] if t in begun}
                losses = [n for n in (loss, *sorted(assigned)) if n == loss or re.fullmatch("cost|J", n)]
                found = next((n for n in losses if n in assigned), None)
                if found is not None and named:
                    return Loop(whole, own, found, named)
        return None

    def begin(self, space: Namespace, label: str) -> None:
        """Run it up to its first turn."""
        tree = copy.deepcopy(self.whole)
        own = next(n for n in ast.walk(tree) if _is_loop(n) and n.lineno == self.own.lineno)
        own.body.insert(0, ast.copy_location(ast.parse(f"{BEGUN}()").body[0], own.body[0]))

        def begun() -> None:
            raise BegunError

        space[BEGUN] = begun
        with contextlib.suppress(BegunError):
            exec(compile(ast.fix_missing_locations(ast.Module([tree], [])), label, "exec"), space)
        del space[BEGUN]

    def function(self, space: Namespace, lines: Sequence[str], label: str) -> FunctionType:
        """Return what a turn makes of the weights, the loss and its gradients, as a function."""
        definition = ast.parse(f"def turn({', '.join(self.gradients.values())}): pass").body[0]
        assert isinstance(definition, ast.FunctionDef)
        wanted = [self.loss, *self.gradients]
        last = ast.copy_location(ast.parse(f"return {', '.join(wanted)}").body[0], self.own.body[-1])
        definition.body = [*map(copy.deepcopy, needed_for(self.own.body, wanted)), last]
        ast.fix_missing_locations(ast.copy_location(definition, self.own))
        exec(compile(ast.Module([definition], []), label, "exec"), space)
        turn = space.pop("turn")
        turn.__name__ = f"the loop in line {self.own.lineno}"
        names = frozenset(turn.__code__.co_varnames + turn.__code__.co_cellvars)
        own = Source(tuple(definition.body), tuple(lines), 1, label, names, definition)
        return made_of(turn, own)


def _is_loop(node: ast.AST) -> TypeGuard[ast.For | ast.While]:
    return isinstance(node, ast.For | ast.While)


def _made(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the variables that statements make before anything reads them."""
    made: set[str] = set()
    read: set[str] = set()
    for s in statements:
        read |= reads(s) - made
        made |= writes_surely(s) - read
    return made


@contextlib.contextmanager
def loop_opened(
    cells: Sequence[tuple[str, ast.Module, str]], loop: Loop, path: Path, options: Options
) -> Iterator[list[Subject]]:
    """Give the first turn of a loop, after all that stands above it has run.

    Raises:
        CheckError: it is not reached, or what it has gradients of is not there then.
    """
    with sandbox(path.resolve().parent), files_from(options.data):
        turn, inputs, notes = _reached(cells, loop, path)

        def check() -> Report:
            functions = Functions(turn, None, turn.__name__, over_torch=False)
            report = judge_pair(functions, inputs, draws=options.draws, seed=options.seed, given={})
            return noting(report, f"line {loop.own.lineno}: the loop is judged by its first turn.", *notes)

        yield [Subject(path.name, check)]


def _reached(
    cells: Sequence[tuple[str, ast.Module, str]], loop: Loop, path: Path
) -> tuple[FunctionType, dict[str, np.ndarray], list[str]]:
    running = Running()
    space: Namespace = {"__name__": "__main__", "__file__": str(path), "__builtins__": __builtins__}
    with running.texts():
        for label, tree, text in cells:
            for statement in tree.body:
                try:
                    if statement is not loop.whole:
                        running.run(statement, label, space)
                        continue
                    loop.begin(space, label)
                except Exception as error:  # the user's code may raise anything
                    if from_outside(error):
                        raise
                    where = f"{path.name}, line {statement.lineno},"
                    raise CheckError(f"{where} raised {in_short(error)}.") from error
                running.watching.release(space)
                found = {t: _array(space.get(t)) for t in loop.gradients.values()}
                inputs = {n: v for n, v in found.items() if v is not None}
                own = replace(loop, gradients={g: t for g, t in loop.gradients.items() if t in inputs})
                return own.function(space, text.splitlines(), label), inputs, list(running.notes)
    raise CheckError(f"{path.name}, line {loop.own.lineno}: the loop is not reached.")


def _array(value: Any) -> np.ndarray | None:
    """Return a weight as an array, a number as well; None for what has no gradient."""
    is_float = isinstance(value, float | np.ndarray) and np.asarray(value).dtype.kind == "f"
    return np.array(value) if is_float else None
