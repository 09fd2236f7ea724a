"""Files that are replaced whole or not at all, and read only if they are files."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from backhand.errors import RunError

TEMPORARY = ".tmp"
"""What a file is called, after its name, while it is being written."""


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one go; when that fails, the old file is still there.

    The folder is synced after the file, so that after a power cut a new name never stands for old data.
    """
    temporary = path.parent / (path.name + TEMPORARY)
    try:
        if path.exists() and not path.is_file():
            raise RunError(f"cannot write {path}: it is there and is no file; choose another name")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(
            f"cannot write {path}: {error.strerror}; what was saved before is still there"
        ) from None


def sync_folder(path: Path) -> None:
    """Make what was renamed, made or removed in a folder last, where the system can do that."""
    with suppress(OSError):  # Windows opens no folders, and some file systems sync none
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_no_file(path: Path) -> None:
    """Raise unless a path is a regular file, or is not there: a pipe or a device could be read for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RunError(f"{path} is no file; a folder, a pipe or a device cannot be read as one")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
