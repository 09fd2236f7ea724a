"""Saves and keys are noticed, and the terminal is left as it was."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import backhand
from backhand.learning.attempts import judge_file
from backhand.learning.blanking import blank, solved
from backhand.learning.course import find
from backhand.learning.folder import judge_all, write_course
from backhand.learning.lesson import Lesson
from backhand.learning.watching import Pressed, Saved, events, keys_need_enter
from backhand.rendering.classroom import Screen


class Pupil:
    """Works as soon as a screen is shown, one step after the other, and notes what the screen says."""

    def __init__(self, folder: Path, steps: list[Callable[[], object]]):
        self.folder, self.steps, self.seen = folder, steps, []

    def wait(self, what: str) -> None:
        self.seen.append(what)

    def show(self, lesson: Lesson) -> None:
        self.seen.append((lesson.focus.name, lesson.progress.solved, lesson.attempt.problem))
        time.sleep(0.3)  # until the watcher listens
        self.steps.pop(0)()

    def leave(self, lesson: Lesson) -> None:
        self.seen.append("left")


@pytest.mark.seconds
def test_a_sitting_from_the_first_save_to_the_last_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours, theirs = os.pipe()
    product = tmp_path / "01_product.py"

    def in_two_saves() -> None:
        (tmp_path / "scratch.py").write_text("1 / 0")  # no exercise: nothing happens
        product.write_text(solved(find("1")))

    steps = [
        lambda: product.write_text("da = ("),
        in_two_saves,
        lambda: os.write(theirs, b"p\n"),
        lambda: os.write(theirs, b"q\n"),
    ]
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        pupil = Pupil(tmp_path, steps)
        progress = backhand.learn(tmp_path, screen=pupil)
    os.close(theirs)
    assert progress.solved == 1
    assert pupil.seen == [
        ("product", 0, ""),
        "judging 01_product.py",
        ("product", 0, "line 1: '(' was never closed: da = ("),
        "judging 01_product.py",
        ("used_twice", 1, ""),
        ("product", 1, ""),
        "left",
    ]


def test_a_save_is_noticed_and_so_is_a_file_that_is_taken_away(tmp_path: Path):
    write_course(tmp_path)
    with events(tmp_path) as happened:
        time.sleep(0.3)  # until the watcher listens
        path = tmp_path / "01_product.py"
        path.write_text(solved(find("1")))
        assert next(happened) == Saved(path)
        beside = tmp_path / "01_product.py~"
        beside.write_text(blank(find("1")))
        beside.replace(path)  # as many editors save
        assert next(happened) == Saved(path)
        path.unlink()
        assert next(happened) == Saved(path)


def test_keys_come_by_lines_where_there_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours, theirs = os.pipe()
    with os.fdopen(ours) as stdin, os.fdopen(theirs, "w") as learner:
        monkeypatch.setattr("sys.stdin", stdin)
        assert keys_need_enter()
        with events(tmp_path) as happened:
            learner.write("hint\nq\n")
            learner.flush()
            assert [next(happened), next(happened)] == [Pressed("h"), Pressed("q")]
    stream = io.StringIO()
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    Screen(Console(file=stream, width=80), enter=True).show(lesson)
    assert stream.getvalue().rstrip().endswith("and Enter")


def test_keys_come_one_by_one_from_a_terminal_that_is_left_as_it_was(tmp_path: Path, monkeypatch):
    termios = pytest.importorskip("termios")
    learner, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert not keys_need_enter()
        with events(tmp_path) as happened:
            os.write(learner, b"hl")
            assert [next(happened), next(happened)] == [Pressed("h"), Pressed("l")]
        assert termios.tcgetattr(terminal) == before
    os.close(learner)


@pytest.mark.seconds
def test_a_folder_that_goes_and_comes_back_is_watched_again(tmp_path: Path):
    folder, aside = tmp_path / "learn", tmp_path / "aside"
    write_course(folder)
    with events(folder) as happened:
        time.sleep(0.3)  # until the watcher listens
        folder.rename(aside)
        time.sleep(0.6)
        aside.rename(folder)
        path = folder / "01_product.py"
        came_back = [next(happened)]
        while came_back[-1] != Saved(path):
            came_back.append(next(happened))
        time.sleep(0.6)
        path.write_text(solved(find("1")))
        assert Saved(path) in happened
