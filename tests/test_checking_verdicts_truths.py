"""Code that computes in less than float64: right in its own precision, and wrong by a factor that shows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

import backhand
from backhand.errors import CheckError


class Normalised(Function):
    """RMS norm in float32, whatever it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        wide, gain = x.float(), w.float()
        inv_rms = (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        ctx.save_for_backward(wide * inv_rms, gain, inv_rms)
        return (wide * inv_rms * gain).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        xhat, gain, inv_rms = ctx.saved_tensors
        dxhat = dy.float() * gain
        dx = inv_rms * (dxhat - xhat * (dxhat * xhat).mean(-1, keepdim=True))
        return dx.to(dy.dtype), (dy.float() * xhat).sum(0).to(dy.dtype)


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w


def rows(generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(7, 6, generator=generator), "w": torch.randn(6, generator=generator)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_kernel_in_float32_is_right_for_inputs_of_any_dtype(dtype: torch.dtype) -> None:
    report = backhand.check_function(
        Normalised, rms_norm, lambda g: {n: v.to(dtype) for n, v in rows(g).items()}
    )
    assert report.ok, str(report)
    assert report.precision == "float32"
    assert [row.verdict for row in report.rows] == ["right", "right"]
    assert any("as precise as float32" in note for note in report.notes)


def silu(factor: float, only: torch.dtype) -> type[Function]:
    class Silu(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            assert x.dtype == only
            ctx.save_for_backward(x)
            return F.silu(x.float()).to(only)

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            x = ctx.saved_tensors[0].float()
            s = x.sigmoid()
            return (factor * dy.float() * s * (1 + x * (1 - s))).to(only)

    return Silu


@pytest.mark.parametrize(
    ("only", "factor"), [(torch.float32, 1.01), (torch.float16, 1.01), (torch.bfloat16, 1.05)]
)
def test_a_wrong_factor_is_told_by_many_elements_together(only: torch.dtype, factor: float) -> None:
    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.randn(2000, generator=generator).to(only)}

    assert backhand.check_function(silu(1.0, only), F.silu, inputs).ok
    (culprit,) = backhand.check_function(silu(factor, only), F.silu, inputs).culprits
    assert culprit.mistake.kind == "scale"
    assert culprit.mistake.detail["factor"] == pytest.approx(factor, rel=2e-3)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class Rounded(Function):
    """A GELU whose constants have eight digits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return 0.5 * x * (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        t = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.79788456 * (1 + 3 * 0.044715 * x * x))


@pytest.mark.parametrize("seed", range(3))
def test_a_constant_of_eight_digits_is_no_mistake(seed: int) -> None:
    report = backhand.check_function(
        Rounded, gelu, lambda g: {"x": torch.randn(6, 50, generator=g)}, seed=seed
    )
    assert report.ok, str(report)
    assert report.precision == "float32"


def test_a_forward_that_is_off_by_more_than_its_precision_is_refused() -> None:
    with pytest.raises(CheckError, match="different outputs"):
        backhand.check_function(Rounded, F.gelu, {"x": torch.randn(6, 50)})


def softplus_backward(ctx: Any, dy: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return dy * x.exp() / (1 + x.exp())


def test_what_overflows_in_the_callers_dtype_is_not_finite_and_wrong() -> None:
    softplus = elementwise(F.softplus, softplus_backward)
    (culprit,) = backhand.check_function(softplus, F.softplus, [torch.tensor([-1.0, 0.5, 100.0])]).culprits
    assert culprit.mistake.kind == "nonfinite"
    assert "[2] in torch.float32" in culprit.mistake.message
    assert backhand.check_function(softplus, F.softplus, [torch.tensor([-1.0, 0.5, 3.0])]).ok


def elementwise(forward: Callable[[Tensor], Any], backward: Callable[..., Any]) -> type[Function]:
    class Elementwise(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Any:
            ctx.save_for_backward(x)
            return forward(x)

    Elementwise.backward = staticmethod(backward)
    return Elementwise


class OneFeature(Function):
    """Layer norm of a single feature, whose gradient is exactly zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x - x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return torch.zeros_like(dy)


def test_a_truth_that_is_rounding_alone_is_vacuous() -> None:
    report = backhand.check_function(OneFeature, lambda x: F.layer_norm(x, (1,)), {"x": torch.randn(5, 1)})
    assert report.ok, str(report)
    assert report["x"].verdict == "vacuous"


def test_the_caller_may_say_in_which_dtype_and_how_exactly() -> None:
    def coarse(ctx: Any, dy: Tensor) -> Tensor:
        return (2.004 * ctx.saved_tensors[0] * dy).to(dy.dtype)

    square = elementwise(torch.square, coarse)
    inputs = {"x": torch.randn(50)}
    assert not backhand.check_function(square, torch.square, inputs).ok
    assert backhand.check_function(square, torch.square, inputs, rtol=1e-2).ok
    assert not backhand.check_function(square, torch.square, inputs, rtol=1e-3).ok
    report = backhand.check_function(square, torch.square, inputs, dtype=torch.bfloat16)
    assert report.precision == "bfloat16"
    assert not report.culprits
