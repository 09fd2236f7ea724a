"""Write a file whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp"
"""What a file is called, after its name, while it is being written."""


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one go; where that fails, the old one is still there and nothing else is left behind.

    Args:
        path: the file; what is no plain file, such as `/dev/stdout`, is written to as it is.
        data: all that it shall hold.

    Raises:
        OSError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "sheet.html"
    >>> write_whole(path, b"all of it")
    >>> path.read_text()
    'all of it'
    """
    path = path.resolve()  # through a link: what it points to is replaced, not the link
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it takes the old one's place
        temporary.replace(path)
        sync_folder(path.parent)  # lest after a power cut the new name stand for old data
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def sync_folder(path: Path) -> None:
    """Make what was renamed, made or removed in a folder last, where the system can do that."""
    with suppress(OSError):  # Windows opens no folders, and some file systems sync none
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
