"""Kill training processes, or begin several at once, and see whether the folder can be gone on with.

Run as a program, in a process of its own, since it forks; it prints a line of JSON for each kill:

    python killing.py operations FOLDER fresh|resume|overwrite FIRST EVERY
    python killing.py calls FOLDER fresh|resume|overwrite FIRST EVERY
    python killing.py moments FOLDER KILLS SEED
    python killing.py race FOLDER ROUNDS PROCESSES
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import backhand
from backhand import TrainConfig
from backhand.errors import BackhandError

torch.set_num_threads(1)
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
CALLS = "openat,write,pwrite64,ftruncate,/rename,/unlink,/mkdir,/rmdir"
"""All system calls after which files hold something else."""


def config(words: Path, steps: int) -> TrainConfig:
    every = max(15, steps // 10)
    return TrainConfig(
        words=str(words), n_hidden=4, n_embd=2, batch_size=4, steps=steps, checkpoint_every=every, keep="best"
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


def begun(work: Callable[[], None]) -> int:
    """Begin something in a process of its own; return its number."""
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            work()
            status = 0
        except BackhandError as error:
            sys.stderr.write(f"{error}\n")
            status = 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    """Wait for a process; return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(work: Callable[[], None]) -> int:
    return ended(begun(work))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class Trial:
    """One way to begin a run in a folder, and what its folder must hold when all is over."""

    def __init__(self, root: Path, scenario: str, steps: int) -> None:
        words = root / "words.txt"
        words.write_text("\n".join(f"{a}{b}{a}" for a in "abcdefg" for b in "hijk"))
        self.new, old = config(words, steps), config(words, steps // 2)
        self.scenario, self.ready, self.folder = scenario, root / scenario / "ready", root / scenario / "run"
        began = time.perf_counter()
        backhand.train(self.new, out=root / scenario / "new")
        self.seconds = time.perf_counter() - began
        backhand.train(old, out=root / scenario / "old")
        self.whole, self.former = (contents(root / scenario / name) for name in ("new", "old"))
        if scenario == "overwrite":
            shutil.copytree(root / scenario / "old", self.ready)
            (self.ready / "notes.md").write_text("mine")
        if scenario == "resume":
            in_child(self.stopped_halfway)

    def stopped_halfway(self) -> None:
        def stop(step: int, steps: int, loss: float) -> None:
            if step >= self.new.checkpoint_every:
                os._exit(0)

        backhand.train(self.new, out=self.ready, watch=stop)

    def lay_out(self) -> None:
        """Make the folder as it is before the command that is to be killed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.ready.exists():
            shutil.copytree(self.ready, self.folder)

    def command(self) -> None:
        options: dict[str, Any] = {} if self.scenario == "fresh" else {self.scenario: True}
        backhand.train(self.new, out=self.folder, **options)

    def gone_on_with(self) -> dict[str, Any]:
        """Go on as a user would: by the same command without options, or else by --resume."""
        there = sorted(file.name for file in self.folder.iterdir()) if self.folder.exists() else []
        again = in_child(lambda: backhand.train(self.new, out=self.folder) and None)
        if again == 2:
            again = in_child(lambda: backhand.train(TrainConfig(), out=self.folder, resume=True) and None)
        found = contents(self.folder)
        notes = found.pop("notes.md", None)
        assert self.scenario != "overwrite" or notes == b"mine"
        same = found == self.whole or (self.scenario == "overwrite" and found == self.former)
        return {"again": again, "same": same, "there": there}


def tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def kill_at_operations(root: Path, scenario: str, first: int, every: int) -> None:
    trial = Trial(root, scenario, steps=40)
    for operation in range(first, 10_000, every):
        trial.lay_out()

        def killed(operation: int = operation) -> None:
            die_at(operation, trial.folder)
            trial.command()

        status = in_child(killed)
        tell(at=operation, status=status, **trial.gone_on_with())
        if status == 0:
            return


def kill_at_calls(root: Path, scenario: str, first: int, every: int) -> None:
    """The same at system calls, as strace counts them: writing is one as well, of a part of the data."""
    trial = Trial(root, scenario, steps=40)
    names = [*trial.whole, "train.lock"]
    paths = [trial.folder, *(trial.folder / (name + end) for name in names for end in ("", ".tmp"))]
    for call in range(first, 10_000, every):
        trial.lay_out()
        pid = begun(lambda: os.kill(os.getpid(), signal.SIGSTOP) or trial.command())
        os.waitpid(pid, os.WUNTRACED)
        inject = f"inject={CALLS}:signal=KILL:when={call}"
        only = [part for path in paths for part in ("-P", str(path))]
        strace = subprocess.Popen(
            [
                "strace",
                "-p",
                str(pid),
                "-o",
                str(root / "strace"),
                "-e",
                f"trace={CALLS}",
                "-e",
                inject,
                *only,
            ],
            stderr=subprocess.PIPE,
        )
        assert strace.stderr is not None
        assert b"attached" in (said := strace.stderr.readline()), said
        os.kill(pid, signal.SIGCONT)
        status = ended(pid)
        strace.communicate()
        last = (root / "strace").read_text().splitlines()[-2][:70]
        tell(at=call, status=status, last=last, **trial.gone_on_with())
        if status == 0:
            return


def kill_at_moments(root: Path, kills: int, seed: int) -> None:
    """Kill from outside, at a random moment of each of the three ways to begin in turn."""
    draw = random.Random(seed)
    trials = [Trial(root, scenario, steps=6000) for scenario in ("fresh", "resume", "overwrite")]
    for kill in range(kills):
        trial = trials[kill % 3]
        trial.lay_out()
        moment = draw.uniform(0, 1.1 * trial.seconds)
        pid = begun(trial.command)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        tell(at=moment, status=ended(pid), **trial.gone_on_with())


def begin_at_once(root: Path, rounds: int, processes: int) -> None:
    """Let some processes begin in the same folder at the same moment."""
    for scenario in ("fresh", "resume", "overwrite"):
        trial = Trial(root, scenario, steps=3000)
        for i in range(rounds):
            trial.lay_out()
            statuses = [ended(pid) for pid in [begun(trial.command) for _ in range(processes)]]
            tell(at=i, status=sorted(statuses), **trial.gone_on_with())


MODES: dict[str, Callable[..., None]] = {
    "operations": kill_at_operations,
    "calls": kill_at_calls,
    "moments": kill_at_moments,
    "race": begin_at_once,
}

if __name__ == "__main__":
    mode, folder, *rest = sys.argv[1:]
    MODES[mode](Path(folder), *(int(value) if value.isdigit() else value for value in rest))
