"""The fixture `check_pass`: an assertion whose message is the table."""

from collections.abc import Callable

import pytest
import torch

import backhand


def forward(x):
    return {"y": 2 * x}


def right(dy):
    return {"dx": 2 * dy}


def wrong(dy):
    return {"dx": -2 * dy}


def changing(dy):
    dy *= 2
    return {"dx": dy}


def unwritten(dy):
    return {}


def test_a_right_pass_passes_and_gives_its_report(check_pass: Callable) -> None:
    report = check_pass(forward, right, inputs={"x": torch.randn(3)}, out="y")
    assert isinstance(report, backhand.Report)
    assert report.ok


@pytest.mark.parametrize(
    ("backward", "told"), [(wrong, "sign"), (changing, "modifies_input"), (unwritten, "todo")]
)
def test_whatever_is_not_right_fails_with_the_table(
    check_pass: Callable, backward: Callable, told: str
) -> None:
    with pytest.raises(pytest.fail.Exception) as failed:
        check_pass(forward, backward, inputs={"x": torch.randn(3)}, out="y")
    assert told in str(failed.value)
    assert "gradient" in str(failed.value)
