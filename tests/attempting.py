"""Learners' files as the course's tests write them: the solution changed, judged, shown on a screen."""

import io
from pathlib import Path

from rich.console import Console

from backhand.learning.attempts import Attempt, judge_file
from backhand.learning.blanking import solved
from backhand.learning.course import Exercise
from backhand.learning.lesson import Lesson
from backhand.rendering.classroom import Screen


def judged(tmp_path: Path, exercise: Exercise, text: str) -> Attempt:
    path = tmp_path / exercise.file_name
    path.write_text(text)
    return judge_file(exercise, path)


def changed(exercise: Exercise, *changes: tuple[str, str]) -> str:
    """Return the solution's file with its backward changed."""
    head, rest = solved(exercise).split("def backward", 1)
    backward, tail = rest.split("def inputs", 1)
    for old, new in changes:
        assert backward.count(old) == 1, old
        backward = backward.replace(old, new)
    return f"{head}def backward{backward}def inputs{tail}"


def shown(lesson: Lesson) -> str:
    stream = io.StringIO()
    Screen(Console(file=stream, width=80, highlight=False)).show(lesson)
    return stream.getvalue()
