"""The progress of a training run, a bar on a terminal, ten lines in a log file; and of a long check."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from backhand.language.training import Watch, WatchDev


@dataclass(frozen=True)
class Watches:
    """What `train` calls to tell how far it is, and what the development loss is."""

    steps: Watch
    dev: WatchDev


@contextmanager
def training_progress(console: Console) -> Iterator[Watches]:
    """Give functions for `train` to call; show what they are told."""
    pace = Pace()
    if not console.is_terminal:
        yield Watches(training_lines(console, pace), pace.note_dev)
        return
    columns = (
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps"),
        TextColumn("[cyan]loss {task.fields[pace].shown}[/cyan]"),
        TextColumn("{task.fields[pace].speed:,.0f}/s"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        yield Watches(training_bar(bar, pace), pace.note_dev)


def training_bar(bar: Progress, pace: "Pace") -> Watch:
    """Move a bar; the first call, which may be for a run that is resumed, sets where it starts."""
    tasks: list[TaskID] = []

    def watch(step: int, steps: int, loss: float) -> None:
        pace.add(step, loss)
        if not tasks:
            tasks.append(bar.add_task("train", total=steps, completed=step, pace=pace))
        bar.update(tasks[0], completed=step)

    return watch


def training_lines(console: Console, pace: "Pace") -> Watch:
    """Print a line whenever another tenth of the steps is done."""
    tenths = 0

    def watch(step: int, steps: int, loss: float) -> None:
        nonlocal tenths
        pace.add(step, loss)
        if step * 10 // steps > tenths:
            tenths = step * 10 // steps
            console.print(f"{step:,} of {steps:,} steps, loss {pace.shown}, {pace.speed:,.0f} steps/s")

    return watch


# A check that is done sooner needs no word on how far it is.
PATIENCE = 2.0


@contextmanager
def checking_progress(stream: IO[str]) -> Iterator[Callable[[str], None]]:
    """Give a function to be told what is done next; show that once a check takes longer than two seconds.

    On a terminal it is one line that comes and goes, in a log file a single line that stays.
    """
    console = Console(file=stream)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task("checking")
    latest = ["checking"]

    def show() -> None:
        if console.is_terminal:
            bar.start()
        else:
            console.print(f"still at it: {latest[0]}", highlight=False)

    timer = threading.Timer(PATIENCE, show)
    timer.daemon = True
    timer.start()

    def watch(what: str) -> None:
        latest[0] = what
        bar.update(task, description=what)

    try:
        yield watch
    finally:
        timer.cancel()
        if bar.live.is_started:
            bar.stop()


class Pace:
    """The loss, smoothed over about a thousand steps, and the steps a second so far."""

    def __init__(self) -> None:
        self.began: float = time.perf_counter()
        self.first: int = 0
        self.step: int = 0
        self.loss: float = math.nan
        self.speed: float = 0.0
        self.dev: float | None = None

    @property
    def shown(self) -> str:
        """The loss, and the development loss once it has been measured."""
        return f"{self.loss:.3f}" + ("" if self.dev is None else f", dev {self.dev:.3f}")

    def note_dev(self, step: int, dev: float) -> None:
        """Take note of the development loss."""
        self.dev = dev

    def add(self, step: int, loss: float) -> None:
        """Take note of the steps done and of the mean loss since the last call."""
        if math.isnan(self.loss):
            self.began, self.first, self.step, self.loss = time.perf_counter(), step, step, loss
            return
        keep = math.exp((self.step - step) / 1000)
        self.loss = keep * self.loss + (1 - keep) * loss
        self.step = step
        self.speed = (step - self.first) / (time.perf_counter() - self.began)
