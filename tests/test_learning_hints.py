"""Hints go from a question to the answer, and say nothing that is not true of the line."""

from pathlib import Path

import pytest

from attempting import changed, judged
from backhand.learning.blanking import asked, blank
from backhand.learning.course import Exercise, course, find
from backhand.learning.hints import hints, uses

KINDS = ["question", "shapes", "derivative", "rule", "answer"]


@pytest.mark.parametrize("exercise", course(), ids=lambda e: e.name)
def test_every_gradient_has_lines_to_ask_about(exercise: Exercise):
    assert all(uses(exercise, name[1:]) for name in asked(exercise))


def test_the_steps_name_the_gradient_its_shapes_and_its_derivative_before_the_rule(tmp_path: Path):
    exercise = find("broadcasting")
    steps = hints(judged(tmp_path, exercise, blank(exercise)))
    assert [step.kind for step in steps] == KINDS
    assert "level was repeated along axis 1 to fit" in steps[1].text
    assert all("-dy" not in step.text for step in steps[:3])
    assert "dlevel gets -dy, summed over axis 1" in steps[3].text
    assert "dlevel = -dy.sum(1, keepdim=True)" in steps[4].text


def test_a_hint_speaks_of_broadcasting_only_where_something_was_broadcast(tmp_path: Path):
    exercise = find("product")
    told = "\n".join(step.text for step in hints(judged(tmp_path, exercise, blank(exercise))))
    assert "repeated" not in told
    assert "summed" not in told


def test_what_is_wrong_is_asked_about_first(tmp_path: Path):
    exercise = find("layer_norm")
    steps = hints(judged(tmp_path, exercise, changed(exercise, ("dy.sum((0, 1))", "dy"))))
    assert steps[0].text.startswith("dbias: Where the forward broadcast a tensor")
