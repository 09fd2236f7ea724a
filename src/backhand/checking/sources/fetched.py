"""Files that are not there: fetched with a shell command, which is not run, or left out of a repository."""

import builtins
import contextlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

SHELL = re.compile(r"\s*(?:pass\s+)?#\s*(?P<command>[!%].*)")


@contextlib.contextmanager
def _opened(instead: Callable[..., Any]) -> Iterator[None]:
    """Let something else be opened for a file that is not there; None where there is nothing."""
    plain = builtins.open

    def opening(file: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return plain(file, *args, **kwargs)
        except FileNotFoundError:
            if (found := instead(plain, file, *args, **kwargs)) is None:
                raise
            return found

    builtins.open = io.open = opening
    try:
        yield
    finally:
        builtins.open = io.open = plain


def files_from(folder: Path | None) -> contextlib.AbstractContextManager[None]:
    """Let a file that is not where the code opens it be read from a folder, by its name."""
    if folder is None:
        return contextlib.nullcontext()

    def instead(plain: Callable[..., Any], file: Any, *args: Any, **kwargs: Any) -> Any:
        there = folder / Path(file).name
        return plain(there, *args, **kwargs) if there.is_file() else None

    return _opened(instead)


# What stands in for a text to learn from: some thirty letters, in steps enough for a first minibatch.
TEXT = "the quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs!\n" * 40


def texts_stand_in(told: list[str]) -> contextlib.AbstractContextManager[None]:
    """Let a text that is not where the code opens it be a short one of ours; its name is put into a list."""

    def instead(_: object, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode not in ("r", "rt") or Path(file).suffix != ".txt":
            return None
        told.append(str(file))
        return io.StringIO(TEXT)

    return _opened(instead)


def how_to_get(error: BaseException, lines: Sequence[str]) -> str:
    """Say of a missing file which line would have fetched it, and what to do; empty for any other exception.

    Args:
        error: the exception.
        lines: all lines of the notebook; shell commands stand there as comments.
    """
    if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, str):
        return ""
    name = Path(error.filename).name
    commands = (match["command"] for line in lines if name in line and (match := SHELL.match(line)))
    fetched = next((f"`{command}`, which is not run, would have fetched it; " for command in commands), "")
    return f" ({fetched}put it there, or say --data DIR, the folder that has {name})"
