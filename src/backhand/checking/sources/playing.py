"""Run the cells of a script or a notebook as they stand, and keep what a check needs of them."""

import ast
import contextlib
import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from types import FunctionType
from typing import Any

from torch import Tensor

from backhand.checking.report import Unfinished
from backhand.checking.running.alarms import OutOfTimeError, limited
from backhand.checking.running.endings import from_outside
from backhand.checking.running.instrumenting import run_function, run_statements
from backhand.checking.running.program import Namespace, Source
from backhand.checking.running.statements import begins_anew, reads, writes_surely
from backhand.checking.sources import blocks
from backhand.checking.sources.cells import Cells, Written
from backhand.checking.sources.chapters import trains
from backhand.checking.sources.colab import Absent, colab_forgotten, lacks_colab, put_colab
from backhand.checking.sources.fetched import how_to_get
from backhand.checking.sources.reading import begun_in
from backhand.errors import in_short


@dataclass(frozen=True, eq=False)
class Loss:
    """A statement that assigned the loss, with the variables after it."""

    statement: ast.stmt
    values: Namespace


@dataclass(frozen=True, eq=False)
class Played:
    """What has run, and what it gave.

    Attributes:
        source: all statements.
        loss: the name of the scalar in which a forward ends.
        ran: the statements that ran, in order.
        losses: each assignment of the loss.
        final: the variables at the end.
        unfinished: the cells that raised.
        lost: what each of those would have assigned, had it gone on; None of what ends Python.
        notes: what went wrong on the way.
    """

    source: Cells
    loss: str
    ran: tuple[ast.stmt, ...] = ()
    losses: tuple[Loss, ...] = ()
    final: Namespace = field(default_factory=dict)
    unfinished: tuple[Unfinished, ...] = ()
    lost: tuple[frozenset[str] | None, ...] = ()
    notes: tuple[str, ...] = ()

    def after(self, statement: ast.stmt, namespace: Mapping[str, Any]) -> "Played":
        """Return it with one more statement that has run, with the variables after it."""
        ran = replace(self, ran=(*self.ran, statement))
        if self.loss not in writes_surely(statement) or trains(statement, self.loss):
            return ran
        value = namespace.get(self.loss)
        if not isinstance(value, Tensor) or value.numel() != 1:
            return ran
        values = {k: _kept(v) for k, v in namespace.items() if not k.startswith("__")}
        return replace(ran, losses=(*self.losses, Loss(statement, values)))

    def noting(self, *notes: str) -> "Played":
        """Return it with more notes."""
        return replace(self, notes=(*self.notes, *notes))


def _kept(value: Any) -> Any:
    """Keep a parameter's value, which training may change under its name."""
    if isinstance(value, Tensor) and value.is_leaf:
        return value.detach().clone().requires_grad_(value.requires_grad)
    return value


def play(
    file: Written, loss: str, time_limit: float | None, watch: Callable[[str], None] = lambda _: None
) -> Played:
    """Run the cells of a file one after the other; `watch` is told which one is next.

    A cell that raises ends; the ones after it still run. A cell that is over the time limit is left; what
    raises after it, or after a loop that was left, may do so for that reason, and is only noted.
    """
    player = _Player(file, loss)
    # what is judged runs again, and warns then
    with warnings.catch_warnings(action="ignore"), _graphs_kept(), colab_forgotten():
        for label, statements in file.cells:
            watch(label)
            try:
                with limited(time_limit):
                    player.run(statements, last=statements is file.cells[-1][1])
            except OutOfTimeError:
                player.note(f"{label} took more than {time_limit:g} s and was left.")
                player.left = True
    return player.result()


def _not_run(source: Cells, unread: Unfinished) -> str:
    reason = unread.error.removeprefix("SyntaxError: ")
    cell = f"{unread.cell}, " if source.starts else ""
    return f"not run: {source.file}, {cell}line {unread.line.number}: {reason}."


