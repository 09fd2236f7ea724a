"""A process of its own for code that may exit, crash or never end: the one who asks goes on.

One process imports what is needed, once; each call is answered by a child that it forks. A child that ends
without an answer leaves Python's own traceback, from which the line is told.
"""

import contextlib
import ctypes
import faulthandler
import io
import os
import pickle
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import IO, Any, NoReturn

# Of an answer, before it: a process that the user's code leaves keeps the pipe open.
SIZE = struct.Struct("!Q")
GONE = 1.0  # seconds that a child may take to end after it has closed its pipe
LATER = 2.0  # seconds after its limit in which a child ends itself, and tells its line
STARTS = 60.0  # seconds that the other process may take to import torch, on a busy machine
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that comes when the parent ends
_leave = os._exit  # the user's code may put another one there


@dataclass(frozen=True)
class _Call:
    """What is asked for, and where the one who asks stands."""

    function: str
    arguments: tuple[Any, ...]
    file: str
    folder: str
    path: tuple[str, ...]
    environment: dict[str, str]
    limit: float | None


class EndedError(Exception):
    """The process of a call ended without an answer.

    Attributes:
        reason: how it ended, in a clause.
        line: where in the file of the call it was then; None where that is not known.
        timed: the limit that it was over, in seconds; None where it ended by itself.
    """

    def __init__(self, reason: str, line: int | None = None, timed: float | None = None):
        super().__init__(reason, line, timed)
        self.reason: str = reason
        self.line: int | None = line
        self.timed: float | None = timed


class Apart:
    """Calls functions in processes of their own, one after the other.

    Where the system cannot fork, they are called here.

    Args:
        modules: imported before the first call, beside the module of the function; left out if not there.
    """

    def __init__(self, *modules: str):
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None

    def call(
        self, function: str, *arguments: Any, file: Path | None = None, limit: float | None = None
    ) -> Any:
        """Return what a function of a module returns, called in a process of its own.

        It finds the folder, the environment and the import path as they are here, no input, and what it
        prints goes to standard error.

        Args:
            function: as `module:name`, so that its module need not be imported here.
            arguments: can be pickled, as its result can.
            file: whose line is told if it ends without an answer.
            limit: seconds in which it answers by itself, as with `ends_after`; a little later it is ended
                here, whatever became of its own watch.

        Raises:
            EndedError: it ended without an answer.
        """
        if not hasattr(os, "fork"):
            return resolve_name(function)(*arguments)
        folder, environment = os.getcwd(), dict(os.environ)  # noqa: PTH109
        call = _Call(function, arguments, str(file or ""), folder, tuple(sys.path), environment, limit)
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(call, process.stdin)
            process.stdin.flush()
            if limit is not None and not select.select([process.stdout], [], [], limit + STARTS)[0]:
                process.kill()  # it may have been stopped
            answer = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.close()
            raise EndedError("it ended the process that watches it") from None
        if isinstance(answer, EndedError):
            raise answer
        return pickle.loads(answer)

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            # by the same path, so that it is the same package
            code = f"import sys; sys.path[:] = {sys.path!r}; import {__name__} as apart; "
            code += f"apart.serve({self._modules!r})"
            command = [sys.executable, "-P", "-c", code]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def close(self) -> None:
        """End the process, and the child that it may have."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError), process:  # it ends when it is asked for nothing more
            assert process.stdin is not None
            process.stdin.close()

    def __enter__(self) -> "Apart":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(modules: tuple[str, ...] = ()) -> None:
    """Answer what is asked for on standard input until it ends: what runs in the other process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    asked, answers = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)  # standard output is for the one who asks, whatever the code prints
    except OSError:  # standard error is closed
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    for module in modules:
        with contextlib.suppress(ImportError):
            __import__(module)
    while True:
        try:
            call: _Call = pickle.load(asked)
        except EOFError:
            return
        resolve_name(call.function)  # what it imports is imported once
        pickle.dump(_answer(call, asked, answers), answers)
        answers.flush()


