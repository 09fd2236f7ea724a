"""A sitting: from mistake to hint to the next exercise, on a screen of 80 columns and 24 lines."""

from pathlib import Path

from attempting import changed, shown
from backhand.learning.attempts import judge_file
from backhand.learning.blanking import blank, solved
from backhand.learning.course import course, find
from backhand.learning.folder import judge_all, write_course
from backhand.learning.lesson import Lesson
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
    assert "20. SwiGLU" in shown(lesson)
    assert len(shown(lesson).splitlines()) < 24
    lesson.press("q")
    assert lesson.over


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
    for _ in range(25):
        lesson.press("n")
    assert lesson.focus == course()[-1]
