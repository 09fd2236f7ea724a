"""What happens while a learner works: files that are saved, and keys that are pressed."""

import importlib.util
import os
import queue
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import watchfiles


@dataclass(frozen=True)
class Saved:
    """A file was written, or is gone."""

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
    """Watch a folder until told to stop; one that goes and comes back is watched anew."""
    watched: tuple[int, int] | None = None
    while not stop.is_set():
        there = _identity(folder)
        if there is None:
            stop.wait(0.2)
            continue
        if watched is not None:
            for path in sorted(folder.glob("*.py")):
                happened.put(Saved(path))
        watched = there
        with suppress(FileNotFoundError):  # it has gone in between
            _watch_while(there, folder, happened, stop)


def _watch_while(
    there: tuple[int, int], folder: Path, happened: "queue.Queue[Event]", stop: threading.Event
) -> None:
    """Watch a folder as long as its name stands for the same one."""
    changes = watchfiles.watch(
        folder,
        watch_filter=_is_python,
        stop_event=stop,
        debounce=200,
        step=20,
        rust_timeout=200,
        yield_on_timeout=True,
    )
    for batch in changes:
        for path in sorted({Path(name) for _, name in batch}):
            happened.put(Saved(path))
        if _identity(folder) != there:
            return


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one under its name; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_python(_: watchfiles.Change, path: str) -> bool:
    return path.endswith(".py")


def keys_need_enter() -> bool:
    """Tell whether a key is only known after Enter, as where there is no Unix terminal."""
    return importlib.util.find_spec("termios") is None or not sys.stdin.isatty()


@contextmanager
def _keyboard(happened: "queue.Queue[Event]", stop: threading.Event) -> Iterator[None]:
    """Read keys: single ones from a terminal that can give them, otherwise the first of every line."""
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):  # there is no standard input
        yield
        return
    single = not keys_need_enter()
    reader = threading.Thread(target=_read_keys, args=(descriptor, single, happened, stop), daemon=True)
    with _unbuffered(descriptor) if single else nullcontext():
        reader.start()
        try:
            yield
        finally:
            stop.set()
            reader.join(timeout=1)


@contextmanager
def _unbuffered(descriptor: int) -> Iterator[None]:
    """Have the terminal give every key at once, and show none."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read_keys(descriptor: int, single: bool, happened: "queue.Queue[Event]", stop: threading.Event) -> None:
    while not stop.is_set():
        if not _readable(descriptor):
            continue
        data = os.read(descriptor, 1024).decode(errors="replace")
        if not data:
            return
        keys = data if single and not data.startswith("\x1b") else map(_key, data.splitlines())
        for key in keys:
            happened.put(Pressed(key))


def _key(line: str) -> str:
    """Return what a line asks for: a number, or a key."""
    return line.strip() if line.strip().isdecimal() else line[:1]


def _readable(descriptor: int) -> bool:
    """Wait a little for something to read; where a system cannot wait so, reading itself will."""
    try:
        return bool(select.select([descriptor], [], [], 0.1)[0])
    except OSError:
        return True
