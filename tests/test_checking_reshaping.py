"""The same Function with inputs of other shapes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

import backhand
from backhand import CheckError


class InBlocks(Function):
    """Leaves out the rows after the last whole block of four, and refuses a leading batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        if x.dim() == 3:
            raise ValueError("two axes are expected")
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, w = ctx.saved_tensors
        whole = len(x) // 4 * 4 or len(x)
        inside = (torch.arange(len(x)) < whole)[:, None]
        return dy * w * inside, (dy * x).sum(0)


def scaled(x: Tensor, w: Tensor) -> Tensor:
    return x * w


def inputs(generator: torch.Generator, *sizes: int) -> dict[str, Tensor]:
    x = torch.randn(sizes, generator=generator)
    return {"x": x, "w": torch.randn(sizes[-1], generator=generator)}


def test_what_is_wrong_with_another_shape_only_is_told_with_that_shape() -> None:
    right = backhand.check_function(InBlocks, scaled, inputs, shapes=[(8, 3), (1, 3), (4, 5)])
    assert right.ok, str(right)
    assert not any("other shapes" in note for note in right.notes)
    assert "other shapes" in backhand.check_function(InBlocks, scaled, inputs, shapes=[(8, 3)]).notes[-1]
    report = backhand.check_function(InBlocks, scaled, inputs, shapes=[(8, 3), (1, 3), (9, 3)])
    (failure,) = report.stress
    assert (failure.kind, failure.detail["kind"]) == ("shapes", "partial")
    assert failure.message.startswith("with inputs of (9, 3) and (3,): dx")
    assert [row.shape for row in report.rows] == [(8, 3), (3,)]
    several = [inputs(torch.Generator(), 8, 3), inputs(torch.Generator(), 9, 3)]
    assert [f.kind for f in backhand.check_function(InBlocks, scaled, several).stress] == ["shapes"]


def test_what_is_wrong_with_every_shape_is_told_once() -> None:
    class Negated(InBlocks):
        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple:
            x, w = ctx.saved_tensors
            return -dy * w, (dy * x).sum(0)

    report = backhand.check_function(Negated, scaled, inputs, shapes=[(8, 3), (9, 3)])
    assert report["x"].mistake.kind == "sign"
    assert not report.stress


def test_a_shape_that_is_refused_may_be_allowed() -> None:
    shapes = [(8, 3), (2, 4, 3)]
    report = backhand.check_function(InBlocks, scaled, inputs, shapes=shapes)
    assert "two axes are expected" in report.stress[0].message
    allowed = backhand.check_function(InBlocks, scaled, inputs, shapes=shapes, allow=("shapes",))
    assert allowed.ok
    assert "two axes are expected" in allowed.notes[-1]


def test_shapes_need_a_function_that_draws_inputs_of_them() -> None:
    with pytest.raises(CheckError, match="inputs\\(generator, \\*sizes\\)"):
        backhand.check_function(InBlocks, scaled, {"x": torch.randn(3)}, shapes=[(8, 3)])
