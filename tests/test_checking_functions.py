"""Kernels that shipped wrong, in a few lines each: every one is caught and named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import Function

import backhand
from backhand.errors import CheckError


def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x * w


def operation(backward: Callable[..., Any]) -> type[Function]:
    class Product(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            return x * w

    Product.backward = staticmethod(lambda ctx, g: backward(g, *ctx.saved_tensors))
    return Product


def strided(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    rows = torch.as_strided(g, g.shape, (g.shape[1], 1))
    return rows * w, rows * x


def tail(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    dx = g * w
    dx[4:] = 0
    return dx, g * x


def first(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    return g.reshape(-1)[0] * w, g.reshape(-1)[0] * x


def noisy(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    return g * w + 1e-3 * torch.randn_like(g), g * x


BUGS = {
    "a non-contiguous upstream gradient": (strided, {}, {"layout"}),
    "view on whatever comes": (lambda g, x, w: (g.view(-1).view(6, 5) * w, g * x), {}, {"layout"}),
    "written into the upstream gradient": (lambda g, x, w: (g * w, g.mul_(x)), {}, {"modifies_input"}),
    "written into a saved input": (lambda g, x, w: (g * w, x.mul_(g)), {}, {"modifies_input"}),
    "the first element of the upstream only": (first, None, {"ignores_upstream"}),
    "no upstream at all": (
        lambda g, x, w: (w + 0, x + 0),
        {"x": "wrong_upstream", "w": "wrong_upstream"},
        {"ignores_upstream"},
    ),
    "None for the weight": (lambda g, x, w: (g * w, None), {"w": "zero"}, set()),
    "the tail block dropped": (tail, {"x": "partial"}, set()),
    "dropout's scale": (lambda g, x, w: (g * w * 0.3, g * x), {"x": "scale"}, set()),
    "a sign": (lambda g, x, w: (g * w, -g * x), {"w": "sign"}, set()),
    "a race": (noisy, None, {"nondeterministic"}),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_that_shipped_is_caught_and_named(name: str) -> None:
    backward, culprits, stress = BUGS[name]
    report = backhand.check_function(
        operation(backward), product, {"x": torch.randn(6, 5), "w": torch.randn(6, 5)}
    )
    assert not report.ok
    assert stress <= {m.kind for m in report.stress}
    if culprits is not None:
        assert {row.name: row.mistake.kind for row in report.culprits} == culprits


def test_a_right_function_is_right_in_every_dtype() -> None:
    right = operation(lambda g, x, w: (g * w, g * x))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        report = backhand.check_function(
            right, product, [torch.randn(6, 5).to(dtype), torch.randn(6, 5).to(dtype)]
        )
        assert report.ok, str(report)


def test_overwritten_rows_of_an_embedding_are_named() -> None:
    class Embedding(Function):
        @staticmethod
        def forward(ctx: Any, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(index)
            ctx.shape = table.shape
            return table[index]

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple:
            dtable = g.new_zeros(ctx.shape)
            dtable[ctx.saved_tensors[0]] = g
            return dtable, None

    inputs = {"table": torch.randn(5, 3), "index": torch.tensor([0, 1, 1, 4, 0, 2])}
    report = backhand.check_function(Embedding, lambda table, index: table[index], inputs)
    assert [row.mistake.kind for row in report.culprits] == ["overwritten"]


def test_a_reduction_in_low_precision_is_named() -> None:
    def scaled(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x * w

    coarse = operation(lambda g, x, w: (g * w, (g * x).bfloat16().sum(0).to(g.dtype)))
    report = backhand.check_function(coarse, scaled, {"x": torch.randn(60, 5), "w": torch.randn(5)})
    assert [row.mistake.kind for row in report.culprits] == ["dtype"]


def test_a_backward_of_an_impossible_shape_is_told_and_does_not_raise() -> None:
    report = backhand.check_function(
        operation(lambda g, x, w: (g * w, (g * x).sum())), product, [torch.randn(6, 5), torch.randn(6, 5)]
    )
    assert not report.ok
    assert "invalid gradient at index 1" in str(report)


def test_forwards_that_differ_are_refused() -> None:
    with pytest.raises(CheckError, match="different outputs"):
        backhand.check_function(
            operation(lambda g, x, w: (g, g)), lambda x, w: x + w, [torch.randn(3), torch.randn(3)]
        )
