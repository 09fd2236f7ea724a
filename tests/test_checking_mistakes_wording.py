"""What is said of a mistake, and of what is none: messages, warnings, several explanations."""

import re

import pytest
import torch

import backhand
from altered import altered, from_text
from backhand.checking.mistakes.elsewhere import _in_words
from backhand.passes import (
    batch_norm,
    mlp_chunked,
)

ONE_HOT = "dlogits += F.one_hot(logits.argmax(1), logits.shape[1]) * dlogit_maxes"


def test_memory_that_is_shared_below_rounding_is_a_warning_and_no_fault() -> None:
    report = backhand.check(altered(mlp_chunked, ("dnorm_logits.clone()", "dnorm_logits")))
    assert report.ok
    assert [w.kind for w in report.warnings] == ["aliased"]
    assert "dlogits" in report.warnings[0].message


def test_a_fault_that_cancels_says_that_its_numbers_are_of_other_upstream_gradients() -> None:
    message = backhand.check(altered(mlp_chunked, (ONE_HOT, "pass")))["logits"].mistake.message
    assert "for random upstream gradients; with the true ones the difference cancels" in message
    plain = backhand.check(altered(mlp_chunked, ("dcounts += dcounts_sum", "pass")))["counts"]
    assert "upstream" not in plain.mistake.message


def test_a_wrong_line_whose_value_another_one_makes_right_says_so() -> None:
    later = "dnorm_logits = counts * dcounts", "dnorm_logits = counts * dcounts / 2"
    report = backhand.check(
        altered(mlp_chunked, ("dcounts += dcounts_sum", "dcounts = 2 * (dcounts + dcounts_sum)"), later)
    )
    assert [row.name for row in report.culprits] == ["counts", "norm_logits"]
    assert "because a line above is wrong as well" in report["norm_logits"].mistake.message
    assert "because a line above" not in report["counts"].mistake.message


def test_a_factor_of_two_is_told_once() -> None:
    wrong = altered(mlp_chunked, ("dnorm_logits = counts * dcounts", "dnorm_logits = 2 * counts * dcounts"))
    message = backhand.check(wrong)["norm_logits"].mistake.message
    assert "times 2." in message
    assert "2 = 2" not in message


def test_such_memory_is_no_fault_beside_a_mistake_elsewhere_either() -> None:
    slip = "dbnmeani = -dbndiff.sum(0, keepdim=True)", "dbnmeani = -dbndiff.sum(0)"
    report = backhand.check(altered(mlp_chunked, ("dnorm_logits.clone()", "dnorm_logits"), slip))
    assert [row.name for row in report.culprits] == ["bnmeani"]
    assert [w.kind for w in report.warnings] == ["aliased"]


def test_the_message_on_an_alias_shows_what_the_value_became() -> None:
    report = backhand.check(altered(mlp_chunked, ("dbndiff.clone()", "dbndiff")))
    expected, found = re.search(r"Expected (\S+), found (\S+) at", report["bndiff"].mistake.message).groups()
    assert expected != found


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "1 / (n - 1) * dbnvar",
            "1 / n * dbnvar",
            "times 0.96875 = 31/32; 32 is the size of bndiff2 along axis 0",
        ),
        ("= -1 / n\n", "= -1\n", "times 32; 32 is the size of logprobs along axis 0"),
        ("2 * bndiff * dbndiff2", "bndiff * dbndiff2", "times 0.5 = 1/2. "),
    ],
)
def test_a_factor_is_told_with_the_size_that_it_comes_from(old: str, new: str, words: str) -> None:
    (culprit,) = backhand.check(altered(mlp_chunked, (old, new))).culprits
    assert words in culprit.mistake.message


def test_where_two_explanations_fit_the_simpler_is_named_and_the_other_mentioned() -> None:
    text = """
def forward(x):
    u = 3 * x
    v = 3 * x
    y = u + v
    return locals()

def backward(dy):
    du = dy
    dv = dy
    dx = 3 * du
    return locals()
"""
    report = backhand.check(from_text(text), inputs={"x": torch.randn(4)}, out="y")
    mistake = report["x"].mistake
    assert (mistake.kind, mistake.detail["guess"]) == ("scale", "1/2")
    assert mistake.also == "Another explanation: the branch through u is missing."


def test_a_complex_gradient_is_told_as_not_finite() -> None:
    wrong = altered(batch_norm, ("dgain = (xhat * dy).sum(0)", "dgain = (-1) ** 0.5 * (xhat * dy).sum(0)"))
    assert [(r.name, r.mistake.kind) for r in backhand.check(wrong).culprits] == [("gain", "nonfinite")]


def test_a_message_tells_what_where_expected_and_found() -> None:
    report = backhand.check(altered(mlp_chunked, ("dcounts += dcounts_sum", "pass")))
    (row,) = report.culprits
    assert "dcounts: the branch through counts_sum is missing. Expected " in row.mistake.message
    assert (
        row.mistake.hint
        == "A tensor that is used more than once receives the sum of what each use sends back."
    )
    assert row.lines[0].text.startswith("dcounts = counts_sum_inv * dprobs")


def test_a_pass_made_of_text_shows_its_lines() -> None:
    module = from_text(
        "def forward(x):\n    loss = (x * x).sum()\n    return locals()\n\n"
        "def backward(x):\n    dx = x\n    return locals()\n"
    )
    report = backhand.check(module, inputs={"x": torch.randn(3)})
    assert report["x"].lines[0].number == 6
    assert report["x"].mistake.kind == "scale"
    assert report["x"].mistake.detail["factor"] == pytest.approx(0.5)


def test_a_wrong_upstream_that_is_right_by_luck_is_a_warning() -> None:
    report = backhand.check(altered(mlp_chunked, ("db2 = dlogits.sum(0)", "db2 = dnorm_logits.sum(0)")))
    assert report.ok
    assert [(w.kind, w.detail["expected"]) for w in report.warnings] == [("wrong_upstream", "dlogits")]
    from_scratch = "db2 = ((counts * counts_sum_inv) - F.one_hot(Yb, 27)).sum(0) / n"
    assert not backhand.check(altered(mlp_chunked, ("db2 = dlogits.sum(0)", from_scratch))).warnings


def test_a_factor_that_is_a_size_elsewhere_is_no_power_of_a_near_one() -> None:
    def forward(x, U, c):
        state, states = torch.zeros(2, 3), []
        for xt in x:
            state = torch.tanh(xt + state @ U + c)
            states.append(state)
        y = states[-1]
        return {"states": states, "y": y}

    def backward(dy, U, c, states):
        dstate, dc = dy, torch.zeros_like(c)
        for t in reversed(range(4)):
            dpre = dstate * (1 - states[t] ** 2)
            dc += dpre.sum(0)
            dstate = dpre @ U.T
        dc = dc / 4
        return {"dc": dc}

    inputs = {"x": torch.randn(4, 2, 3), "U": torch.randn(3, 3), "c": torch.randn(3)}
    (row,) = backhand.check(forward, backward, inputs=inputs, out="y").culprits
    assert "times 0.25 = 1/4; 4 is the size of x along axis 0" in row.mistake.message


def test_a_forward_that_is_differentiated_as_a_whole_is_called_so():
    assert _in_words((None, "ByDifferencesBackward")) == "the forward"
