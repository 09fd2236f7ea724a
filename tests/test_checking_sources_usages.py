"""A Function used beyond one backward: differentiated twice, in forward mode, under vmap."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import backhand

CUBE = {"x": torch.randn(4, 3)}


def cube(x: Tensor) -> Tensor:
    return x**3


def cubing(how: str) -> type[Function]:
    class Cube(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            square = x * x
            ctx.square = square
            ctx.save_for_backward(*([x, square] if how == "intermediate saved" else [x]))
            return x**3

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            x, *rest = ctx.saved_tensors
            if how == "not in torch":
                return torch.from_numpy((3 * x * x * dy).detach().numpy())
            return 3 * (ctx.square if how == "intermediate on ctx" else rest[0] if rest else x * x) * dy

    if how == "once":
        Cube.backward = staticmethod(once_differentiable(Cube.backward))
    return Cube


@pytest.mark.parametrize(
    ("how", "kinds", "told"),
    [
        ("recomputed", [], "Tried besides: second derivatives."),
        ("intermediate on ctx", ["second_order"], "Tried besides: second derivatives."),
        ("intermediate saved", [], "second derivatives (save_for_backward holds what is neither input"),
        ("once", [], "second derivatives (its backward cannot be differentiated)"),
        ("not in torch", [], "second derivatives (its backward cannot be differentiated)"),
    ],
)
def test_second_derivatives_are_right_or_wrong_or_said_to_be_untried(
    how: str, kinds: list[str], told: str
) -> None:
    report = backhand.check_function(cubing(how), cube, CUBE)
    assert [m.kind for m in report.stress] == kinds
    assert told in report.notes[-1]
    if kinds:
        message = report.stress[0].message
        assert message == "d(dx)/dx is wrong where the backward is differentiated again."


def test_a_wrong_gradient_is_not_told_again_as_a_second_one() -> None:
    class Doubled(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 6 * x * x * dy

    report = backhand.check_function(Doubled, cube, CUBE)
    assert report["x"].mistake.kind == "scale"
    assert not report.stress
    assert "Not tried: second derivatives" in report.notes[-1]


def test_a_target_without_a_gradient_has_no_second_one_either() -> None:
    class Loss(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, target: Tensor) -> Tensor:
            ctx.save_for_backward(x, target)
            return (x - target) ** 2

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple:
            x, target = ctx.saved_tensors
            return 2 * (x - target) * dy, None

    inputs = {"x": torch.randn(4), "target": torch.randn(4)}
    report = backhand.check_function(Loss, lambda x, t: (x - t) ** 2, inputs, no_gradient=("target",))
    assert report.ok, str(report)


class Scaled(Function):
    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return x * w

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, w = ctx.saved_tensors
        return dy * w, dy * x


def scaled(x: Tensor, w: Tensor) -> Tensor:
    return x * w


INPUTS = {"x": torch.randn(4, 3), "w": torch.randn(4, 3)}


@pytest.mark.parametrize(("right", "kinds"), [(True, []), (False, ["forward_mode"])])
def test_a_jvp_is_judged_beside_the_reference(right: bool, kinds: list[str]) -> None:
    class WithTangents(Scaled):
        @staticmethod
        def jvp(ctx: Any, dx: Tensor, dw: Tensor) -> Tensor:
            x, w = ctx.saved_tensors
            return dx * w + (x * dw if right else 0)

    report = backhand.check_function(WithTangents, scaled, INPUTS)
    assert [m.kind for m in report.stress] == kinds
    assert "Tried besides: second derivatives, forward mode. Not tried: vmap" in report.notes[-1]


@pytest.mark.parametrize("mistake", ["none", "factor", "always along the first", "raises"])
def test_a_vmap_rule_is_judged_for_each_choice_of_what_is_batched(mistake: str) -> None:
    class Batched(Scaled):
        @staticmethod
        def vmap(info: Any, in_dims: tuple, x: Tensor, w: Tensor) -> tuple:
            if mistake == "raises" and None in in_dims:
                raise TypeError("a batch is expected of every input")
            if mistake == "always along the first":
                return Scaled.apply(x, w), 0
            first = [t if d is None else t.movedim(d, 0) for t, d in zip((x, w), in_dims, strict=True)]
            return Scaled.apply(*first) * (2 if mistake == "factor" else 1), 0

    report = backhand.check_function(Batched, scaled, INPUTS)
    assert [m.kind for m in report.stress] == ([] if mistake == "none" else ["vmap"])
    if mistake == "always along the first":
        assert "y for in_dims (-1, -1)" in report.stress[0].message
    if mistake == "raises":
        assert report.stress[0].message == (
            "under vmap it raises TypeError: a batch is expected of every input."
        )


def test_a_generated_vmap_rule_and_a_module_are_no_alarm() -> None:
    class Generated(Scaled):
        generate_vmap_rule = True

    report = backhand.check_function(Generated, scaled, INPUTS)
    assert report.ok, str(report)
    assert "Tried besides: second derivatives, vmap." in report.notes[-1]
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Dropout(0.5))
    report = backhand.check_function(module, module, {"x": torch.randn(5, 3)})
    assert report.ok
    assert "Tried besides: second derivatives. Not tried: forward mode, vmap" in report.notes[-1]
