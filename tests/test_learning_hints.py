"""Hints go from a question to the answer, and say nothing that is not true of the line."""

import re
import textwrap
from pathlib import Path

import pytest

from attempting import changed, judged
from backhand.learning.blanking import asked, blank, blanks
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


@pytest.mark.seconds
@pytest.mark.parametrize(("name", "old", "new", "told"), [
    ("exp_log", "dx = e * de", "dx = e + de", "`e + de` adds where `e * de` belongs"),
    ("tanh", "(1 - h**2)", "(1 - h)", "`1 - h` stands where `1 - h ** 2` belongs"),
    ("power", "** -1.5", "** -0.5", "a power has the wrong exponent, `-0.5`"),
    ("tanh", "dz.unsqueeze(1).expand_as(products)", "dz", "right values, not expanded over axis 1"),
    ("rnn_running", "dhnext = da", "dhnext += da", "`+=` stands where `=` belongs"),
    ("rnn_running", "hs[t].T @ da", "hs[t + 1].T @ da", "hs[t + 1] is used where hs[t] belongs"),
    ("transformer_block", "dmiddle = dy + ", "dmiddle = ", "dmiddle: the branch through y is missing. Exp"),
])  # fmt: skip
def test_a_beginners_error_is_told_as_what_it_is(name, old, new, told, tmp_path: Path):
    exercise = find(name)
    attempt = judged(tmp_path, exercise, changed(exercise, (old, new)))
    assert told in attempt.next_gradient.reason


def test_the_hint_for_shared_memory_shows_the_two_lines_that_matter(tmp_path: Path):
    exercise = find("mlp_chunked")
    steps = hints(judged(tmp_path, exercise, changed(exercise, ("dbndiff.clone()", "dbndiff"))))
    assert [step.kind for step in steps] == ["question", "answer"]
    _, shares, changes = steps[0].text.splitlines()
    assert "| dhprebn = dbndiff " in shares
    assert "| dhprebn += 1 / n * dbnmeani" in changes
    assert "dhprebn = dbndiff.clone()" in steps[1].text


EVERY = (*course(), *course(numpy=True))
STRAIGHT = [e for e in EVERY if not any(line.startswith("for ") for line in blanks(e))]
QUICK = ("exp_log", "batch_norm", "cross_entropy_fused", "tied_weights", "numpy embedding")


def label(exercise: Exercise) -> str:
    return "numpy " * exercise.numpy + exercise.name


@pytest.mark.seconds
@pytest.mark.parametrize(
    "exercise",
    [pytest.param(e, marks=[] if label(e) in QUICK else [pytest.mark.slow]) for e in STRAIGHT],
    ids=label,
)
def test_who_writes_down_every_answer_has_solved_it_and_was_told_of_no_mistake(exercise, tmp_path: Path):
    text = blank(exercise)
    attempt = judged(tmp_path, exercise, text)
    for _ in range(2 * len(asked(exercise))):
        gradient = attempt.next_gradient
        if gradient is None:
            break
        lines = hints(attempt)[-1].text.splitlines()
        more = f"{gradient.name} += ..."
        if f"    {gradient.name} = ..." in text:  # of two stages the second has a place of its own
            lines = [line for line in lines if more not in text or not line.startswith(f"{gradient.name} +=")]
            pattern = rf"^    {gradient.name} = \.\.\..*$"
        else:
            lines = [line for line in lines if line.startswith(f"{gradient.name} +=")]
            pattern = rf"^    {re.escape(more)}.*$"
        text = re.sub(pattern, lambda _, its=lines: textwrap.indent("\n".join(its), "    "), text, flags=re.M)
        attempt = judged(tmp_path, exercise, text)
        assert not attempt.problem
        assert {g.verdict for g in attempt.gradients} <= {"right", "vacuous", "todo"}
    assert attempt.done


def test_a_learner_is_not_sent_to_a_report(tmp_path: Path):
    exercise = find("indexing")
    attempt = judged(
        tmp_path, exercise, changed(exercise, ("dtable = torch.zeros_like(table)", "dtable = drows[index]"))
    )
    assert attempt.next_gradient is not None
    assert attempt.next_gradient.row.mistake.kind == "unexplained"
    assert (
        hints(attempt)[0].text == "dtable: What happens to a row of the table that occurs twice in `index`?"
    )


def test_an_answer_does_not_repeat_what_the_file_has_already(tmp_path: Path):
    exercise = find("product", numpy=True)
    attempt = judged(tmp_path, exercise, blank(exercise))
    assert hints(attempt)[-1].text == "da = b * dout  # (n,)"
    exercise = find("convolution_by_columns", numpy=True)
    text = blank(exercise).replace(
        "dw = ...", "dw = (dout.transpose(1, 0, 2, 3).reshape(len(w), -1) @ cols).reshape(w.shape)"
    )
    attempt = judged(tmp_path, exercise, text.replace("db = ...", "db = dout.sum(axis=(0, 2, 3))"))
    assert "np.add.at(dpadded, " in hints(attempt)[-1].text
    assert "pyright" not in hints(attempt)[-1].text
