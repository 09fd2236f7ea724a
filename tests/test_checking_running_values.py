"""Lines that make values of the forward, or carry a gradient on: one culprit, that line first."""

import pytest

import backhand
from altered import from_text

# The states are read in two ways, and the last gradient of the cell is returned under another name.
CELL = """
import torch

out = ("ys", "c")

def forward(x, c0, W, V):
    c, cells, keeps, outs = c0, [], [], []
    for t in range(4):
        keep = torch.sigmoid(x[t] @ V)
        c = keep * c + torch.tanh(x[t] @ W)
        cells.append(c)
        keeps.append(keep)
        outs.append(torch.tanh(c))
    ys = torch.stack(outs)
    return {"cells": cells, "keeps": keeps, "ys": ys, "c": c}

def backward(dys, dc, x, c0, W, V, cells, keeps):
    dx, dW, dV = torch.zeros_like(x), torch.zeros_like(W), torch.zeros_like(V)
    dnext = dc.clone()
    for t in reversed(range(4)):
        squashed = torch.tanh(cells[t])
        before = cells[t - 1] if t > 0 else c0
        made = torch.tanh(x[t] @ W)
        dcell = dys[t] * (1 - squashed**2) + dnext
        dmade = dcell * (1 - made**2)
        dkeep = dcell * before * keeps[t] * (1 - keeps[t])
        dW += x[t].T @ dmade
        dV += x[t].T @ dkeep
        dx[t] = dmade @ W.T + dkeep @ V.T
        dnext = dcell * keeps[t]
    return {"dx": dx, "dW": dW, "dV": dV, "dc0": dnext}

def inputs(generator):
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    return {"x": draw(4, 5, 2), "c0": draw(5, 3), "W": draw(2, 3), "V": draw(2, 3)}
"""


def judged(old: str, new: str) -> backhand.Row:
    """Check the cell with one line changed; return its one culprit."""
    assert CELL.count(old) == 1, old
    report = backhand.check(from_text(CELL.replace(old, new)), stress=False)
    (row,) = report.culprits
    assert row.mistake is not None
    return row


def test_the_cell_is_right_as_it_is() -> None:
    assert backhand.check(from_text(CELL), stress=False).ok


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("squashed = torch.tanh(cells[t])", "squashed = torch.tanh(keeps[t])"),
        ("squashed = torch.tanh(cells[t])", "squashed = torch.zeros_like(cells[t])"),
        ("before = cells[t - 1] if", "before = cells[t] if"),
        ("before = cells[t - 1] if t > 0 else c0", "before = torch.zeros_like(c0)"),
        ("made = torch.tanh(x[t] @ W)", "made = torch.tanh(x[t - 1] @ W)"),
    ],
)
def test_a_wrong_value_of_the_forward_is_shown_where_it_is_made(old: str, new: str) -> None:
    assert judged(old, new).lines[0].text == next(
        line.strip() for line in CELL.replace(old, new).splitlines() if new in line
    )


def test_a_line_that_reads_right_values_is_itself_at_fault() -> None:
    assert (
        judged("dcell * before * keeps[t]", "dcell * cells[t] * keeps[t]").lines[0].text.startswith("dkeep =")
    )


def test_a_variable_that_is_not_carried_on_is_told_with_the_line_that_began_it() -> None:
    row = judged("        dnext = dcell * keeps[t]\n", "")
    assert row.mistake.kind == "missing_branch"
    assert "dnext" in row.mistake.message
    assert "dnext = dc.clone()" in [line.text for line in row.lines]


def test_a_temporary_in_the_place_of_a_value_of_the_forward_is_shown() -> None:
    row = judged("dnext = dcell * keeps[t]", "k = keeps[t].mean(0)\n        dnext = dcell * k")
    assert row.lines[0].text == "k = keeps[t].mean(0)"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("dnext = dcell * keeps[t]", "dnext = (dcell * keeps[t]).half().to(dcell.dtype)", "dnext = (dcell"),
        ("torch.zeros_like(V)\n", "torch.zeros_like(V, dtype=torch.bfloat16)\n", "dx, dW, dV"),
    ],
)
def test_a_line_that_computes_in_less_is_one_culprit_whatever_it_feeds(old: str, new: str, line: str) -> None:
    row = judged(old, new)
    assert row.mistake.kind == "dtype"
    assert row.lines[0].text.startswith(line)
