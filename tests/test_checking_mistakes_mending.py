"""What is mended in a line of the textbook: two slips at once, what is missing, what is written into."""

import pytest

import backhand
from altered import altered, from_text
from backhand.passes import (
    attention,
    batch_norm,
    batch_norm_fused,
    cross_entropy,
    embedding,
    exp_log,
    gru,
    layer_norm,
    maximum,
    mean_square,
    mlp_fused,
    product,
    swiglu,
)

# a pass, what is written, what stands there instead, the culprit, the kind, words of the message
SLIPS = {
    "one element of the upstream gradient": (
        product,
        "db = a * dy",
        "db = a * dy.flatten()[-1]",
        "b",
        "ignores_upstream",
        "is one element of dy, where all of it belongs",
    ),
    "one element and the wrong axis": (
        batch_norm,
        "(xhat * dy).sum(0)",
        "(xhat * dy.flatten()[-1]).sum(1)",
        "gain",
        "ignores_upstream",
        "two slips in one line",
    ),
    "another axis of a softmax": (
        mlp_fused,
        "F.softmax(logits, 1)",
        "F.softmax(logits, 0)",
        "logits",
        "wrong_point",
        "an axis is off at `0`",
    ),
    "a mean that is left out": (
        layer_norm,
        "(dxhat * xhat).mean(-1, keepdim=True)",
        "(dxhat * xhat)",
        "x",
        "unreduced",
        "not averaged over axis",
    ),
    "1 for 1 - s": (swiglu, "silu * (1 - s)", "silu * 1", "gate", "wrong_point", "1 - s"),
    "a tensor and a constant as factors": (
        batch_norm_fused,
        "n / (n - 1) * bnraw * dbngain",
        "dbngain",
        "hprebn",
        "wrong_point",
        "the factor bnraw is missing; besides, a constant factor of",
    ),
    "a factor too many and a constant that is missing": (
        mean_square,
        "2 * error * dsquared",
        "error**2 * dsquared",
        "error",
        "wrong_point",
        "the factor error is one too many; besides, a constant factor of 2 is missing",
    ),
    "all columns in every row": (
        maximum,
        "dx += torch.nn.functional.one_hot(x.argmax(1), x.shape[1]) * dtop",
        "dx[:, x.argmax(1)] += dtop",
        "x",
        "wrong_point",
        "takes every column of `x.argmax(1)` in every row, where each row has its own",
    ),
    "one number for all columns in every row": (
        cross_entropy,
        "dlogprobs.scatter_(-1, targets.unsqueeze(-1), -1 / n)",
        "dlogprobs[:, targets] = -1 / n",
        "logprobs",
        "wrong_point",
        "takes every column of `targets` in every row",
    ),
    "a size that is another one less 1": (
        embedding,
        "2 * error / error.numel()",
        "2 * error / n",
        "error",
        "scale",
        "4 is the size of error along axis 1",
    ),
    "a product for a quotient": (
        exp_log,
        "dy / total",
        "total * dy",
        "total",
        "wrong_point",
        "`total` multiplies where it should divide",
    ),
    "a quotient for a product": (
        product,
        "b * dy",
        "dy / b",
        "a",
        "wrong_point",
        "`dy / b` divides where it should multiply",
    ),
    "two tensors and a constant as factors": (
        batch_norm_fused,
        "bngain * bnvar_inv / n * (",
        "(",
        "hprebn",
        "wrong_point",
        "the factors bngain and bnvar_inv are missing",
    ),
    "a saved tensor that is changed in place": (
        attention,
        "(weights * dweights).sum(-1",
        "weights.mul_(dweights).sum(-1",
        "masked",
        "modifies_input",
        "changes weights in place, where a new tensor belongs",
    ),
    "a saved tensor that the line of another gradient changes in place": (
        layer_norm,
        "(dy * xhat).reshape",
        "xhat.mul_(dy).reshape",
        "x",
        "modifies_input",
        "changes xhat in place, where a new tensor belongs",
    ),
    "zeros in a temporary": (
        attention,
        "row = (weights * dweights).sum(-1, keepdim=True)",
        "row = torch.zeros_like(weights.sum(-1, keepdim=True))",
        "masked",
        "missing_branch",
        "",
    ),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_named_and_its_line_shown(name: str) -> None:
    subject, old, new, culprit, kind, words = SLIPS[name]
    report = backhand.check(altered(subject, (old, new)), stress=False)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [(culprit, kind)], str(report)
    assert words in report[culprit].mistake.message, report[culprit].mistake.message
    assert any(new in line.text for line in report[culprit].lines)


RELU = """
import torch

out = "y"

def forward(x, keep, w):
    h = torch.relu(x)
    kept = h * keep / 0.6
    y = kept @ w
    return locals()

def backward(dy, x, keep, w, kept):
    dkept = dy @ w.T
    dw = kept.T @ dy
    dh = dkept * keep / 0.6
    dx = dh * (x > 0)
    return locals()

def inputs(generator):
    x, w = torch.randn(6, 4, generator=generator), torch.randn(4, 3, generator=generator)
    return {"x": x, "keep": torch.rand(6, 4, generator=generator) > 0.4, "w": w}
"""


@pytest.mark.parametrize(
    ("old", "new", "culprit", "words"),
    [
        ("(x > 0)", "(x < 0)", "x", "`x < 0` stands where `x > 0` belongs"),
        ("dkept * keep", "dkept", "h", "the factor keep is missing"),
    ],
)
def test_a_mask_that_is_turned_round_or_left_out_is_a_wrong_point(old, new, culprit, words) -> None:
    (row,) = backhand.check(from_text(RELU.replace(old, new)), stress=False).culprits
    assert (row.name, row.mistake.kind) == (culprit, "wrong_point"), row.mistake
    assert words in row.mistake.message


def test_of_an_alias_the_lines_that_made_it_and_that_changed_it_are_shown_first() -> None:
    (row,) = backhand.check(altered(batch_norm, ("dx = dcentered + ", "dx = dcentered\n    dx += "))).culprits
    assert (row.name, row.mistake.kind) == ("centered", "aliased")
    assert row.lines[0].text.startswith("dx = dcentered")
    assert row.lines[1].text.startswith("dx += ")


def test_of_an_alias_whose_change_is_below_rounding_they_are_shown_too() -> None:
    report = backhand.check(altered(maximum, ("dx = dbelow.clone()", "dx = dbelow")), stress=False)
    (warning,) = [*report.warnings, *(row.mistake for row in report.culprits)]
    assert warning.kind == "aliased"
    assert report["below"].lines[0].text.startswith("dx = dbelow")


def test_where_repeated_indices_overwrite_the_line_that_writes_comes_first() -> None:
    old = "dtable.index_add_(0, tokens.flatten(), dword.flatten(0, 1))"
    (row,) = backhand.check(altered(embedding, (old, "dtable[tokens] = dword")), stress=False).culprits
    assert (row.name, row.mistake.kind) == ("table", "overwritten")
    assert row.lines[0].text == "dtable[tokens] = dword"


def test_of_two_gradients_that_one_line_has_spoilt_the_second_follows() -> None:
    wrong = altered(
        gru,
        ("dz = (h - candidate) * dy", "dz = torch.zeros_like((h - candidate) * dy)"),
        ("update = z * (1 - z) * dz", "update = z * (1 - candidate) * dz"),
    )
    report = backhand.check(wrong, stress=False)
    lines = {row.lines[0].text.split(" = ")[0] for row in report.culprits}
    assert lines == {"dz", "update"}, str(report)
    assert len(report.culprits) == 2


def test_a_bound_that_leaves_nothing_is_one_slip_and_what_made_it_is_right() -> None:
    text = """
import torch
import torch.nn.functional as F

def forward(x, w):
    pad = 1
    padded = F.pad(x, (pad, pad))  # (n, k + 2)
    y = padded[:, 1:] * w
    return {"pad": pad, "padded": padded, "y": y}

def backward(dy, x, w, padded):
    pad = 1
    dw = (dy * padded[:, 1:]).sum()
    whole = torch.zeros(x.shape[0], x.shape[1] + 2 * pad)
    whole[:, 1:] += dy * w
    dx = whole[:, pad:pad]
    return {"dx": dx, "dw": dw}

out = "y"

def inputs(generator):
    return {"x": torch.randn(3, 4, generator=generator), "w": torch.randn((), generator=generator)}
"""
    assert backhand.check(from_text(text.replace("pad:pad", "pad:-pad"))).ok
    (culprit,) = backhand.check(from_text(text)).culprits
    assert culprit.mistake is not None
    assert culprit.mistake.message.startswith("dx: an index or a bound is off at `pad`")
    assert culprit.lines[0].text.strip() == "dx = whole[:, pad:pad]"
