"""Loss of precision: by whose line, beside other mistakes, and where it is none."""

import pytest

import backhand
from altered import altered, from_text, verdicts
from backhand.passes import attention, batch_norm_fused, cross_entropy, gru, gru_model, mlp_chunked

# Every line computes in float32, as kernels do; one computes in less, if it is put in.
KERNEL = """
import torch

out = "y"

def forward(x, w):
    h = (x.float() * w.float()).to(x.dtype)
    y = torch.tanh(h.float()).to(x.dtype)
    return locals()

def backward(dy, x, w, y):
    dh = (dy.float() * (1 - y.float() ** 2)).to(x.dtype)
    dx = (dh.float() * w.float()).to(x.dtype)
    dw = (dh.float() * x.float()).sum(0).to(x.dtype)
    return locals()

def inputs(generator):
    return {"x": torch.randn(6, 4, generator=generator), "w": torch.randn(4, generator=generator)}
"""


@pytest.mark.parametrize(
    ("subject", "old", "new", "culprit", "follows"),
    [
        (batch_norm_fused, "dbnbias = dhpreact.sum(0, keepdim=True)", ".half()", "bnbias", "hprebn"),
        (gru, "dr = memory * inner", "dr = (memory * inner).half()", "r", "b"),
        (mlp_chunked, "dcounts += dcounts_sum", ".bfloat16()", "counts", "norm_logits"),
    ],
)
def test_what_is_made_of_a_gradient_that_lost_precision_follows(subject, old, new, culprit, follows) -> None:
    report = backhand.check(altered(subject, (old, old + new if new[0] == "." else new)), stress=False)
    assert [row.name for row in report.culprits] == [culprit], str(report)
    assert report[culprit].mistake.kind == "dtype"
    assert verdicts(report)[follows] in ("follows", "right")


def test_code_that_computes_in_less_throughout_is_right() -> None:
    assert backhand.check(from_text(KERNEL), stress=False).ok


def test_a_line_that_computes_in_less_than_the_others_is_the_one_to_blame() -> None:
    report = backhand.check(from_text(KERNEL.replace("(dy.float() *", "(dy.bfloat16() *")), stress=False)
    assert {row.name: row.mistake.kind for row in report.culprits} == {"h": "dtype"}, str(report)


def test_a_wrong_line_does_not_hide_one_that_loses_precision() -> None:
    both = altered(
        mlp_chunked,
        ("dprobs = dlogprobs / probs", "dprobs = dlogprobs / counts"),
        ("dW1 = embcat.T @ dhprebn", "dW1 = (embcat.T @ dhprebn).half()"),
    )
    report = backhand.check(both, stress=False)
    assert {row.name: row.mistake.kind for row in report.culprits} == {"probs": "wrong_point", "W1": "dtype"}


def test_a_wrong_line_that_computes_in_less_besides_is_named_by_what_is_wrong_in_it() -> None:
    line = "dbngain = (bnraw * dhpreact).sum(0, keepdim=True)"
    wrong = line.replace(".sum(0", ".bfloat16().sum(1") + ".to(dhpreact.dtype)"
    (row,) = backhand.check(altered(mlp_chunked, (line, wrong)), stress=False).culprits
    assert (row.name, row.mistake.kind) == ("bngain", "overreduced")


def test_the_line_of_a_temporary_that_loses_precision_is_shown() -> None:
    old = "row = (weights * dweights).sum(-1, keepdim=True)"
    new = old.replace(".sum", ".bfloat16().sum") + ".to(weights.dtype)"
    (row,) = backhand.check(altered(attention, (old, new)), stress=False).culprits
    assert (row.name, row.mistake.kind) == ("masked", "dtype")
    assert any("bfloat16" in line.text for line in row.lines)


def test_a_line_that_is_wrong_and_computes_in_less_is_told_of_once() -> None:
    old = "dlog_total = -dlogprobs.sum(-1, keepdim=True)"
    report = backhand.check(altered(cross_entropy, (old, "dlog_total = -dlogprobs.half()")), stress=False)
    assert [row.name for row in report.culprits] == ["log_total"], str(report)


TWICE = """
import torch

out = "y"

def forward(x, w):
    h = x * w
    h = torch.tanh(h)
    y = h @ w
    return locals()

def backward(dy, x, w, h):
    dh = torch.outer(dy, w)
    dpre = (1 - h**2) * dh
    dh = dh * 3
    dx = dpre * w
    dw = (dpre * x).sum(0) + h.T @ dy
    return {"dh": dh, "dx": dx, "dw": dw}

def inputs(generator):
    return {"x": torch.randn(6, 4, generator=generator), "w": torch.randn(4, generator=generator)}
"""


def test_a_gradient_of_a_name_that_is_given_twice_is_no_loss_of_precision() -> None:
    report = backhand.check(from_text(TWICE), stress=False)
    assert verdicts(report)["h"] == "skipped"
    assert not report.culprits, str(report)


def test_a_name_that_the_forward_gives_twice_is_not_mended_where_precision_is_measured() -> None:
    whole = "dlogits = dlogprobs - logprobs.exp() * dlogprobs.sum(2, keepdim=True)"  # below is a `dstate`
    report = backhand.check(altered(gru_model, (whole, "dlogits = dlogprobs - logprobs.exp()")))
    assert [culprit.name for culprit in report.culprits] == ["logits"]
