"""A Function as a training job uses it: frozen inputs, unused outputs, two backwards, two calls."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import backhand


def softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


def saving(*, copied: bool) -> type[Function]:
    class Softmax(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.p = x.softmax(-1)
            return ctx.p.clone()

        @staticmethod
        @once_differentiable  # what is kept on ctx hides its own derivative
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            p = ctx.p.clone() if copied else ctx.p
            return p.mul_(dy - (dy * p).sum(-1, keepdim=True))

    return Softmax


@pytest.mark.parametrize("copied", [True, False])
def test_a_saved_buffer_that_is_overwritten_shows_in_a_second_backward(copied: bool) -> None:
    report = backhand.check_function(saving(copied=copied), softmax, {"x": torch.randn(4, 3)})
    assert [m.kind for m in report.stress] == ([] if copied else ["modifies_input"])
    if not copied:
        assert report.stress[0].message == "dx is wrong in a second backward on one graph."


class Remembering(Function):
    """Keeps what it saves on the class, where the next call overwrites it."""

    saved: Tensor

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Remembering.saved = x.detach()
        return x * x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return 2 * Remembering.saved * dy


def test_a_buffer_of_the_last_call_is_told() -> None:
    report = backhand.check_function(Remembering, lambda x: x * x, {"x": torch.randn(5)})
    assert [m.kind for m in report.stress] == ["shared_state"]


def scaling(index: int) -> type[Function]:
    class Scale(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            ctx.save_for_backward(x, w)
            return x * w

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple:
            x, w = ctx.saved_tensors
            needed = ctx.needs_input_grad
            return dy * w if needed[0] else None, dy * x if needed[index] else None

    return Scale


@pytest.mark.parametrize(("index", "kinds"), [(1, []), (0, ["frozen_input"])])
def test_the_wrong_index_of_needs_input_grad_shows_when_an_input_is_frozen(index: int, kinds: list) -> None:
    inputs = {"x": torch.randn(4, 3), "w": torch.randn(4, 3)}
    report = backhand.check_function(scaling(index), lambda x, w: x * w, inputs)
    assert [m.kind for m in report.stress] == kinds
    assert not report.culprits


def two(*, careful: bool) -> type[Function]:
    class Two(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> tuple:
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(x)
            return x.exp(), x.sin()

        @staticmethod
        def backward(ctx: Any, da: Tensor | None, db: Tensor | None) -> Tensor | None:
            (x,) = ctx.saved_tensors
            if da is None and not careful:
                return None
            a = da * x.exp() if da is not None else 0
            return a + (db * x.cos() if db is not None else 0)

    return Two


@pytest.mark.parametrize("careful", [True, False])
def test_an_output_that_is_not_used_must_not_take_the_others_along(careful: bool) -> None:
    report = backhand.check_function(
        two(careful=careful), lambda x: (x.exp(), x.sin()), {"x": torch.randn(5)}
    )
    assert [m.kind for m in report.stress] == ([] if careful else ["unused_output"])


class WithNone(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor) -> tuple:
        ctx.save_for_backward(x, target)
        return (x - target).square(), None

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: None) -> tuple:
        x, target = ctx.saved_tensors
        return 2 * (x - target) * dy, None


def difference(x: Tensor, target: Tensor) -> Tensor:
    return (x - target).square()


def test_a_trailing_none_among_the_outputs_is_no_output() -> None:
    inputs = {"x": torch.randn(4, 3), "target": torch.randn(4, 3)}
    with_target = backhand.check_function(WithNone, difference, inputs)
    assert [(row.name, row.mistake.kind) for row in with_target.culprits] == [("target", "zero")]
    assert backhand.check_function(WithNone, difference, inputs, no_gradient=("target",)).ok


def test_a_gradient_that_is_not_to_be_there_is_wrong() -> None:
    class Leaking(WithNone):
        @staticmethod
        def backward(ctx: Any, dy: Tensor, _: None) -> tuple:
            x, target = ctx.saved_tensors
            return 2 * (x - target) * dy, -2 * (x - target) * dy

    inputs = {"x": torch.randn(4, 3), "target": torch.randn(4, 3)}
    report = backhand.check_function(Leaking, difference, inputs, no_gradient=("target",))
    assert "it is to have no gradient, and has one" in report["target"].mistake.message
    assert not report.ok


class Dropout(Function):
    """Draws its mask in the order in which its input lies in memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.mask = (torch.rand_like(x) > p) / (1 - p)
        return x * ctx.mask

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return dy * ctx.mask, None