def _answer(call: _Call, asked: IO[bytes], answers: IO[bytes]) -> bytes | EndedError:
    """Fork a child that answers, and wait for it."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as traces:
        late = False
        child = os.fork()
        if child == 0:
            asked.close()
            answers.close()
            os.close(reading)
            _work(call, writing, traces)
        os.close(writing)
        with contextlib.suppress(OSError):
            os.setpgid(child, child)  # so does the child; whoever is first
        try:
            answer, status = _received(child, reading, asked.fileno(), call.limit)
        except TimeoutError:
            answer, status, late = None, None, True
        finally:
            os.close(reading)
            for end in (os.killpg, os.kill):  # with all that it has started
                with contextlib.suppress(OSError):
                    end(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # it has been waited for
            os.waitpid(child, 0)
        if answer is not None:
            return answer
        if late:
            return EndedError("it was still running", None, call.limit)
        traces.seek(0)
        return _last_words(traces.read().decode(errors="replace"), status, call.file)


def _received(child: int, reading: int, asked: int, limit: float | None) -> tuple[bytes | None, int | None]:
    """Return a child's answer, or None and with which status it ended or stopped; None if it goes on mute.

    Raises:
        TimeoutError: it is over its limit, and has not ended itself.
    """
    data, closed = b"", False
    last = float("inf") if limit is None else time.monotonic() + limit + LATER
    while True:
        if time.monotonic() > last:
            raise TimeoutError
        ready, _, _ = select.select([asked, *([] if closed else [reading])], [], [], GONE)
        if asked in ready:  # nothing is asked before the answer: the one who asks has gone
            os.killpg(child, signal.SIGKILL)
            _leave(0)
        chunk = os.read(reading, 2**20) if reading in ready else b""
        data += chunk
        if len(data) >= SIZE.size and len(data) - SIZE.size >= SIZE.unpack_from(data)[0]:
            return data[SIZE.size :], None
        if chunk:
            continue
        ended, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if ended or closed:  # it has closed its pipe, and goes on
            return None, status if ended else None
        closed = reading in ready


def _work(call: _Call, writing: int, traces: IO[bytes]) -> NoReturn:
    """Do what is asked for, write the answer and end: what runs in the child."""
    own, data = os.getpid(), b""
    _end_with_the_parent()
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        faulthandler.enable(traces)
        _watchdog.append(traces)
        _own.append(own)
        os.chdir(call.folder)
        os.environ.clear()
        os.environ.update(call.environment)
        sys.path[:] = call.path
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
        data = pickle.dumps(resolve_name(call.function)(*call.arguments))
    except BaseException:  # not of the user's code, which the function has told in its answer
        traceback.print_exc()
    if os.getpid() == own and data:  # the user's code may have forked
        with contextlib.suppress(OSError), os.fdopen(writing, "wb") as pipe:
            pipe.write(SIZE.pack(len(data)) + data)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    _leave(0)


def _end_with_the_parent() -> None:
    """Ask Linux to end this process with the one that forked it, which may be stopped, and then killed."""
    with contextlib.suppress(AttributeError, OSError):  # elsewhere it ends by its own watch
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


_watchdog: list[IO[bytes]] = []  # in a child: where its last words go
_own: list[int] = []  # and its number


def is_apart() -> bool:
    """Tell whether this is a process of `Apart`, or one that the user's code has forked there."""
    return bool(_watchdog)


def end_if_forked() -> None:
    """End a process that the user's code has forked, once that code is left: there is one answer."""
    if is_apart() and os.getpid() != _own[-1]:
        _leave(0)


@contextlib.contextmanager
def ends_after(seconds: float | None) -> Iterator[Callable[[], None]]:
    """End this process if a block takes longer; only in a process of `Apart`, elsewhere nothing happens.

    It is a thread of C that watches: neither code that catches everything nor one long operation is spared.
    What is given begins the time anew.
    """
    if seconds is None or not _watchdog:
        yield lambda: None
        return
    limit, said = seconds, _watchdog[-1]
    said.write(f"{limit:g} s\n".encode())
    said.flush()

    def begin() -> None:
        faulthandler.dump_traceback_later(limit, exit=True, file=said)

    begin()
    try:
        yield begin
    finally:
        faulthandler.cancel_dump_traceback_later()


def _last_words(said: str, status: int | None, file: str) -> EndedError:
    """Return why a process ended, with the line of the file that it was at, if it said so."""
    # a notebook's lines are not its cells' own
    name = re.escape(Path(file).name) if file.endswith(".py") else r"\0"
    found = re.search(rf'{name}", line (\d+)', said)  # the innermost call comes first
    line = int(found.group(1)) if found else None
    if timed := re.search(r"^([\d.e+]+) s\nTimeout", said, re.MULTILINE):
        return EndedError("it was still running", line, float(timed.group(1)))
    if fatal := re.search(r"Fatal Python error: (.*)", said):
        return EndedError(f"it ended Python itself ({fatal.group(1)})", line)
    if status is not None and os.WIFSIGNALED(status):
        return EndedError(f"it ended Python itself ({signal.Signals(os.WTERMSIG(status)).name})", line)
    stopped = status is not None and os.WIFSTOPPED(status)
    return EndedError("it stopped itself" if stopped else "it ended Python itself", line)
