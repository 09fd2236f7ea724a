"""What would end Python: told with its line, and never taken for a verdict."""

import contextlib
import linecache
import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from backhand.apart import is_apart
from backhand.checking.running.alarms import OutOfTimeError
from backhand.errors import CheckError, in_short

# Code below these is not the user's own: ours, Python's, what is installed.
_OTHERS = tuple(
    f"{folder}{os.sep}"
    for folder in {
        str(Path(__file__).parents[2]),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)


def from_outside(error: BaseException) -> bool:
    """Tell whether an exception is not the user's code's own: Ctrl-C, or the end of its time.

    A process of its own ignores Ctrl-C: nobody but the code can have raised its exception there.
    """
    return isinstance(error, OutOfTimeError) or (isinstance(error, KeyboardInterrupt) and not is_apart())


def installed(file: str) -> bool:
    """Tell whether a file is not the user's own: of this package, of Python, or installed."""
    return f"{file}{os.sep}".startswith((*_OTHERS, "<"))


def where(frames: Iterable[tuple[str, int]]) -> str:
    """Return the innermost place in the user's own code, with its text: "case.py, line 3: `exit()`".

    Empty where none of them is in that.

    Args:
        frames: file and line, the innermost last.
    """
    for file, number in reversed(list(frames)):
        if not installed(file):
            text = linecache.getline(file, number).strip()
            # the cells of a notebook are numbered through, which says nothing to its reader
            place = Path(file).name + ("" if file.endswith(".ipynb") else f", line {number}")
            return f"{place}: `{text}`" if text else place
    return ""


def where_raised(error: BaseException) -> str:
    """Return the innermost place in the user's own code that an exception came through."""
    return where((f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__))


def what_raised(error: BaseException) -> str:
    """Return what was raised, and where: "raised ValueError: no (case.py, line 3: `y = f(x)`)"."""
    place = where_raised(error)
    return f"raised {in_short(error)} ({place})" if place else f"raised {in_short(error)}"


@contextlib.contextmanager
def endings_told() -> Iterator[None]:
    """Turn what would end Python in the user's code into a `CheckError` with its line.

    That is `sys.exit`, `exit`, `os._exit` and every exception that is no `Exception`; also where the code
    catches it, for without a check it would not have gone on, and in a thread of its own.
    """
    told: list[str] = []
    before = os._exit, threading.excepthook
    owner = os.getpid()

    def leave(status: int) -> NoReturn:
        if os.getpid() != owner:  # a process that the user's code has forked
            before[0](status)
        stack = list(traceback.walk_stack(sys._getframe()))[::-1]
        place = where((f.f_code.co_filename, line) for f, line in stack)
        told.append(f"{place or 'the code'}: it ended Python itself, so nothing was judged.")
        raise SystemExit(status)

    def raised_in_thread(arguments: threading.ExceptHookArgs) -> None:
        if isinstance(arguments.exc_value, Exception) or arguments.exc_value is None:
            before[1](arguments)
        else:
            told.append(_told(arguments.exc_value))

    os._exit, threading.excepthook = leave, raised_in_thread
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or from_outside(error):
            raise
        told.append(_told(error))
    finally:
        os._exit, threading.excepthook = before
    if told:
        raise CheckError(told[0])


def _told(error: BaseException) -> str:
    place = where_raised(error) or "the code"
    return f"{place} raised {in_short(error)}, which ends Python, so nothing was judged."
