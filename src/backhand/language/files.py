"""Files that are replaced whole or not at all, and read only if they are files."""

import os
import stat
from pathlib import Path

from backhand.errors import RunError
from backhand.writing import write_whole


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one go; when that fails, an old one is still there, and the message says so."""
    try:
        if path.exists() and not path.is_file():
            raise RunError(f"cannot write {path}: it is there and is no file; choose another name")
        write_whole(path, data)
    except OSError as error:
        # not path.exists(), which may raise what has just been raised
        left = "what was saved before is still there" if os.path.exists(path) else "nothing was written"  # noqa: PTH110
        raise RunError(f"cannot write {path}: {error.strerror}; {left}") from None


def refuse_no_file(path: Path) -> None:
    """Raise unless a path is a regular file, or is not there: a pipe or a device could be read for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RunError(f"{path} is no file; a folder, a pipe or a device cannot be read as one")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
