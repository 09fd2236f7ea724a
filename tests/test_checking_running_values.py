"""Lines that make values of the forward, or carry a gradient on: one culprit, that line first."""

import ast

import pytest
import torch

import backhand
from altered import from_text
from backhand.checking.running.values import Values

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


@pytest.mark.seconds
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


@pytest.mark.seconds
def test_an_edit_must_hold_in_the_turns_that_are_right_too() -> None:
    """Of `t == t` many an edit would be right in the one turn in which the condition matters."""
    row = judged("if t > 0 else c0", "if t == t else c0")
    assert row.lines[0].text.startswith("before =")
    assert row.mistake.kind not in ("sign", "scale")


# Layers that are divided by their length; `row` is nothing that autograd knows.
LENGTHS = """
import torch

out = "y"

def forward(x, g):
    y, hats, inverses = x, [], []
    for i in range(3):
        inverse = y.square().mean(1, keepdim=True).rsqrt()
        hat = y * inverse
        y = hat * g[i]
        hats.append(hat)
        inverses.append(inverse)
    return {"hats": hats, "inverses": inverses, "y": y}

def backward(dy, x, g, hats, inverses):
    dg, d = torch.zeros_like(g), dy
    for i in reversed(range(3)):
        dg[i] = (d * hats[i]).sum(0)
        scaled = d * g[i]
        row = (scaled * hats[i]).mean(1, keepdim=True)
        d = inverses[i] * (scaled - hats[i] * row)
    return {"dx": d, "dg": dg}

def inputs(generator):
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    return {"x": draw(5, 4), "g": draw(3, 4)}
"""


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (".mean(1, keepdim=True)\n        d =", ".sum(1, keepdim=True)\n        d =", "scale"),
        ("(scaled * hats[i]).mean(1, keepdim=True)", "scaled * hats[i]", "unreduced"),
        ("(scaled * hats[i]).mean", "(scaled * hats[i] * hats[i]).exp().mean", "unexplained"),
    ],
)
def test_a_temporary_that_nobody_knows_is_edited_and_shown(old: str, new: str, kind: str) -> None:
    assert backhand.check(from_text(LENGTHS), stress=False).ok
    assert LENGTHS.count(old) == 1
    report = backhand.check(from_text(LENGTHS.replace(old, new)), stress=False)
    (row,) = report.culprits
    assert row.mistake is not None
    assert row.mistake.kind == kind
    assert any(line.text.startswith("row =") for line in row.lines[:2]), str(report)


SHARED = """
import torch

out = "y"

def forward(x, W):
    s = x.sum(0) @ W
    y = s * s
    return {"s": s, "y": y}

def backward(dy, x, W, s):
    ds = 2 * s * dy
    dW = torch.outer(x.sum(0), ds)
    dx = torch.zeros_like(x)
    for i in range(len(x)):
        dx[i] = W @ ds
    return {"ds": ds, "dW": dW, "dx": dx}

def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator), "W": torch.randn(3, 2, generator=generator)}
"""


def test_a_gradient_that_a_loop_only_reads_is_complete_before_it() -> None:
    report = backhand.check(from_text(SHARED.replace("2 * s * dy", "s * dy")), stress=False)
    assert [row.name for row in report.culprits] == ["s"]


def test_what_is_changed_in_place_later_is_no_value_of_the_forward() -> None:
    statement = ast.parse("y = x + 1").body[0]
    x = torch.ones(3, dtype=torch.float64)
    made = Values()
    with made:
        y = x + 1
    made.ended(statement)
    assert {tuple(known.values[0].tolist()) for known in made.sequences()} == {(1, 1, 1), (2, 2, 2)}
    y.zero_()
    assert {tuple(known.values[0].tolist()) for known in made.sequences()} == {(1, 1, 1)}
