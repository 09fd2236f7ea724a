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
from backhand.checking.running.statements import writes_surely
from backhand.checking.sources.cells import Cells, Written
from backhand.checking.sources.chapters import trains
from backhand.checking.sources.opening import FirstTurn, loops_within, opened, parts_of
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
        notes: what went wrong on the way.
    """

    source: Cells
    loss: str
    ran: tuple[ast.stmt, ...] = ()
    losses: tuple[Loss, ...] = ()
    final: Namespace = field(default_factory=dict)
    unfinished: tuple[Unfinished, ...] = ()
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


def play(file: Written, loss: str, time_limit: float | None) -> Played:
    """Run the cells of a file one after the other.

    A cell that raises ends; the ones after it still run. A cell that is over the time limit is left; what
    raises after it may do so for that reason, and is only noted.
    """
    player = _Player(file.source, loss, [_not_run(file.source, unread) for unread in file.unread])
    left = False
    # what is judged runs again, and warns then
    with warnings.catch_warnings(action="ignore"), _graphs_kept():
        for label, statements in file.cells:
            last = statements is file.cells[-1][1]
            try:
                with limited(time_limit):
                    raised = player.run(statements, last=last)
            except OutOfTimeError:
                player.note(f"{label} took more than {time_limit:g} s and was left.")
                left = True
                continue
            if raised is not None:
                player.note(f"{label} raised {raised.error}")
                player.unfinished += () if left else (raised,)
    return player.result(file.unread)


def _not_run(source: Cells, unread: Unfinished) -> str:
    reason = unread.error.removeprefix("SyntaxError: ")
    return f"not run: {source.file}, {unread.cell}, line {unread.line.number}: {reason}."


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


class _Absent:
    """Stands for IPython's shell and display: whatever is asked of it, nothing happens."""

    def __getattr__(self, name: str) -> "_Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> "_Absent":
        return self


class _Player:
    """Runs statements among the variables of a script or notebook."""

    def __init__(self, source: Cells, loss: str, notes: Sequence[str]):
        self._played = Played(source, loss, notes=tuple(notes))
        self._file = source.file or "<cell>"
        self.unfinished: tuple[Unfinished, ...] = ()
        self.namespace: Namespace = {"__name__": "__main__", "__builtins__": __builtins__}
        self.namespace |= {"get_ipython": _Absent(), "display": _Absent()}  # what a notebook has
        if source.file:
            self.namespace["__file__"] = source.file
        self._opened = opened(source.statements, loss)
        loops = [s for block in self._opened for s in loops_within(block, loss)]
        self.note(*(f"{source.place(s)}: the loop is judged by its first turn." for s in loops))
        self._watchers = {block: FirstTurn(parts_of(block, loss), self.ran) for block in self._opened}

    def note(self, *notes: str) -> None:
        """Remember a remark for the report."""
        self._played = self._played.noting(*notes)

    def ran(self, statement: ast.stmt, variables: Mapping[str, Any] | None = None) -> None:
        """Take note of a statement that has run, with the variables of the function in which it stands."""
        self._played = self._played.after(statement, {**self.namespace, **(variables or {})})

    def result(self, unread: Sequence[Unfinished]) -> Played:
        """Return what has run, with the variables as they are now."""
        final = {k: v for k, v in self.namespace.items() if not k.startswith("__")}
        return replace(self._played, final=final, unfinished=(*unread, *self.unfinished))

    def run(self, statements: Sequence[ast.stmt], *, last: bool) -> Unfinished | None:
        """Run a cell; return the exception in which it ended, unless nothing was to come after it."""
        for i, statement in enumerate(statements):
            try:
                self._run(statement)
            except BaseException as error:  # the user's code may raise anything
                if from_outside(error):
                    raise
                at_end = last and not statements[i + 1 :] and len(self._unseen()) <= 1  # the exit itself
                if isinstance(error, SystemExit) and not error.code and at_end:
                    return None
                rest = [s for s in statements[i:] if s not in self._opened]
                for s in (*self._unseen(), *rest):  # to be judged all the same
                    self._played = replace(self._played, ran=(*self._played.ran, s))
                return self._unfinished(statement, error)
        return None

    def _run(self, statement: ast.stmt) -> None:
        watcher = self._watchers.get(statement)
        if watcher is not None and not isinstance(statement, ast.FunctionDef):
            whole = self._played.source
            run_statements(whole.of([statement], whole.local_names), self.namespace, watcher)
            watcher.leave()
            return
        exec(compile(ast.Module([statement], []), self._file, "exec"), self.namespace)
        if watcher is not None and isinstance(statement, ast.FunctionDef):  # seen into when it is called
            name = statement.name
            self.namespace[name] = self._seen_into(self.namespace[name], statement, watcher)
        else:
            self.ran(statement)

    def _seen_into(
        self, function: FunctionType, definition: ast.FunctionDef, watcher: FirstTurn
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
