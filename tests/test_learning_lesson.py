"""A sitting: from mistake to hint to the next exercise, on a screen of 80 columns and 24 lines."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from attempting import changed, shown
from backhand.learning.attempts import judge_file
from backhand.learning.blanking import blank, solved
from backhand.learning.course import course, find
from backhand.learning.folder import judge_all, write_course
from backhand.learning.lesson import Lesson
from backhand.rendering.classroom import Screen
from typical_mistakes import MISTAKES


def test_a_lesson_goes_from_mistake_to_hint_to_the_next_exercise(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    path = tmp_path / "01_product.py"
    assert "1. A product" in shown(lesson)
    path.write_text(blank(find("1")).replace("da = ...", "da = b"))
    lesson.save(path)
    assert "wrong upstream" in shown(lesson)
    for kind in ("the question", "the shapes", "the derivative", "the rule", "the answer"):
        assert kind not in shown(lesson)
        lesson.press("h")
        assert kind in shown(lesson)
    assert "da = b * dy" in shown(lesson)
    path.write_text(solved(find("1")))
    lesson.save(path)
    assert "Solved: 1. A product" in shown(lesson)
    assert "2. A value used twice" in shown(lesson)
    lesson.press("l")
    assert all(f"{e.number}. {e.title}" in shown(lesson) for e in course())
    lesson.press("q")
    assert lesson.over


@pytest.mark.slow
def test_every_exercise_fits_80_columns_and_survives_markup(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    for exercise in course():
        (tmp_path / exercise.file_name).write_text(changed(exercise, MISTAKES[exercise.name][0][:2]))
        lesson.save(tmp_path / exercise.file_name)
        text = shown(lesson)
        assert exercise.title in text
        assert "…" not in text
        assert all(g.name in text and g.verdict in text for g in lesson.progress[exercise.name].gradients)
        assert max(len(line) for line in text.splitlines()) <= 80
    (tmp_path / "01_product.py").write_text("[/red] = [bold]")
    lesson.save(tmp_path / "01_product.py")
    assert "[/red] = [bold]" in shown(lesson)


def test_every_exercise_fits_24_lines_before_anything_is_written(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    heights = {}
    for exercise in course():
        lesson.focus = exercise
        heights[exercise.name] = len(shown(lesson).splitlines())
    assert max(heights.values()) <= 24, heights


def test_the_keys_stay_within_the_course_and_a_hint_with_its_gradient(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    lesson.press("p")
    assert lesson.focus == course()[0]
    lesson.press("h"), lesson.press("h")
    assert len(lesson.hints) == 2
    path = tmp_path / "01_product.py"
    path.write_text(path.read_text() + "\n")
    lesson.save(path)
    assert len(lesson.hints) == 2, "still the same gradient"
    path.write_text(blank(find("1")).replace("da = ...", "da = b * dy"))
    lesson.save(path)
    assert lesson.attempt.next_gradient.name == "db"
    assert len(lesson.hints) == 0, "a hint for da is none for db"
    for _ in course():
        lesson.press("n")
    assert lesson.focus == course()[-1]


def test_what_is_solved_stands_beside_the_textbook_until_a_key_goes_on(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    path = tmp_path / "01_product.py"
    path.write_text(
        solved(find("1")).replace("da = b * dy", "half = dy / 2\n    da = b * half\n    da += b * half")
    )
    lesson.save(path)
    lesson.save(path)  # an editor's save may come as two events
    text = shown(lesson)
    assert "da += b * half" in text
    assert "da = b * dy" in text
    assert "db = a * dy" not in text, "it is the same in both"
    assert "Your gradients take 3 lines, the textbook's 2: 1 more." in text
    assert "Next: 2. A value used twice" in text
    assert " n  go on" in text
    lesson.press("n")
    assert lesson.focus == find("2")
    assert "the textbook's" not in shown(lesson)
    path.write_text(blank(find("1")))
    lesson.save(path)
    path.write_text(solved(find("1")))
    lesson.save(path)
    assert "Line by line what the textbook has." in shown(lesson)


def test_a_loop_that_makes_one_gradient_stands_whole_beside_the_textbook(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    path = tmp_path / find("indexing").file_name
    by_hand = "for i in range(len(index)):\n        row = drows[i]\n        dtable[index[i]] += row"
    path.write_text(changed(find("indexing"), ("dtable.index_add_(0, index, drows)", by_hand)))
    lesson.save(path)
    text = shown(lesson)
    assert "for i in range(len(index)):" in text
    assert "row = drows[i]" in text
    assert "Your gradients take 6 lines, the textbook's 4: 2 more." in text


def test_two_columns_say_what_is_right_so_far_and_what_waits(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    path = tmp_path / find("batch_norm").file_name
    text = blank(find("batch_norm")).replace("dxhat = ...", "dxhat = gain * dy")
    text = text.replace("dcentered = ...", "dcentered = inv_std * dxhat")
    path.write_text(text.replace("dx = ...", "dx = dcentered + dmean / n"))
    lesson.save(path)
    seen = " ".join(shown(lesson).split())
    assert "dcentered so far" in seen
    assert "dcentered: right so far; add what comes through" in seen
    assert "waiting: dx for d" in seen


def test_a_number_jumps_to_its_exercise(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    lesson.press("l")
    for keys, number in (("13", 13), ("2", 2), ("0", 20), ("7", 7), ("9", 9), ("1", 1), ("h0", 1)):
        for key in keys:
            lesson.press(key)
        assert lesson.focus.number == number, keys
    lesson.press("14")  # a line, where keys need Enter
    assert lesson.focus.number == 14
    assert not lesson.listing


def test_what_is_longer_than_a_screen_of_24_lines_is_scrolled(tmp_path: Path):
    write_course(tmp_path)
    path = tmp_path / find("mlp_chunked").file_name
    path.write_text(changed(find("mlp_chunked"), *(c[:2] for c in MISTAKES["mlp_chunked"])))
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    lesson.save(path)

    def screen() -> str:
        stream = io.StringIO()
        console = Console(file=stream, width=80, height=24, force_terminal=True, color_system=None)
        Screen(console).show(lesson)
        text = stream.getvalue().replace("\x1b[2J\x1b[H", "")
        assert len(text.splitlines()) <= 24
        return text

    assert "j k" in screen()
    assert "14. Lecture 1" in screen()
    tops = [screen()]
    for _ in range(20):
        lesson.press("j")
        tops.append(screen())
    assert tops[-1] == tops[-2], "the end is the end"
    assert "14. Lecture 1" not in tops[-1]
    lesson.press("k")
    assert screen() != tops[-1]
    for _ in range(20):
        lesson.press("k")
    assert screen() == tops[0]


def test_a_hint_that_lies_below_the_screen_is_scrolled_to(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    lesson.press("28")
    for kind in ("the question", "the shapes", "the derivative"):
        lesson.press("h")
        stream = io.StringIO()
        Screen(Console(file=stream, width=80, height=24, force_terminal=True, color_system=None)).show(lesson)
        assert kind in stream.getvalue()
        assert lesson.hints[-1].text.splitlines()[-1].split()[-1] in stream.getvalue()
    lesson.press("l")
    stream = io.StringIO()
    Screen(Console(file=stream, width=80, height=24, force_terminal=True, color_system=None)).show(lesson)
    assert "28. A whole transformer block" in stream.getvalue()
    assert "j k" in stream.getvalue()


def test_the_end_says_what_comes_next(tmp_path: Path, monkeypatch):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    assert "What comes next" not in shown(lesson)
    monkeypatch.setattr("backhand.learning.progress.Progress.done", True)
    stream = io.StringIO()
    Screen(Console(file=stream, width=200, highlight=False)).leave(lesson)
    assert f"`backhand train --backward {tmp_path}/17_mlp_fused.py`" in stream.getvalue()
