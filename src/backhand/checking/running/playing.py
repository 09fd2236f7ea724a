"""Run a user's script or notebook, without its plots, its prints or a change to its folder's contents."""

import ast
import contextlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from backhand.checking.report import Unfinished
from backhand.checking.running.opening import SEEN, TELL, Opened
from backhand.checking.running.program import Namespace
from backhand.checking.sources.scripts import Cells, Played
from backhand.errors import in_short


class _OutOfTimeError(BaseException):
    """A cell took too long; not an `Exception`, which the user's code may catch."""


class _Absent:
    """Stands for IPython's shell and display: whatever is asked of it, nothing happens."""

    def __getattr__(self, name: str) -> "_Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> "_Absent":
        return self


def play(
    source: Cells,
    cells: Sequence[tuple[str, Sequence[ast.stmt]]],
    folder: Path,
    loss: str,
    time_limit: float | None,
) -> Played:
    """Run cells one after the other, in the file's own folder.

    A cell that raises ends; the ones after it still run. A cell that is over the time limit is left; what
    raises after it may do so for that reason, and is only noted.
    """
    player = _Player(source, loss)
    played, left = player.played, False
    with _quietly(folder):
        for label, statements in cells:
            try:
                with _limited(time_limit):
                    raised = player.run(statements)
            except _OutOfTimeError:
                played.notes.append(f"{label} took more than {time_limit:g} s and was left.")
                left = True
                continue
            if raised is not None:
                played.notes.append(f"{label} raised {raised.error}")
                played.unfinished += [] if left else [raised]
    played.final = {k: v for k, v in player.namespace.items() if not k.startswith("__")}
    return played


class _Player:
    """Runs statements among the variables of a script or notebook."""

    def __init__(self, source: Cells, loss: str):
        self.played = Played(source, loss)
        self._seen: set[int] = set()
        self.namespace: Namespace = {"__name__": "__main__", "__builtins__": __builtins__}
        self.namespace |= {"get_ipython": _Absent(), "display": _Absent()}  # what a notebook has
        self.namespace |= {SEEN: self._seen, TELL: self._tell}
        if source.file:
            self.namespace["__file__"] = source.file
        self._opened = Opened(source.statements, loss)
        places = [source.cell(s) or f"line {s.lineno}" for s in self._opened.loops]
        self.played.notes += [f"{place}: the loop is judged by its first turn." for place in places]
        self._file = source.file or "<cell>"

    def run(self, statements: Sequence[ast.stmt]) -> Unfinished | None:
        """Run a cell; return the exception in which it ended, unless it meant to end there."""
        for i, statement in enumerate(statements):
            code = self._opened.blocks.get(statement, statement)
            try:
                exec(compile(ast.Module([code], []), self._file, "exec"), self.namespace)
            except (Exception, SystemExit) as error:  # the user's code may raise anything
                if isinstance(error, SystemExit) and not error.code:
                    return None
                rest = [s for s in statements[i:] if s not in self._opened.blocks]
                self.played.ran += [*self._unseen(), *rest]  # to be judged all the same
                return self._unfinished(statement, error)
            if code is statement:
                self.played.saw(statement, self.namespace)
        return None

    def _tell(self, number: int, variables: Namespace) -> None:
        """Take note of a statement within an opened block that has run for the first time."""
        self._seen.add(number)
        self.played.saw(self._opened.within[number], self.namespace | variables)

    def _unseen(self) -> list[ast.stmt]:
        """Return the statements of opened blocks that have begun, but not come to an end."""
        return [s for i, s in enumerate(self._opened.within) if self._seen and i not in self._seen]

    def _unfinished(self, statement: ast.stmt, error: BaseException) -> Unfinished:
        """Tell where in its cell a statement raised."""
        line = self.played.source.line(statement.lineno)
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == self._file and frame.lineno:
                within = self.played.source.line(frame.lineno)
                line = within if within.file == line.file else line
        return Unfinished(self.played.source.cell(statement), in_short(error), line)


@contextlib.contextmanager
def _quietly(folder: Path) -> Iterator[None]:
    """Run in a folder, with output swallowed, plots unseen, and autograd's graphs kept alive."""
    where, path = Path.cwd(), list(sys.path)
    argv, bytecode, backend = sys.argv, sys.dont_write_bytecode, os.environ.get("MPLBACKEND")
    backward = Tensor.backward
    generator = torch.default_generator.get_state()

    def keeping(self: Tensor, gradient: Any = None, *_: Any, inputs: Any = None, **__: Any) -> None:
        backward(self, gradient, retain_graph=True, inputs=inputs)

    os.chdir(folder)
    os.environ["MPLBACKEND"] = "Agg"
    sys.path.insert(0, str(folder))
    sys.argv = [argv[0] if argv else ""]
    sys.dont_write_bytecode = True
    Tensor.backward = keeping  # type: ignore[method-assign]
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
            _figures_closed(),
        ):
            yield
    finally:
        Tensor.backward = backward  # type: ignore[method-assign]
        sys.path[:], sys.argv, sys.dont_write_bytecode = path, argv, bytecode
        if backend is None:
            os.environ.pop("MPLBACKEND", None)
        else:
            os.environ["MPLBACKEND"] = backend
        os.chdir(where)
        torch.default_generator.set_state(generator)


@contextlib.contextmanager
def _figures_closed() -> Iterator[None]:
    """Close the figures that are opened within a block."""

    def numbers() -> set[int]:
        pyplot = sys.modules.get("matplotlib.pyplot")
        return set(pyplot.get_fignums()) if pyplot else set()

    before = numbers()
    try:
        yield
    finally:
        for number in numbers() - before:
            sys.modules["matplotlib.pyplot"].close(number)


@contextlib.contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Interrupt a block after a time, where the system can (the main thread of a Unix process)."""
    able = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds is None or not able:
        yield
        return

    def ring(_: int, __: FrameType | None) -> None:
        raise _OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