@contextlib.contextmanager
def _graphs_kept() -> Iterator[None]:
    """Let autograd keep its graphs, from which the cells after a `loss.backward()` may still be judged."""
    backward = Tensor.backward

    def keeping(self: Tensor, gradient: Any = None, *_: Any, inputs: Any = None, **__: Any) -> None:
        backward(self, gradient, retain_graph=True, inputs=inputs)

    Tensor.backward = keeping  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.backward = backward  # type: ignore[method-assign]


class _Player:
    """Runs statements among the variables of a script or notebook."""

    def __init__(self, file: Written, loss: str):
        source = file.source
        self._played = Played(source, loss, notes=tuple(_not_run(source, line) for line in file.unread))
        self._file = source.file or "<cell>"
        self._unread = file.unread
        self.left = False
        self._not_run: list[ast.stmt] = []
        self._raised: list[tuple[Unfinished, frozenset[str] | None]] = []
        self.namespace: Namespace = {"__name__": "__main__", "__builtins__": __builtins__}
        self.namespace |= {"get_ipython": Absent(), "display": Absent()}  # what a notebook has
        if source.file:
            self.namespace["__file__"] = source.file
        self._opened = blocks.opened(source.statements, loss)
        self._watchers = {
            block: blocks.FirstTurn(blocks.parts_of(block, loss), self.ran) for block in self._opened
        }
        loops = [loop for s in source.statements for loop in blocks.left_early(s, loss, self._opened)]
        self._loops = {loop: i for i, loop in enumerate(loops)}
        self._turns = blocks.Turns(self._is_made)
        self.namespace |= self._turns.hooks()
        self._before: object = None

    def note(self, *notes: str) -> None:
        """Remember a remark for the report."""
        self._played = self._played.noting(*notes)

    def ran(self, statement: ast.stmt, variables: Mapping[str, Any] | None = None) -> None:
        """Take note of a statement that has run, with the variables of the function in which it stands."""
        self._played = self._played.after(statement, {**self.namespace, **(variables or {})})

    def result(self) -> Played:
        """Return what has run, with the variables as they are now."""
        raised = [line for line, _ in self._raised]
        return replace(
            self._played,
            ran=_without_superseded(self._played, self._not_run),
            final=blocks.without_hooks(self.namespace),
            unfinished=(*self._unread, *raised),
            lost=(*map(begun_in, self._unread), *(names for _, names in self._raised)),
        )

    def run(self, statements: Sequence[ast.stmt], *, last: bool) -> None:
        """Run a cell, up to an exception; that is told, unless it is an exit at the file's very end."""
        for i, statement in enumerate(statements):
            try:
                self._run(statement)
            except BaseException as error:  # the user's code may raise anything
                if from_outside(error):
                    raise
                at_end = last and not statements[i + 1 :] and len(self._unseen()) <= 1  # the exit itself
                if isinstance(error, SystemExit) and not error.code and at_end:
                    return
                rest = [*self._unseen(), *(s for s in statements[i:] if s not in self._opened)]
                self._not_run += rest
                self._played = replace(self._played, ran=(*self._played.ran, *rest))  # judged all the same
                self._tell(statement, error, frozenset(n for s in rest for n in writes_surely(s)))
                return

    def _tell(self, statement: ast.stmt, error: BaseException, lost: frozenset[str]) -> None:
        """Take note of an exception, and of what was not assigned because of it."""
        raised = self._unfinished(statement, error)
        help_ = how_to_get(error, self._played.source.lines)
        incomplete = {unread.line.file for unread in self._unread}
        if raised.line.file not in incomplete:  # what was left out may be all that it lacks
            self.note(f"{raised.cell or raised.line.file} raised {raised.error}{help_}")
        told = lost if isinstance(error, Exception) else None
        self._raised += () if self.left and told is not None else ((raised, told),)

    def _is_made(self, number: int) -> bool:
        """Tell whether a loop has made its loss; in a function, where it cannot be seen, one turn does."""
        loop = next(loop for loop, i in self._loops.items() if i == number)
        top = any(
            loop in ast.walk(s) for s in self._played.source.statements if isinstance(s, ast.FunctionDef)
        )
        return top or self.namespace.get(self._played.loss) is not self._before

    def _run(self, statement: ast.stmt) -> None:
        self._before, known = self.namespace.get(self._played.loss), set(self._turns.left)
        try:
            self._run_once(statement)
        except ModuleNotFoundError as error:
            if not lacks_colab(statement, error):
                raise
            put_colab()
            self._run_once(statement)
        finally:
            self._tell_of_loops(statement, known)

    def _tell_of_loops(self, statement: ast.stmt, known: set[int]) -> None:
        """Take note of the loops that were judged, or left, in a statement that has run."""
        judged = blocks.loops_within(statement, self._played.loss) if statement in self._opened else []
        left = [loop for loop, i in self._loops.items() if i in self._turns.left.keys() - known]
        self.left = self.left or bool(left)
        for loop in dict.fromkeys([*judged, *left]):
            place = self._played.source.place(loop)
            if loop in judged:
                after = "; it is left after that" if loop in left else ""
                self.note(f"{place}: the loop is judged by its first turn{after}.")
            else:
                self.note(f"{place}: the loop trains, and is left after its first turn.")

    def _run_once(self, statement: ast.stmt) -> None:
        watcher = self._watchers.get(statement)
        short = blocks.shortened(statement, self._loops)
        if watcher is not None and not isinstance(statement, ast.FunctionDef):
            whole = self._played.source
            run_statements(whole.of([short], whole.local_names), self.namespace, watcher)
            watcher.leave()
            return
        exec(compile(ast.Module([short], []), self._file, "exec"), self.namespace)
        if watcher is not None and isinstance(short, ast.FunctionDef):  # seen into when it is called
            self.namespace[short.name] = self._seen_into(self.namespace[short.name], short, watcher)
        else:
            self.ran(statement)

    def _seen_into(
        self, function: FunctionType, definition: ast.FunctionDef, watcher: blocks.FirstTurn
    ) -> Callable[..., Any]:
        """Return a function of the script that runs with a watcher."""
        whole, code = self._played.source, function.__code__
        names = frozenset(code.co_varnames + code.co_cellvars)
        source = Source(tuple(definition.body), whole.lines, whole.first, whole.file, names, definition)
        signature = inspect.signature(function)

        @wraps(function, assigned=("__name__", "__qualname__", "__doc__"))  # its module is not the script
        def watched(*args: Any, **kwargs: Any) -> Any:
            result = run_function(function, source, signature.bind(*args, **kwargs).arguments, watcher).result
            watcher.leave()
            return result

        return watched

    def _unseen(self) -> list[ast.stmt]:
        """Return the statements of opened blocks that have begun, but not come to an end."""
        return [s for w in self._watchers.values() if w.seen for s in w.parts if s not in w.seen]

    def _unfinished(self, statement: ast.stmt, error: BaseException) -> Unfinished:
        """Tell where in its cell a statement raised."""
        source = self._played.source
        line = source.line(statement.lineno)
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == self._file and frame.lineno:
                within = source.line(frame.lineno)
                line = within if within.file == line.file else line
        return Unfinished(source.cell(statement), in_short(error), line)


def _without_superseded(played: Played, not_run: Sequence[ast.stmt]) -> tuple[ast.stmt, ...]:
    """Return the statements without those that raised, or stand below, and that are of no more account.

    What stood above the first loss is no gradient of it. What is made anew before anything has used it, and
    before the loss is another one, is judged there.
    """
    losses = {loss.statement for loss in played.losses}
    first = played.ran.index(played.losses[0].statement) if played.losses else len(played.ran)
    kept: list[ast.stmt] = []
    anew: set[str] = set()
    for i, s in reversed(list(enumerate(played.ran))):
        written = writes_surely(s)
        if s in not_run and (i < first or written <= anew):
            continue
        kept.append(s)
        anew = set() if s in losses else anew - reads(s)
        anew |= {name for name in written if begins_anew(s, name)}
    return tuple(kept[::-1])
