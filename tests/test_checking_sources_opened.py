"""A custom Function in torch operations: the line at fault, and the mistake in it."""

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import backhand


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(4, 6, generator=generator), "w": torch.randn(6, generator=generator)}


def spelled_out(x: Tensor, w: Tensor) -> Tensor:
    mu = x.mean(-1, keepdim=True)
    var = (x - mu).square().mean(-1, keepdim=True)
    return (x - mu) / (var + 1e-5).sqrt() * w


def in_one_call(x: Tensor, w: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w)


class LayerNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        mu = x.mean(-1, keepdim=True)
        rstd = ((x - mu).square().mean(-1, keepdim=True) + 1e-5) ** -0.5
        xhat = (x - mu) * rstd
        ctx.save_for_backward(xhat, rstd, w)
        return xhat * w


class SumForMean(LayerNorm):
    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        xhat, rstd, w = ctx.saved_tensors
        g = dy * w
        c1 = g.mean(-1, keepdim=True)
        c2 = (g * xhat).sum(-1, keepdim=True)
        return rstd * (g - c1 - xhat * c2), (dy * xhat).sum(0)


@pytest.mark.parametrize("reference", [spelled_out, in_one_call])
def test_a_sum_for_a_mean_is_named_on_its_line_whatever_the_reference(reference: Any) -> None:
    report = backhand.check_function(SumForMean, reference, inputs)
    (row,) = report.culprits
    assert (row.name, row.mistake.kind) == ("x", "scale")
    assert row.lines[0].text == "c2 = (g * xhat).sum(-1, keepdim=True)"
    assert "sum where a mean belongs" in row.mistake.message


class Negated(LayerNorm):
    """Its locals are called like gradients and are none: they are undone before anything is returned."""

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        xhat, rstd, w = ctx.saved_tensors
        dxhat = -dy * w
        dw = (dy * xhat).sum(0)
        dx = rstd * (dxhat.mean(-1, keepdim=True) - dxhat)
        dx = dx + rstd * xhat * (dxhat * xhat).mean(-1, keepdim=True)
        return dx, dw


def test_names_inside_a_function_are_no_contract() -> None:
    report = backhand.check_function(Negated, in_one_call, inputs)
    assert report.ok
    assert [row.name for row in report.rows] == ["x", "w"]


class OnAttributes(Function):
    """What it keeps stands on `ctx`, what it returns in a variable, with None for a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, scale: float) -> Tensor:
        with torch.no_grad():
            ctx.gate = torch.sigmoid(x)
        ctx.save_for_backward(x, w)
        ctx.scale = scale
        return x * ctx.gate * w * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        dh = dy * w * ctx.scale
        grads = (dh * (ctx.gate + x * ctx.gate), (dy * x * ctx.gate * ctx.scale).sum(0), None)
        return grads


def silu(x: Tensor, w: Tensor, scale: float) -> Tensor:
    return F.silu(x) * w * scale


@pytest.mark.parametrize("reference", [silu, functools.partial(silu)])
def test_a_forward_that_hides_from_autograd_is_seen_through_its_reference(reference: Any) -> None:
    report = backhand.check_function(OnAttributes, reference, lambda g: inputs(g) | {"scale": 0.5})
    (row,) = report.culprits
    assert row.name == "x"
    assert row.lines[0].text.startswith("grads = ")
    assert not [note for note in report.notes if "No line" in note]


class Wrong(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()


made_of_text: dict[str, Any] = {}
exec("def backward(ctx, dy): return dy * ctx.saved_tensors[0]", made_of_text)


def twice(backward: Any) -> Any:
    @functools.wraps(backward)
    def more(ctx: Any, dy: Tensor) -> Tensor:
        return 2 * backward(ctx, dy)

    return more


class WithoutSource(Wrong):
    backward = staticmethod(made_of_text["backward"])


class Decorated(Wrong):
    @staticmethod
    @twice
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return dy * x.exp()


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (WithoutSource, "the source of its backward cannot be read"),
        (Decorated, "its statements, run one by one, do not give what it gives"),
        (lambda x: WithoutSource.apply(x), "it is no `torch.autograd.Function`"),
    ],
)
def test_a_function_that_cannot_be_opened_says_so(fn: Any, why: str) -> None:
    report = backhand.check_function(fn, torch.exp, [torch.randn(3, 4)])
    assert not report.ok
    assert report.rows[0].lines == ()
    assert any(note.startswith("No line is shown of ") and why in note for note in report.notes)


def test_apply_is_opened_as_its_function() -> None:
    report = backhand.check_function(SumForMean.apply, in_one_call, inputs)
    assert report.title == "SumForMean"
    assert report["x"].lines[0].text.startswith("c2 = ")


def test_a_line_that_spoils_two_gradients_is_one_culprit() -> None:
    report = backhand.check_function(Shared, spelled_affine, inputs)
    assert [row.lines[0].text for row in report.culprits] == ["g = dy * (1 - y)"]


def spelled_affine(x: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(x * w)


class Shared(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        y = torch.tanh(x * w)
        ctx.save_for_backward(x, w, y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, w, y = ctx.saved_tensors
        g = dy * (1 - y)
        return g * w, (g * x).sum(0)
