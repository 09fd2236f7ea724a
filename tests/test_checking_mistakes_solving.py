"""What values tell of an edit before it is tried: never that the one which mends a line cannot be right."""

import ast
import textwrap

import torch
from torch import Tensor

from backhand.checking.mistakes.budget import Budget
from backhand.checking.mistakes.edits import edits_of
from backhand.checking.mistakes.omissions import missing_factors
from backhand.checking.mistakes.slips import other_names
from backhand.checking.mistakes.solving import first_right, told_by_values
from backhand.checking.mistakes.workbench import Bench, Focus, Program

OTHERS = [f"t{i}" for i in range(9)]


def focus_on(text: str, expected: Tensor, **held: Tensor) -> Focus:
    """Return the first simple statement of a program that is to give `dx`, among many tensors."""
    others = {name: torch.randn(4, 3, dtype=torch.float64) for name in OTHERS}
    block = ast.parse(textwrap.dedent(text)).body
    program = Program.of(block, "dx", [Bench({"torch": torch, **others, **held}, expected)], {})
    return Focus.on(program, program.simple[-1])


def test_most_tensors_are_told_not_to_be_the_one_that_a_place_needs() -> None:
    dy, g, b = (torch.randn(4, 3, dtype=torch.float64) for _ in "dgb")
    focus = focus_on("dx = dy * b", dy * g, dy=dy, g=g, b=b)
    edits = list(edits_of(focus.program.simple[-1], focus.scope, (other_names,)))
    told = [(ast.unparse(edit.node), may_be) for edit, may_be in told_by_values(focus, edits)]
    assert len(told) > 2 * len(OTHERS)
    assert [name for name, may_be in told if may_be] == ["g"]


def test_one_that_lacks_a_factor_besides_may_be_right_but_for_that() -> None:
    dy, g = (torch.randn(4, 3, dtype=torch.float64) for _ in "dg")
    focus = focus_on("dx = dy + 0", -2 * dy / g, dy=dy, g=g)
    edits = list(edits_of(focus.program.simple[-1], focus.scope, (missing_factors,)))
    may_be = {
        ast.unparse(edit.node) for edit, right in told_by_values(focus, edits, but_for_a_factor=True) if right
    }
    assert "dy / g" in may_be
    assert not any(name in text for text in may_be for name in OTHERS)
    assert not any(right for _, right in told_by_values(focus, edits) if right)


def test_what_is_infinite_where_it_is_masked_may_be_right() -> None:
    dy, s = (torch.randn(4, 3, dtype=torch.float64) for _ in "ds")
    mask = s > 0
    r = torch.where(mask, s, float("inf"))
    text = "dx = torch.where(mask, dy * t0, 0.0)"
    focus = focus_on(text, torch.where(mask, dy * s, 0.0), dy=dy, r=r, mask=mask)
    found, _ = first_right(
        focus, edits_of(focus.program.simple[-1], focus.scope, (other_names,)), Budget(tries=1000)
    )
    assert found is not None
    assert ast.unparse(found.node) == "r"


def test_what_changes_from_turn_to_turn_is_tried() -> None:
    dy, r = (torch.randn(4, 3, dtype=torch.float64) for _ in "dr")
    text = """
    for i in range(2):
        step = r * i
        dx = dy * t0
    """
    focus = focus_on(text, dy * r, dy=dy, r=r, step=torch.zeros_like(r))
    edits = edits_of(focus.program.simple[-1], focus.scope, (other_names,))
    told = [(ast.unparse(edit.node), may_be) for edit, may_be in told_by_values(focus, edits)]
    assert ("step", True) in told
    assert ("t1", False) in told


def test_what_is_cut_off_is_no_straight_line() -> None:
    dy, s = (torch.randn(4, 3, dtype=torch.float64) for _ in "ds")
    wide = 100 * s
    focus = focus_on("dx = dy * t0.clamp(-20, 20)", dy * wide.clamp(-20, 20), dy=dy, wide=wide)
    found, _ = first_right(
        focus, edits_of(focus.program.simple[-1], focus.scope, (other_names,)), Budget(tries=1000)
    )
    assert found is not None
    assert ast.unparse(found.node) == "wide"
