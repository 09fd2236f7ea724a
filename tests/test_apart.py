"""A process of its own for code that may never end: nothing of it is left."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from backhand.apart import Apart, EndedError

T = TypeVar("T")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_child_ends_with_the_process_that_watches_it(tmp_path: Path) -> None:
    said, script = tmp_path / "pid", tmp_path / "endless.py"
    script.write_text(f"import os, time\nopen({str(said)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    with Apart() as apart:
        call = threading.Thread(target=ended, args=(apart, str(script)))
        call.start()
        child = int(awaited(lambda: said.exists() and said.read_text()))
        assert apart._process is not None
        apart._process.kill()
        call.join()
    assert awaited(lambda: not is_running(child))


def ended(apart: Apart, script: str) -> None:
    with pytest.raises(EndedError):
        apart.call("runpy:run_path", script)


def awaited(condition: Callable[[], T]) -> T:
    """Return what comes true within ten seconds."""
    until = time.monotonic() + 10
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def is_running(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
