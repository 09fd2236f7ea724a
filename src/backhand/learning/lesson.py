"""What is on the learner's screen: the exercise in focus, how many hints are shown, the list or not.

It knows neither the terminal nor the file system's events, so that a test can go through a whole course.
"""

from pathlib import Path

from backhand.learning.attempts import Attempt
from backhand.learning.course import Exercise
from backhand.learning.hints import Hint, hints
from backhand.learning.progress import Judge, Progress

# By how many lines a key moves what is longer than the screen.
SCROLLING = {"j": 8, "k": -8}
# Further than anything is long: a screen goes no further than what it shows.
END = 10_000
# So many lines of a list that is longer than the screen stand above the exercise in focus.
ABOVE = 8


class Lesson:
    """The state of one sitting.

    Args:
        progress: the folder as it stands at the beginning.
        judge: judges one file.

    Attributes:
        progress: the folder as it was judged last.
        exercises: of the course, in order.
        focus: the exercise on the screen.
        solved_now: the exercise that was solved with the last save, if one was.
        shown: how many steps of the hint are shown.
        typed: the digits of an exercise's number that were typed so far.
        listing: the list of all exercises is shown.
        comparing: what was solved now is shown beside the textbook's lines, before the next exercise is.
        scrolled: so many lines of what is shown are above the screen.
        over: the learner wants to leave.
    """

    def __init__(self, progress: Progress, judge: Judge):
        self.progress: Progress = progress
        self._judge = judge
        current = progress.current
        self.exercises: tuple[Exercise, ...] = progress.exercises
        self.focus: Exercise = current.exercise if current else self.exercises[-1]
        self.solved_now: Exercise | None = None
        self.shown: int = 0
        self.typed: str = ""
        self.listing: bool = False
        self.comparing: bool = False
        self.scrolled: int = 0
        self.over: bool = False

    @property
    def attempt(self) -> Attempt:
        """The attempt in focus."""
        return self.progress[self.focus.name]

    @property
    def hints(self) -> tuple[Hint, ...]:
        """The steps of the hint that are shown."""
        return hints(self.attempt)[: self.shown]

    @property
    def more_hints(self) -> int:
        """How many steps are still hidden."""
        return max(0, len(hints(self.attempt)) - self.shown)

    def save(self, path: Path) -> None:
        """Judge a file of the course that was saved or taken away."""
        exercise = next(e for e in self.exercises if e.file_name == path.name)
        before = self.progress[exercise.name]
        attempt = self._judge(exercise, self.progress.folder / exercise.file_name)
        self.progress = self.progress.updated(attempt)
        if attempt.done and self.comparing and self.solved_now == exercise:
            return  # one save may be told twice: what is shown stays
        self.listing, self.typed, self.scrolled = False, "", 0
        self.solved_now, self.comparing = None, False
        if exercise != self.focus or _next_name(before) != _next_name(attempt):
            self.shown = 0
        self.focus = exercise
        if attempt.done and not before.done:
            self.solved_now, self.comparing = exercise, True
            self._move_on()

    def press(self, key: str) -> None:
        """Do what a key asks for."""
        digits = self.typed + key if key.isdecimal() else ""
        self.typed = ""
        if key in SCROLLING:
            self.scrolled = max(0, self.scrolled + SCROLLING[key])
            return
        self.scrolled = 0 if key != "h" else END
        if digits:
            self._jump(digits)
        elif self.comparing and key == "n":
            self.comparing = False
        elif key in ("q", "\x03", "\x04"):
            self.over = True
        elif key == "h":
            self.shown = min(self.shown + 1, len(hints(self.attempt)))
        elif key == "l":
            self.listing = not self.listing
            self.scrolled = max(0, self.focus.number - ABOVE) if self.listing else 0
        elif key in ("n", "p"):
            self._step(1 if key == "n" else -1)

    def _jump(self, digits: str) -> None:
        """Go to the exercise with a number; a digit that may begin a longer one is kept for the next key."""
        last = len(self.exercises)
        if int(digits) > last:
            digits = digits[-1]  # it begins a number of its own
        if int(digits) * 10 <= last and digits.strip("0"):
            self.typed = digits
        if digits.strip("0"):
            self._step(int(digits) - self.focus.number)

    def _step(self, by: int) -> None:
        number = min(max(self.focus.number + by, 1), len(self.exercises))
        self.focus, self.shown, self.solved_now = self.exercises[number - 1], 0, None
        self.listing = self.comparing = False

    def _move_on(self) -> None:
        """Go on to the next exercise that is not solved, first among the later ones."""
        after = [*self.progress.attempts[self.focus.number :], *self.progress.attempts]
        following = next((a for a in after if not a.done), None)
        if following is not None:
            self.focus, self.shown = following.exercise, 0


def _next_name(attempt: Attempt) -> str | None:
    gradient = attempt.next_gradient
    return gradient.name if gradient is not None else None
