"""How far a learner's folder is: every exercise with its attempt."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backhand.learning.attempts import Attempt
from backhand.learning.course import Exercise
from backhand.renderers import rendered

Judge = Callable[[Exercise, Path], Attempt]


@dataclass(frozen=True)
class Progress:
    """All files of a folder, judged."""

    folder: Path
    attempts: tuple[Attempt, ...]

    @property
    def exercises(self) -> tuple[Exercise, ...]:
        """The exercises of the course, in order."""
        return tuple(attempt.exercise for attempt in self.attempts)

    @property
    def done(self) -> bool:
        """Tell whether every exercise is solved."""
        return all(attempt.done for attempt in self.attempts)

    @property
    def solved(self) -> int:
        """How many exercises are solved."""
        return sum(attempt.done for attempt in self.attempts)

    @property
    def current(self) -> Attempt | None:
        """The first exercise that is not solved yet."""
        return next((a for a in self.attempts if not a.done), None)

    @property
    def credit(self) -> float:
        """The mean credit of the exercises, from 0 to 1."""
        return sum(attempt.credit for attempt in self.attempts) / len(self.attempts)

    def __getitem__(self, name: str) -> Attempt:
        """Return the attempt at the exercise with a name."""
        for attempt in self.attempts:
            if attempt.exercise.name == name:
                return attempt
        raise KeyError(name)

    def updated(self, attempt: Attempt) -> "Progress":
        """Return the progress with one attempt in the place of the older one."""
        same = attempt.exercise
        return Progress(self.folder, tuple(attempt if a.exercise == same else a for a in self.attempts))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a program to read, such as a grader."""
        return {
            "folder": str(self.folder),
            "done": self.done,
            "solved": self.solved,
            "credit": round(self.credit, 4),
            "exercises": [attempt.to_dict() for attempt in self.attempts],
        }

    def __str__(self) -> str:
        return rendered("progress.text", self)
