"""Judges learners' files in processes of their own: whatever they do in there, the one who asks goes on."""

import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from backhand.apart import Apart, EndedError, ends_after
from backhand.learning.attempts import Attempt, judge_file, unjudged
from backhand.learning.course import Exercise, find

LIMIT = 10.0  # seconds; a check takes a tenth of one, with a mistake in a long loop a few
# So many times as long may an exercise take that trains: alone a second, on a busy machine many.
TRAINING = 6


class Referee:
    """Judges one file after the other.

    Args:
        limit: seconds after which a file is given up.
    """

    def __init__(self, limit: float = LIMIT):
        self.limit: float = limit
        self._apart = Apart()

    def judge(self, exercise: Exercise, path: Path) -> Attempt:
        """Judge one file of a course; nothing in it makes this raise, hang or print."""
        limit = self.limit * (TRAINING if exercise.trains else 1)
        try:
            path = path.absolute()  # the file may change the folder
            judge = f"{__name__}:judge_by_name"
            given = exercise.name, exercise.numpy, path, limit
            return self._apart.call(judge, *given, file=path, limit=limit)
        except EndedError as ended:
            return unjudged(exercise, path, _told(ended, limit))

    def close(self) -> None:
        """End the process that judges."""
        self._apart.close()

    def __enter__(self) -> "Referee":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _told(ended: EndedError, limit: float) -> str:
    where = f"line {ended.line}: " if ended.line else ""
    if ended.timed is not None:
        return f"{where}still running after {limit:g} s, so it was stopped. Does a loop never end?"
    return f"{where}{ended.reason}; nothing was judged."


def judge_by_name(name: str, numpy: bool, path: Path, limit: float) -> Attempt:
    """Judge a file: what runs in the other process."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # what a program in the file's service writes finds no screen
        os.dup2(nothing, descriptor)
    with ends_after(limit):
        attempt = judge_file(find(name, numpy=numpy), path)
    if attempt.report is not None:  # the drawing is large, and nobody looks at it
        attempt = replace(attempt, report=replace(attempt.report, sheet=None))
    return attempt
