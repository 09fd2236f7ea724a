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
    steps = hints(
        judged(tmp_path, exercise, changed(exercise, ("dy.reshape(-1, dy.shape[-1]).sum(0)", "dy")))
    )
    assert steps[0].text.startswith("dbias: Where the forward broadcast a tensor")


@pytest.mark.parametrize(("name", "old", "new", "told"), [
    ("gelu", "du = (1 - t**2) * dt", "du = (1 - torch.tanh(u)**2) * dt", "add `u` to them"),
    ("exp_log", "de = dtotal", "dee = dtotal", "has dee, and there is no such tensor: did you mean de?"),
    ("power", "** -1.5", "** -0.5", "Of x ** p the derivative is p * x ** (p - 1)"),
])  # fmt: skip
def test_a_beginners_error_has_words_of_its_own(name, old, new, told, tmp_path: Path):
    exercise = find(name)
    attempt = judged(tmp_path, exercise, changed(exercise, (old, new)))
    assert told in hints(attempt)[0].text


@pytest.mark.parametrize(("name", "old", "new", "told"), [
    ("exp_log", "dx = e * de", "dx = e + de", "`e + de` adds where `e * de` belongs"),
    ("tanh", "(1 - h**2)", "(1 - h)", "`1 - h` stands where `1 - h ** 2` belongs"),
    ("power", "** -1.5", "** -0.5", "a power has the wrong exponent, `-0.5`"),
    ("rnn_running", "dhnext = da", "dhnext += da", "`+=` stands where `=` belongs"),
    ("rnn_running", "hs[t].T @ da", "hs[t + 1].T @ da", "hs[t + 1] is used where hs[t] belongs"),
    ("transformer_block", "dmiddle = dy + ", "dmiddle = ", "dmiddle: the branch through y is missing. Exp"),
])  # fmt: skip
def test_a_beginners_error_is_told_as_what_it_is(name, old, new, told, tmp_path: Path):
    exercise = find(name)
    attempt = judged(tmp_path, exercise, changed(exercise, (old, new)))
    assert told in attempt.next_gradient.reason
