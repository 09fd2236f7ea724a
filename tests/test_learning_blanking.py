"""Exercises made from the textbook: whole, without an answer, and short enough."""

import ast
import re
from pathlib import Path

import pytest

from attempting import judged
from backhand.checking.running.statements import writes_surely
from backhand.learning.blanking import answer, asked, blank, blanks, second_stages, solved, textbook
from backhand.learning.course import Exercise, course, find
from backhand.learning.hints import hints

EXERCISES = pytest.mark.parametrize(
    "exercise", course() + course(numpy=True), ids=lambda e: e.name + "_over_numpy" * e.numpy
)


@pytest.mark.seconds
@EXERCISES
def test_the_solution_of_every_exercise_passes(exercise: Exercise, tmp_path: Path):
    attempt = judged(tmp_path, exercise, solved(exercise))
    assert attempt.done, attempt.to_dict()
    assert attempt.credit == 1
    assert hints(attempt) == ()


@EXERCISES
def test_the_blank_of_every_exercise_is_all_todo(exercise: Exercise, tmp_path: Path):
    attempt = judged(tmp_path, exercise, blank(exercise))
    assert {g.verdict for g in attempt.gradients} == {"todo"}
    assert not attempt.problem
    assert (attempt.done, attempt.credit) == (False, 0)


@EXERCISES
def test_a_blank_gives_every_shape_and_no_answer(exercise: Exercise):
    assert all(asked(exercise).values())
    backward = blank(exercise).split("def backward", 1)[1].split("def inputs", 1)[0]
    looped = set(begun_for_a_loop(exercise))
    for name in set(asked(exercise)) - looped:
        later = second_stages(exercise)
        first = f"    {name} = ...  # {asked(exercise)[name]}"
        expected = [f"{first}, so far: more is added below"] if name in later else [first]
        expected += [f"    {name} += ...  # what comes through another path"] if name in later else []
        assert re.findall(rf"^    {name} .*", backward, re.M) == expected
        for line in answer(exercise, name):
            code = line.split("#")[0].strip()
            if code.startswith(f"{name} = ") and name not in looped:
                assert code not in f"{backward} {exercise.story} {exercise.questions}"


def begun_for_a_loop(exercise: Exercise) -> list[str]:
    """Return the gradients that a loop makes; they begin with zeros."""
    loops = [s for s in textbook(exercise).function("backward").body if isinstance(s, ast.For)]
    return [n for n in asked(exercise) if any(n in writes_surely(loop) for loop in loops)]


@EXERCISES
def test_of_a_loop_its_head_is_given_and_what_it_begins_with(exercise: Exercise):
    names = begun_for_a_loop(exercise)
    lines = blanks(exercise)
    assert [n for n in names if sum(line.startswith(f"{n} = ") for line in lines) != 1] == []
    heads = [i for i, line in enumerate(lines) if line.startswith("for ")]
    assert len(heads) == bool(names)
    assert all(lines[i + 1].startswith("    ...") for i in heads)


@EXERCISES
def test_an_exercise_fits_the_editor(exercise: Exercise):
    assert max(len(line) for line in blank(exercise).splitlines()) <= 120
    compile(blank(exercise), exercise.file_name, "exec")


@pytest.mark.parametrize(
    ("name", "gradient", "lines"),
    [
        ("matrix_product", "dx", ("dx = dz @ W.T",)),
        ("matrix_product", "dW", ("dW = x.T @ dz",)),
        ("used_twice", "da", ("da = b * dp - dq",)),
    ],
)
def test_the_answer_is_the_gradients_own_lines_without_those_of_others(name, gradient, lines):
    told = answer(find(name), gradient)
    assert tuple(line.split("  #")[0].rstrip() for line in told) == lines
