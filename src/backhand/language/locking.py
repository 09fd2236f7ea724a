"""One process at a time trains in a run folder.

The lock is the operating system's, so that it ends with the process, however that ends. Its file stays behind
when a process is killed, and says then that a folder without run.json is a run half made or half cleared,
not somebody else's things: it is the first to be made in a run folder, and the last to go.
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from backhand.errors import RunError
from backhand.writing import sync_folder

LOCK = "train.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is made if it is not there.

    Raises:
        RunError: another process holds it; the message says which.
    """
    file = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = acquired(folder)
        file.write_text(json.dumps(own_name()), encoding="ascii")
        sync_folder(folder)
    except OSError as error:
        raise RunError(f"cannot write in {folder}: {error.strerror}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # while it is still held: whoever waits for it finds that its file has gone
            file.unlink()
        lock.release()


def refuse_held(folder: Path) -> None:
    """Raise if another process trains in a folder; a lock that was left behind by one is none."""
    if (folder / LOCK).is_file():
        try:
            acquired(folder).release()
        except OSError as error:
            raise RunError(f"cannot write in {folder}: {error.strerror}") from None


def acquired(folder: Path) -> FileLock:
    """Return the lock of a folder, held; raise a RunError that says who holds it otherwise."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{folder} is being trained in by {holder(folder)}; wait for it, or choose another --out"
        ) from None
    return lock


def own_name() -> dict[str, str | int]:
    """Return what a lock file tells of this process."""
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"process": os.getpid(), "machine": platform.node(), "since": since}


def holder(folder: Path) -> str:
    """Return who holds a lock, as its file tells it."""
    try:
        who = json.loads((folder / LOCK).read_text(encoding="ascii"))
        return f"process {int(who['process'])} on {who['machine']!s:.100} since {who['since']!s:.40}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
