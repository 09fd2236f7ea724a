"""`learn`: the course in a folder, judged on every save."""

from pathlib import Path

from backhand.learning.folder import Progress, judge_folder, write_course
from backhand.learning.lesson import Lesson
from backhand.rendering.classroom import Screen


def learn(folder: str | Path = "learn", *, watch: bool = True) -> Progress:
    """Write the exercises that a folder lacks, then judge every save until the learner leaves.

    Nothing is stored but the files: an exercise is done when its check passes, and a file that is there is
    never overwritten.

    Args:
        folder: where the exercises are.
        watch: stay and watch; otherwise judge everything once and return.

    Returns:
        How far the folder is.

    Raises:
        LearnError: the folder cannot be written.

    >>> import tempfile
    >>> learn(tempfile.mkdtemp(), watch=False).solved
    0
    """
    folder = Path(folder)
    write_course(folder)
    lesson = Lesson(judge_folder(folder))
    if watch:
        teach(lesson, Screen())
    return lesson.progress


def teach(lesson: Lesson, screen: Screen) -> None:
    """Show the lesson after every save and key until the learner leaves."""
    from backhand.learning.watching import Saved, events

    with events(lesson.progress.folder) as happened:
        screen.show(lesson)
        try:
            for event in happened:
                if isinstance(event, Saved):
                    if not lesson.save(event.path):
                        continue
                else:
                    lesson.press(event.key)
                if lesson.over:
                    break
                screen.show(lesson)
        except KeyboardInterrupt:
            pass
    screen.leave(lesson)
