"""A process of its own that judges learners' files: whatever they do in there, the one who asks goes on.

An endless loop, `exit()` or a crash ends that process and no other. On its way out it leaves Python's own
traceback, from which the line is told, and the next file finds a fresh one.
"""

import faulthandler
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from backhand.learning.attempts import Attempt, judge_file, unjudged
from backhand.learning.course import Exercise, find

LIMIT = 10.0  # seconds; the slowest exercise, which trains, takes a quarter of one


class Referee:
    """Judges one file after the other in a process of its own.

    Args:
        limit: seconds after which a file is given up.
    """

    def __init__(self, limit: float = LIMIT):
        self.limit = limit
        self._start()

    def judge(self, exercise: Exercise, path: Path) -> Attempt:
        """Judge one file of a course; nothing in it makes this raise, hang or print."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump((exercise.name, path, self.limit), self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            problem = self._last_words(path)
            self.close()
            self._start()
            return unjudged(exercise, path, problem)

    def _start(self) -> None:
        self._traces = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._traces,
        )

    def _last_words(self, path: Path) -> str:
        """Return why the process ended, with the line of the file that it was at, if it said so."""
        self._process.wait()
        self._traces.seek(0)
        said = self._traces.read().decode(errors="replace")
        found = re.search(rf'{re.escape(path.name)}", line (\d+)', said)  # the innermost call comes first
        where = f"line {found.group(1)}: " if found else ""
        if said.startswith("Timeout"):
            return f"{where}still running after {self.limit:g} s, so it was stopped. Does a loop never end?"
        fatal = re.search(r"Fatal Python error: (.*)", said)
        return f"{where}it ended Python itself{f' ({fatal.group(1)})' if fatal else ''}; nothing was judged."

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._traces.close()

    def __enter__(self) -> "Referee":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve() -> None:
    """Judge what is asked for on standard input until it ends: what runs in the other process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    asked, answers, traces = (os.fdopen(os.dup(i), mode) for i, mode in enumerate(("rb", "wb", "wb")))
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):  # what a program in the file's service writes finds no screen
        os.dup2(nothing, descriptor)
    faulthandler.enable(traces)
    while True:
        try:
            name, path, limit = pickle.load(asked)
        except EOFError:
            return
        faulthandler.dump_traceback_later(limit, exit=True, file=traces)
        with Path(os.devnull).open() as sys.stdin:  # a new one for every file: `exit()` closes it
            attempt = judge_file(find(name), path)
        faulthandler.cancel_dump_traceback_later()
        if attempt.report is not None:  # the drawing is large, and nobody looks at it
            attempt = replace(attempt, report=replace(attempt.report, sheet=None))
        pickle.dump(attempt, answers)
        answers.flush()
