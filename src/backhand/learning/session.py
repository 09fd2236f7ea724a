"""`learn`: the course in a folder, judged on every save."""

from pathlib import Path
from typing import Protocol

from backhand.learning.folder import judge_all, write_course
from backhand.learning.lesson import Lesson
from backhand.learning.progress import Progress
from backhand.learning.referee import Referee


class Screen(Protocol):
    """Where a lesson is shown, such as a terminal."""

    def wait(self, what: str) -> None:
        """Say what takes a moment."""
        ...

    def show(self, lesson: Lesson) -> None:
        """Show the lesson as it is now."""
        ...

    def leave(self, lesson: Lesson) -> None:
        """Say good-bye, and how to go on."""
        ...


def learn(folder: str | Path = "learn", *, numpy: bool = False, screen: Screen | None = None) -> Progress:
    """Write the exercises that a folder lacks, then judge every save until the learner leaves.

    Nothing is stored but the files: an exercise is done when its check passes, and a file that is there is
    never overwritten.

    Args:
        folder: where the exercises are.
        numpy: the course over NumPy, with `out, cache = forward(x)` and `dx = backward(dout, cache)`.
        screen: shows the lesson after every save and key; without one, everything is judged once.

    Returns:
        How far the folder is.

    Raises:
        LearnError: the folder cannot be written.

    >>> import tempfile
    >>> learn(tempfile.mkdtemp()).solved
    0
    """
    folder = Path(folder)
    write_course(folder, numpy=numpy)
    with Referee() as referee:
        lesson = Lesson(judge_all(folder, referee.judge, numpy=numpy), referee.judge)
        if screen is not None:
            teach(lesson, screen)
    return lesson.progress


def teach(lesson: Lesson, screen: Screen) -> None:
    """Show the lesson after every save and key until the learner leaves."""
    from backhand.learning.watching import Saved, events

    with events(lesson.progress.folder) as happened:
        screen.show(lesson)
        try:
            for event in happened:
                if isinstance(event, Saved):
                    if event.path.name not in [e.file_name for e in lesson.exercises]:
                        continue
                    screen.wait(f"judging {event.path.name}")
                    lesson.save(event.path)
                else:
                    lesson.press(event.key)
                if lesson.over:
                    break
                screen.show(lesson)
        except KeyboardInterrupt:
            pass
    screen.leave(lesson)