def dropout(x: Tensor, p: float) -> Tensor:
    return x * ((torch.rand_like(x) > p) / (1 - p))


def test_a_function_that_draws_numbers_is_compared_under_one_seed() -> None:
    report = backhand.check_function(Dropout, dropout, lambda g: [torch.randn(4, 6, generator=g), 0.3])
    assert report.ok, str(report)


class Quantised(Function):
    """A step learned with the values that it rounds, as in LSQ: straight through within the bounds."""

    @staticmethod
    def forward(ctx, x, step):
        assert step > 0, step
        ctx.save_for_backward(x, step)
        return (x / step).round().clamp(-4, 3) * step

    @staticmethod
    def backward(ctx, dy):
        x, step = ctx.saved_tensors
        scaled = x / step
        inside = (scaled >= -4) & (scaled <= 3)
        dstep = torch.where(inside, scaled.round() - scaled, scaled.clamp(-4, 3))
        return dy * inside, 0.1 * (dy * dstep).sum()


def quantised(x, step):
    scaled_step = 0.1 * step + (0.9 * step).detach()
    scaled = (x / scaled_step).clamp(-4, 3)
    return (scaled + (scaled.round() - scaled).detach()) * scaled_step


def steps(g):
    return {"x": torch.randn(6, 4, generator=g), "step": 0.2 + 0.2 * torch.rand((), generator=g)}


def test_another_call_is_made_with_inputs_that_are_inputs_still() -> None:
    report = backhand.check_function(Quantised, quantised, steps)
    assert not any("called once more" in failure.message for failure in report.stress), report


def test_second_derivatives_that_are_those_of_the_functions_own_gradients_are_no_alarm() -> None:
    # the reference scales the gradient of the step once, its second derivatives would have it twice
    report = backhand.check_function(Quantised, quantised, steps)
    assert report.ok, report
    assert "second derivatives" in report.notes[-1]


class Scaled(Function):
    @staticmethod
    def forward(ctx, x, width):
        ctx.save_for_backward(x / width)
        return x / width

    @staticmethod
    def backward(ctx, dy):
        return None, -(dy * ctx.saved_tensors[0] / 2.0).sum()


def test_an_input_is_not_frozen_where_no_other_has_a_gradient() -> None:
    def inputs(g):
        return {"x": torch.randn(5, generator=g), "width": torch.tensor(2.0)}

    report = backhand.check_function(
        lambda x, width: Scaled.apply(x.detach(), width),
        lambda x, width: x.detach() / width,
        inputs,
        no_gradient=("x",),
    )
    assert report.ok, report


class ByHand(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.softmax(-1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return y * (dy - (dy * y).sum(-1, keepdim=True))


def test_second_derivatives_that_are_zero_but_for_rounding_are_no_alarm() -> None:
    def scores(x: Tensor, bias: Tensor) -> Tensor:
        return x @ (x + bias).T  # a softmax takes no notice of what is the same in a row

    report = backhand.check_function(
        lambda x, bias: F.dropout(ByHand.apply(scores(x, bias)), 0.3) @ x,
        lambda x, bias: F.dropout(scores(x, bias).softmax(-1), 0.3) @ x,
        lambda g: {"x": torch.randn(4, 3, generator=g), "bias": torch.randn(3, generator=g)},
    )
    assert report.stress == ()
    assert report["bias"].verdict == "vacuous"
