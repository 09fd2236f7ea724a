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

from backhand.checking.running.executing import Namespace
from backhand.checking.running.scripts import Cells, Played, Unfinished
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
    played = Played(source, loss)
    namespace: Namespace = {"__name__": "__main__", "__builtins__": __builtins__}
    namespace |= {"get_ipython": _Absent(), "display": _Absent()}  # a notebook has them, and what it exports
    if source.file:
        namespace["__file__"] = source.file
    left = False
    with _quietly(folder):
        for label, statements in cells:
            try:
                with _limited(time_limit):
                    raised = _run_cell(played, statements, namespace, source.file or label)
            except _OutOfTimeError:
                played.notes.append(f"{label} took more than {time_limit:g} s and was left.")
                left = True
                continue
            if raised is not None:
                played.notes.append(f"{label} raised {raised.error}")
                played.unfinished += [] if left else [raised]
    played.final = {k: v for k, v in namespace.items() if not k.startswith("__")}
    return played


def _run_cell(
    played: Played, statements: Sequence[ast.stmt], namespace: Namespace, file: str
) -> Unfinished | None:
    """Run a cell; return the exception in which it ended, unless it meant to end there."""
    for i, statement in enumerate(statements):
        try:
            exec(compile(ast.Module([statement], []), file, "exec"), namespace)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            if isinstance(error, SystemExit) and not error.code:
                return None
            played.ran.extend(statements[i:])  # to be judged all the same
            frames = traceback.extract_tb(error.__traceback__)
            at = next((f.lineno for f in frames if f.name == "<module>"), None)
            line = played.source.line(at or statement.lineno)
            return Unfinished(played.source.cell(statement), in_short(error), line)
        played.saw(statement, namespace)
    return None


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
