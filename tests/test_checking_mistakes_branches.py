"""Factors that are sizes, and branches that are wrong together."""

import pytest
import torch

import backhand
from altered import from_text

SIZES = """
def forward(x):
    h = x * x
    y = h.sum(0)
    return locals()

def backward(dy, x):
    dh = dy.expand(x.shape) * {factor}
    dx = 2 * x * dh
    return locals()

out = "y"
"""


@pytest.mark.parametrize(
    ("rows", "factor", "told"),
    [
        (100, "100 / 99", "100/99"),
        (100, "1.01", ""),
        (3, "3**-0.5", "3**-0.5"),
        (3, "0.58", ""),
        (7, "1 / 49", "7**-2"),
    ],
)
def test_a_factor_is_taken_for_a_size_where_it_is_that_exactly(rows: int, factor: str, told: str) -> None:
    report = backhand.check(from_text(SIZES.format(factor=factor)), inputs={"x": torch.randn(rows, 2)})
    (culprit,) = report.culprits
    assert culprit.mistake.kind == "scale"
    assert culprit.mistake.detail["guess"] == told
    assert culprit.mistake.detail["factor"] == pytest.approx(eval(factor))


BRANCHES = """
def forward(x):
    a = x.sin()
    b = x.exp()
    c = x.tanh()
    e = x.square()
    y = a * b + c * e
    return locals()

def backward(dy, x, a, b, c, e):
    da, db, dc, de = dy * b, dy * a, dy * e, dy * c
    dx = da * x.cos() + db * b + dc * (1 - c**2) + de * 2 * x
    return locals()

out = "y"
"""


@pytest.mark.parametrize(
    ("right", "slip", "kind", "branches"),
    [
        ("db * b + dc * (1 - c**2) + ", "", "missing_branch", ["b", "c"]),
        ("da * x.cos() + db * b + dc * (1 - c**2) + ", "", "missing_branch", ["a", "b", "c"]),
        ("da * x.cos() + db * b", "-da * x.cos() - db * b", "sign", ["a", "b"]),
        ("+ db * b +", "+ db * b + db * b +", "repeated_branch", ["b"]),
        ("+ de * 2 * x", "", "missing_branch", ["e"]),
    ],
)
@pytest.mark.parametrize("size", [2, 6])  # two elements are too few to solve for four coefficients
def test_branches_that_are_wrong_together_are_named_together(
    right: str, slip: str, kind: str, branches: list[str], size: int
) -> None:
    assert BRANCHES.count(right) == 1
    report = backhand.check(from_text(BRANCHES.replace(right, slip)), inputs={"x": torch.randn(size)})
    (culprit,) = report.culprits
    assert (culprit.name, culprit.mistake.kind) == ("x", kind)
    assert culprit.mistake.detail["branches"] == branches
