"""What PyTorch's own checks find of one fault each: the table in docs/checking.md is true of this release."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import Function, gradcheck, gradgradcheck

import backhand
from kernels import operation, product


def wrong_formula(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    return 2 * g * w, g * x


def packed_rows(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    return torch.as_strided(g, g.shape, (g.shape[1], 1)) * w, g * x


def written_into_upstream(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    return g * w, g.mul_(x)


def custom(backward: Callable[..., Any]) -> type[Function]:
    class Product(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            ctx.kept = x.detach(), w.detach().clone()
            return x * w

    Product.backward = staticmethod(backward)
    return Product


def asks_for_the_first(ctx: Any, g: torch.Tensor) -> tuple:
    x, w = ctx.saved_tensors
    return (g * w, g * x) if ctx.needs_input_grad[0] else (None, None)


def spoils_what_it_kept(ctx: Any, g: torch.Tensor) -> tuple:
    return ctx.kept[1].mul_(g), g * ctx.kept[0]


def kept_beside_the_graph(ctx: Any, g: torch.Tensor) -> tuple:
    return g * ctx.kept[1], g * ctx.kept[0]


# each with what is at fault, and whether gradcheck finds it
FAULTS = {
    "a wrong formula": (operation(wrong_formula), "scale", True),
    "an upstream gradient read as packed rows": (operation(packed_rows), "layout", False),
    "the upstream gradient changed in place": (operation(written_into_upstream), "modifies_input", False),
    "needs_input_grad at the wrong index": (custom(asks_for_the_first), "frozen_input", False),
    "a kept buffer changed in place": (custom(spoils_what_it_kept), "modifies_input", True),
}


def finds(check: Callable[..., Any], function: type[Function]) -> bool:
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(3, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    return not check(function.apply, [t.requires_grad_() for t in drawn], raise_exception=False)


@pytest.mark.parametrize("name", FAULTS)
def test_what_gradcheck_finds_is_as_the_docs_say(name: str) -> None:
    function, kind, found = FAULTS[name]
    assert finds(gradcheck, function) == found
    report = backhand.check_function(function, product, {"x": torch.randn(3, 4), "w": torch.randn(3, 4)})
    told = [*(row.mistake for row in report.culprits), *report.stress]
    assert kind in [mistake.kind for mistake in told]


def test_gradgradcheck_finds_what_was_kept_beside_the_graph() -> None:
    assert not finds(gradcheck, custom(kept_beside_the_graph))
    assert finds(gradgradcheck, custom(kept_beside_the_graph))
