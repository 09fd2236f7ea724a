"""The course: exercises cannot drift from the textbook, are judged rightly, and nobody's work is lost."""

from pathlib import Path

import pytest

from attempting import changed, judged
from backhand.learning.blanking import asked, blank
from backhand.learning.course import course, find
from backhand.learning.hints import hints
from typical_mistakes import MISTAKES


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("name", "change"), [(n, c) for n, changes in MISTAKES.items() for c in changes], ids=str
)
def test_a_typical_mistake_is_named_on_its_gradient_alone(name, change, tmp_path):
    old, new, gradient, kind = change
    attempt = judged(tmp_path, find(name), changed(find(name), (old, new)))
    bad = [(g.name, g.row.mistake.kind) for g in attempt.gradients if g.verdict in ("wrong", "shape")]
    assert bad == [(gradient, kind)]
    assert not attempt.done
    assert attempt.next_gradient.name == gradient
    steps = hints(attempt)
    assert (steps[0].kind, steps[-1].kind) == ("question", "answer")
    assert gradient in steps[-1].text


def test_every_exercise_has_three_typical_mistakes():
    assert {e.name for e in course()} == set(MISTAKES)
    assert all(len(changes) >= 3 for changes in MISTAKES.values())


def test_a_gradient_that_uses_an_unfinished_one_waits_for_it(tmp_path: Path):
    text = changed(find("used_twice"), ("dq = p * dy  # (n,)", "dq = ..."))
    attempt = judged(tmp_path, find("used_twice"), text)
    assert [(g.name, g.verdict, g.waits_for) for g in attempt.gradients] == [
        ("dq", "todo", ""),
        ("dp", "todo", "dq"),
        ("da", "todo", "dp"),
        ("db", "todo", "dp"),
    ]
    assert not attempt.problem
    assert attempt.next_gradient.name == "dq"


@pytest.mark.parametrize(
    ("name", "blanked"),
    [
        ("gru", "dmemory = r * inner"),
        ("gru", "dc = torch.cat([reset, update, dmemory], 1)"),
        ("swiglu", "dsilu = up * dhidden"),
    ],
)
def test_what_is_right_stays_right_below_a_line_that_waits(name, blanked, tmp_path: Path):
    missing = blanked.split(" =")[0]
    text = changed(find(name), (blanked, f"{missing} = ..."))
    gradients = judged(tmp_path, find(name), text).gradients
    assert next(g for g in gradients if g.name == missing).verdict == "todo"
    assert {g.verdict for g in gradients if not g.waits_for and g.name != missing} == {"right"}
    wrong = text.replace("dO = hidden.reshape", "dO = -hidden.reshape").replace(
        "dz = (h - candidate)", "dz = h"
    )
    gradients = judged(tmp_path, find(name), wrong).gradients
    assert [g.verdict for g in gradients if g.name in ("dO", "dz")] == ["wrong"]


def test_a_line_that_raises_is_told_though_gradients_are_missing(tmp_path: Path):
    text = blank(find("matrix_product")).replace("dW = ...", "dW = x @ dy")
    attempt = judged(tmp_path, find("matrix_product"), text)
    assert "dW = x @ dy" in attempt.problem
    assert "RuntimeError" in attempt.problem


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("da = ...", "da = (", "line 21: '(' was never closed"),
        ("import torch", "import torch\n1 / 0", "line 10: ZeroDivisionError"),
        ("    y = a * b", "    y = a", "line 16: the forward was changed"),
        ("    return locals()\n\n\ndef backward", "\n\ndef backward", "line 14: the forward was changed"),
        ("def backward", "def forwards", "no function `backward`"),
        ("def forward(a, b)", "def forward(b, a)", "line 14: the parameters of forward were changed"),
        ("def backward(dy, a, b)", "def backward(dy, a, bb)", "asks for 'bb'"),
    ],
)
def test_a_file_that_cannot_be_judged_is_told_by_its_line(old, new, told, tmp_path):
    attempt = judged(tmp_path, find("product"), blank(find("product")).replace(old, new, 1))
    assert told in attempt.problem
    assert (attempt.done, attempt.credit) == (False, 0)


def test_what_a_file_prints_is_kept_and_stays_off_the_screen(tmp_path: Path, capfd):
    text = changed(find("product"), ("    da =", "    print('dy', tuple(dy.shape))\n    da ="))
    attempt = judged(tmp_path, find("product"), text)
    assert attempt.printed == ("dy (5,)",)
    assert capfd.readouterr() == ("", "")
    assert attempt.done


def test_a_backward_that_changes_its_input_is_not_done(tmp_path: Path):
    attempt = judged(tmp_path, find("product"), changed(find("product"), ("da = b * dy", "da = b.mul_(dy)")))
    assert not attempt.done
    assert attempt.credit < 1


