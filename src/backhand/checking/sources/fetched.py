"""Files that are not there: fetched with a shell command, which is not run, or left out of a repository."""

import builtins
import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SHELL = re.compile(r"\s*(?:pass\s+)?#\s*(?P<command>[!%].*)")


@contextlib.contextmanager
def files_from(folder: Path | None) -> Iterator[None]:
    """Let a file that is not where the code opens it be read from a folder, by its name."""
    if folder is None:
        yield
        return
    plain = builtins.open

    def opening(file: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return plain(file, *args, **kwargs)
        except FileNotFoundError:
            there = folder / Path(file).name
            if not there.is_file():
                raise
            return plain(there, *args, **kwargs)

    builtins.open = io.open = opening
    try:
        yield
    finally:
        builtins.open = io.open = plain


# What stands in for a text to learn from: some thirty letters, in steps enough for a first minibatch.
TEXT = "the quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs!\n" * 40


@contextlib.contextmanager
def texts_stand_in(told: list[str]) -> Iterator[None]:
    """Let a text that is not where the code opens it be a short one of ours; its name is put into a list."""
    plain = builtins.open

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        try:
            return plain(file, mode, *args, **kwargs)
        except FileNotFoundError:
            if mode not in ("r", "rt") or Path(file).suffix != ".txt":
                raise
            told.append(str(file))
            return io.StringIO(TEXT)

    builtins.open = io.open = opening
    try:
        yield
    finally:
        builtins.open = io.open = plain


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
