"""What happens while a learner works: files that are saved, and keys that are pressed."""

import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import watchfiles


@dataclass(frozen=True)
class Saved:
    """A file was written."""

    path: Path


@dataclass(frozen=True)
class Pressed:
    """A key was pressed."""

    key: str


Event = Saved | Pressed


@contextmanager
def events(folder: Path) -> Iterator[Iterator[Event]]:
    """Watch a folder and the keyboard; the iterator waits for the next event and never ends by itself."""
    happened: queue.Queue[Event] = queue.Queue()
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, happened, stop), daemon=True)
    watcher.start()
    with _keyboard(happened, stop):
        try:
            yield iter(happened.get, None)  # pyright: ignore[reportReturnType]
        finally:
            stop.set()
            watcher.join(timeout=1)


def _watch(folder: Path, happened: "queue.Queue[Event]", stop: threading.Event) -> None:
    changes = watchfiles.watch(
        folder, watch_filter=_is_python, stop_event=stop, debounce=200, step=20, rust_timeout=200
    )
    for batch in changes:
        for path in sorted({Path(name) for kind, name in batch if kind != watchfiles.Change.deleted}):
            happened.put(Saved(path))


def _is_python(_: watchfiles.Change, path: str) -> bool:
    return path.endswith(".py")


@contextmanager
def _keyboard(happened: "queue.Queue[Event]", stop: threading.Event) -> Iterator[None]:
    """Read single keys where standard input is a terminal that can give them; otherwise no key at all."""
    try:
        import termios
        import tty

        if not sys.stdin.isatty():
            raise OSError
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError):
        yield
        return
    tty.setcbreak(descriptor)
    reader = threading.Thread(target=_read_keys, args=(happened, stop), daemon=True)
    reader.start()
    try:
        yield
    finally:
        stop.set()
        reader.join(timeout=1)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read_keys(happened: "queue.Queue[Event]", stop: threading.Event) -> None:
    import os
    import select

    descriptor = sys.stdin.fileno()
    while not stop.is_set():
        if select.select([descriptor], [], [], 0.1)[0]:
            data = os.read(descriptor, 16)
            if not data:
                return
            happened.put(Pressed(data.decode(errors="replace")[:1]))
