"""Standard output and standard error as they may be: closed, full, or unable to write what is not ASCII."""

import io
import json
import os
import sys
from typing import Any, NoReturn

from backhand.errors import BackhandError
from backhand.showing import plain


def ready_output() -> None:
    """Let what the terminal cannot show be written as Python writes it, `\\xeb`.

    Raises:
        BackhandError: standard output is closed, so that nothing could be told.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        raise BackhandError("standard output is closed; send it somewhere, such as > /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send what is still to be written on standard output nowhere, lest Python fail at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def of_the_machine(error: Exception) -> str:
    """Return in a line what the machine, not the program, could not do; raise any other error again."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return (
            "there is not enough memory for this; try a smaller model, a shorter list or fewer words at once"
        )
    if not isinstance(error, OSError):
        raise error
    where = f"{error.filename}: " if error.filename else ""
    if not error.filename:
        drop_output()  # nothing but standard output has no name
        where = "cannot write on standard output: "
    return f"{where}{error.strerror or error}"


def show_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def leave(message: str, status: int) -> NoReturn:
    """Print one line on standard error and exit."""
    print(f"backhand: {plain(message)}", file=sys.stderr)
    sys.exit(status)
