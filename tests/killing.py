"""Kill a training process at each of its file operations, and see whether the folder can be gone on with.

Run as a program, in a process of its own, since it forks: python killing.py FOLDER SCENARIO FIRST EVERY
prints a line of JSON for each kill.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import backhand
from backhand import TrainConfig
from backhand.errors import BackhandError

torch.set_num_threads(1)
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def config(words: Path, steps: int = 40) -> TrainConfig:
    return TrainConfig(
        words=str(words), n_hidden=4, n_embd=2, batch_size=4, steps=steps, checkpoint_every=15, keep="best"
    )


def die_at(operation: int, folder: Path) -> None:
    """Let this process kill itself just before the n-th time that it touches the folder, or syncs a file."""
    left = operation
    sync = os.fsync

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            count()

    def counted_sync(handle: int) -> None:
        count()
        sync(handle)

    sys.addaudithook(hook)
    os.fsync = counted_sync


def in_child(work: Callable[[], None]) -> int:
    """Do something in a process of its own; return its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            work()
            status = 0
        except BackhandError as error:
            sys.stderr.write(f"{error}\n")
            status = 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def main(root: Path, scenario: str, first: int, every: int) -> None:
    words = root / "words.txt"
    words.write_text("\n".join(f"{a}{b}{a}" for a in "abcdefg" for b in "hijk"))
    new, old = config(words), config(words, steps=20)
    backhand.train(new, out=root / "new")
    backhand.train(old, out=root / "old")
    whole, former = contents(root / "new"), contents(root / "old")
    ready, folder = root / "ready", root / "killed"
    if scenario == "overwrite":
        shutil.copytree(root / "old", ready)
        (ready / "notes.md").write_text("mine")
    if scenario == "resume":

        def stop(step: int, steps: int, loss: float) -> None:
            if step >= 15:
                os._exit(0)

        in_child(lambda: backhand.train(new, out=ready, watch=stop) and None)
    options: dict[str, Any] = {} if scenario == "fresh" else {scenario: True}
    for operation in range(first, 10_000, every):
        shutil.rmtree(folder, ignore_errors=True)
        if ready.exists():
            shutil.copytree(ready, folder)

        def killed(operation: int = operation) -> None:
            die_at(operation, folder)
            backhand.train(new, out=folder, **options)

        status = in_child(killed)
        there = sorted(file.name for file in folder.iterdir()) if folder.exists() else []
        again = in_child(lambda: backhand.train(new, out=folder) and None)
        if again == 2:
            again = in_child(lambda: backhand.train(TrainConfig(), out=folder, resume=True) and None)
        found = contents(folder)
        notes = found.pop("notes.md", None)
        assert scenario != "overwrite" or notes == b"mine"
        same = found == whole or (scenario == "overwrite" and found == former)
        kill = {"at": operation, "status": status, "again": again, "same": same, "there": there}
        sys.stdout.write(json.dumps(kill) + "\n")
        sys.stdout.flush()
        if status == 0:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