def test_of_several_states_under_one_name_a_wrong_one_is_told(tmp_path: Path):
    """The states of a recurrent layer are one gradient of the exercise."""
    exercise = find("rnn")
    first = judged(
        tmp_path,
        exercise,
        changed(exercise, ("dhs[t] += dys[t] @ Why.T", "dhs[t] += dys[t] @ Why.T * (2 - (t > 0))")),
    )
    states = {row.name: row.verdict for row in first.report.rows if row.name.startswith("hs[")}
    assert sorted(states.values()) == ["right"] * (len(states) - 1) + ["wrong"]
    assert {g.name: g.verdict for g in first.gradients}["dhs"] == "wrong"


def test_right_values_in_a_wrong_shape_earn_half_and_wrong_ones_nothing(tmp_path: Path):
    exercise = find("broadcasting")
    count = len(asked(exercise))
    for old, new, verdict, credit in [
        ("(x * dscaled).sum(0, keepdim=True)", "(x * dscaled).sum(0)", "shape", 0.5),
        ("(x * dscaled).sum(0, keepdim=True)", "-(x * dscaled).sum(0, keepdim=True)", "wrong", 0),
    ]:
        attempt = judged(tmp_path, exercise, changed(exercise, (old, new)))
        told = {g["name"]: (g["verdict"], g["credit"]) for g in attempt.to_dict()["gradients"]}
        assert told.pop("dscale") == (verdict, credit)
        assert all(own == 1 for _, own in told.values())
        assert attempt.credit == pytest.approx((count - 1 + credit) / count)
        assert not attempt.done


def test_a_file_that_prints_without_end_floods_neither_screen_nor_memory(tmp_path: Path, capfd):
    text = changed(
        find("product"), ("    da =", "    for i in range(99): print('x' * 1000)\n    print('end')\n    da =")
    )
    attempt = judged(tmp_path, find("product"), text)
    assert attempt.done
    assert sum(len(line) for line in attempt.printed) < 2000
    assert "end" not in attempt.printed  # only the beginning was kept
    assert capfd.readouterr() == ("", "")


TOP_DOWN = (
    ("dlogprobs = ...", "dlogprobs = -F.one_hot(Yb, probs.shape[1]) / n"),
    ("dprobs = ...", "dprobs = dlogprobs / probs"),
    ("dcounts_sum_inv = ...", "dcounts_sum_inv = (counts * dprobs).sum(1, keepdim=True)"),
)
HALF = ("dcounts = ...", "dcounts = counts_sum_inv * dprobs")
SUM = ("dcounts_sum = ...", "dcounts_sum = -(counts_sum**-2) * dcounts_sum_inv")
REST = ("dcounts += ...", "dcounts += dcounts_sum")
WHOLE = ("dcounts = ...", "dcounts = counts_sum_inv * dprobs - counts_sum**-2 * dcounts_sum_inv")
BELOW = ("dnorm_logits = ...", "dnorm_logits = counts * dcounts")


@pytest.mark.parametrize(
    ("lines", "verdict", "so_far", "next_name"),
    [
        ((HALF,), "todo", True, "dcounts_sum"),
        ((HALF, SUM), "todo", True, "dcounts"),
        ((HALF, SUM, REST), "right", False, "dnorm_logits"),
        ((WHOLE,), "right", False, "dcounts_sum"),
        ((WHOLE, BELOW), "right", False, "dcounts_sum"),
        ((WHOLE, SUM, ("    dcounts += ...  # what comes through another path\n", "")), "right", False, None),
        ((HALF, SUM, ("    dcounts += ...  # what comes through another path\n", "")), "wrong", False, None),
        ((("dcounts = ...", "dcounts = -counts_sum_inv * dprobs"),), "wrong", False, "dcounts"),
    ],
)
def test_a_gradient_of_two_stages_is_right_so_far_in_any_order(lines, verdict, so_far, next_name, tmp_path):
    exercise = find("mlp_chunked")
    text = blank(exercise).replace("\nimport torch", "\nimport torch\nimport torch.nn.functional as F")
    for old, new in (*TOP_DOWN, *lines):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    attempt = judged(tmp_path, exercise, text)
    dcounts = next(g for g in attempt.gradients if g.name == "dcounts")
    assert (dcounts.verdict, dcounts.so_far) == (verdict, so_far)
    assert ("right so far" in dcounts.reason) == so_far
    assert next_name is None or attempt.next_gradient.name == next_name
    assert not attempt.problem


def test_a_blank_stage_keeps_the_numbers_of_the_lines_below_it(tmp_path: Path):
    exercise = find("mlp_chunked")
    text = blank(exercise).replace("dcounts += ...", "dcounts += (\n        ...\n    )")
    text = text.replace("dnorm_logits = ...", "dnorm_logits = 1 / 0")
    attempt = judged(tmp_path, exercise, text)
    number = text.splitlines().index("    dnorm_logits = 1 / 0  # (n, vocabulary)") + 1
    assert f"line {number}: " in attempt.problem
