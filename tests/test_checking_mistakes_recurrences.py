"""Single slips in recurrences of many kinds: the line at fault comes first, with its mistake named truly."""

import importlib.util
import types
from pathlib import Path

import pytest

import backhand
from altered import altered

SUBJECTS = Path(__file__).parents[1] / "benchmarks" / "subjects"


def subject(name: str) -> types.ModuleType:
    """Return one of the benchmark's passes."""
    spec = importlib.util.spec_from_file_location(name, SUBJECTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# (the pass, what stands there, what stands there instead, the line shown first, its kind, what is said)
SLIPS = {
    "a value of the forward where a loop begins with its product": (
        "sinkhorn",
        "dcurrent = dplan * plan",
        "dcurrent = plan",
        "dcurrent = plan",
        "wrong_upstream",
        "the factor dplan is missing",
    ),
    "a term that is broadcast to those beside it": (
        "selective_scan",
        "(ddecay * A).sum(-1)",
        "A.sum(-1)",
        "ddt[:, t] += A.sum(-1)",
        "wrong_upstream",
        "the factor ddecay is missing",
    ),
    "a tensor that begins with d and is no gradient": (
        "selective_scan",
        "* dt[:, t]\n        dh = dh * decay",
        "* u[:, t]\n        dh = dh * decay",
        "du[:, t] += ",
        "wrong_point",
        "u[:, t] is used where dt[:, t] belongs",
    ),
    "all that one line of the forward sends back in its turns": (
        "midpoint_steps",
        "        db += dthere.sum(0)\n",
        "",
        "db += dhere.sum(0)",
        "missing_branch",
        "it is only what comes from the add in `field = torch.tanh(y @ W + b)`",
    ),
    "a value that the backward makes again": (
        "midpoint_steps",
        "field_there = torch.tanh(middle @ W + b)",
        "field_there = torch.tanh(b)",
        "field_there = torch.tanh(b)",
        "wrong_point",
        "field_there holds another tensor than what the tanh in",
    ),
    "a tensor and a constant": (
        "midpoint_steps",
        "0.5 * step * dmiddle * (1 - field**2)",
        "1 - field**2",
        "dhere = 1 - field**2",
        "wrong_upstream",
        "the factor dmiddle is missing; besides, a constant factor of 0.05 is missing",
    ),
    "a shape for which another line raises": (
        "experts",
        "(dy.unsqueeze(1) * stacked).sum(2)",
        "(dy.unsqueeze(1) * stacked).sum(2, keepdim=True)",
        "dgates = ",
        "shape",
        "right values in shape (6, 2, 1), not (6, 2)",
    ),
    "terms that cancel": (
        "experts",
        "(dy.unsqueeze(1) * stacked).sum(2)",
        "dy.unsqueeze(1).sum(2)",
        "dgates = ",
        "wrong_point",
        "the factor stacked is missing",
    ),
    "a temporary beside a mask's infinities": (
        "online_softmax",
        "(do * o).sum(1",
        "do.sum(1",
        "delta = do.sum(1, keepdim=True)",
        "wrong_point",
        "in `delta = do.sum(1, keepdim=True)`, the factor o is missing",
    ),
    "a comparison that lacks a factor": (
        "messages",
        "dpre = dh * (pre > 0)",
        "dpre = pre > 0",
        "dpre = pre > 0",
        "wrong_upstream",
        "the factor dh is missing",
    ),
    "a term of which nothing but the sum is known": (
        "random_field",
        "trans + emit[i] + beta, 1)",
        "trans + beta, 1)",
        "beta = torch.logsumexp(trans + beta, 1)",
        "missing_branch",
        "the term emit[i] is missing",
    ),
    "zeros but for rounding": (
        "normalised_steps",
        "(dxhat * centred).sum(0)",
        "centred.sum(0)",
        "dinv = centred.sum(0)",
        "wrong_upstream",
        "the factor dxhat is missing",
    ),
    "what a gradient sums to": (
        "hidden_markov",
        "dA - A.exp() * dA.sum(1, keepdim=True)",
        "dA - A.exp()",
        "dtransitions = dA - A.exp()",
        "wrong_upstream",
        "the factor dA.sum(1, keepdim=True) is missing",
    ),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_in_a_recurrence_is_told_at_its_line(name: str) -> None:
    which, old, new, line, kind, words = SLIPS[name]
    report = backhand.check(altered(subject(which), (old, new)), stress=False)
    (row,) = report.culprits
    assert row.lines[0].text.startswith(line), str(report)
    assert row.mistake.kind == kind, str(report)
    assert words in row.mistake.message, row.mistake.message


@pytest.mark.parametrize(
    ("which", "old", "new", "name"),
    [
        (
            "appended_lists",
            '"dpres": dpres, "dstates": dstates',
            '"dpres": dstates, "dstates": dpres',
            "states[2]",
        ),
        ("hidden_markov", '"dA": dA, "dB": dB, "dfirst"', '"dA": dB, "dB": dA, "dfirst"', "B"),
        ("midpoint_steps", '"dW": dW, "db": db', '"dW": dW, "db": dW[0]', "b"),
    ],
)
def test_gradients_that_are_returned_as_one_another_are_one_mistake_of_the_return(
    which, old, new, name
) -> None:
    report = backhand.check(altered(subject(which), (old, new)), stress=False)
    (row,) = report.culprits
    assert row.name == name
    assert (row.mistake.kind == "swapped") is (which != "midpoint_steps"), str(report)
    assert row.lines[0].text.startswith("return {"), str(report)


@pytest.mark.seconds
def test_what_is_unpacked_from_another_step_is_one_line_at_fault() -> None:
    (row,) = backhand.check(altered(subject("unpacked_steps"), ("cache[t]", "cache[t - 1]"))).culprits
    assert row.lines[0].text == "h, c, i, f, o, g, bent = cache[t - 1]"
    assert "`cache[t - 1]` stands where `cache[t]` belongs" in row.mistake.message


def test_what_raises_for_another_line_is_told_with_what_that_should_give() -> None:
    short = ("dsent = dpre[target]", "dsent = dpre[source] * dpre.sum(0)[:2]")
    (row,) = backhand.check(altered(subject("messages"), short)).culprits
    assert row.lines[0].text.startswith("dsent = ")
    assert "the line raises RuntimeError" in row.mistake.message
    assert "should give the gradient of what the mm in `sent = h[source] @ W` makes" in row.mistake.message
