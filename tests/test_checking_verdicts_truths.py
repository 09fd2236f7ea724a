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


def ten_bits(x: Tensor, *, half: int) -> Tensor:
    """What tensor cores read of a float32: cut off after ten bits of the mantissa, or rounded."""
    return ((x.float().contiguous().view(torch.int32) + half) & ~0x1FFF).view(torch.float32)


COARSE: dict[str, Callable[[Tensor], Tensor]] = {
    "TF32, cut off": lambda x: ten_bits(x, half=0),
    "TF32, rounded": lambda x: ten_bits(x, half=0x1000),
    "bfloat16": lambda x: x.bfloat16().float(),
}


def attention(coarse: Callable[[Tensor], Tensor], factor: float) -> type[Function]:
    """Causal attention with its probabilities made anew, each product of matrices of what is left of them."""

    def times(a: Tensor, b: Tensor) -> Tensor:
        return coarse(a) @ coarse(b)

    def masked(scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)

    class Attention(Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            scores = masked(times(q, k.mT) * q.shape[-1] ** -0.5)
            lse = scores.logsumexp(-1, keepdim=True)
            o = times((scores - lse).exp(), v)
            ctx.save_for_backward(q, k, v, o, lse)
            return o.to(q.dtype)

        @staticmethod
        def backward(ctx: Any, do: Tensor) -> tuple[Tensor, ...]:
            q, k, v, o, lse = ctx.saved_tensors
            p = (masked(times(q, k.mT) * q.shape[-1] ** -0.5) - lse).exp()
            dp = times(do, v.mT) - (o * do).sum(-1, keepdim=True)
            dscores = factor * p * dp * q.shape[-1] ** -0.5
            return tuple(g.to(do.dtype) for g in (times(dscores, k), times(dscores.mT, q), times(p.mT, do)))

    return Attention


@pytest.mark.parametrize("coarse", COARSE)
def test_code_that_computes_in_less_than_its_dtype_is_judged_by_its_own_error(coarse: str) -> None:
    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.randn(2, 65, 32, generator=generator) for name in "qkv"}

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    report = backhand.check_function(attention(COARSE[coarse], 1.0), plain, inputs)
    assert report.ok, str(report)
    assert any("computes in less than float32" in note for note in report.notes)
    culprit, *_ = backhand.check_function(attention(COARSE[coarse], 1.1), plain, inputs).culprits
    assert culprit.mistake.kind == "scale"
    assert culprit.mistake.detail["factor"] == pytest.approx(1.1, rel=1e-2)
    with pytest.raises(CheckError, match="different outputs"):
        backhand.check_function(attention(COARSE[coarse], 1.0), lambda q, k, v: 1.03 * plain(q, k, v), inputs)


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


def test_outputs_too_are_compared_as_exactly_as_the_caller_says() -> None:
    inputs = {"x": torch.rand(50) + 1}
    square = elementwise(lambda x: 1.002 * x.square(), lambda ctx, dy: 2.004 * ctx.saved_tensors[0] * dy)
    with pytest.raises(CheckError, match="different outputs"):
        backhand.check_function(square, torch.square, inputs)
    assert backhand.check_function(square, torch.square, inputs, rtol=1e-2).ok


class OfAnotherShape(Function):
    """A product in float32, whose gradient of the factor has no axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x.exp() * w

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        e = x.float().exp().to(x.dtype)
        return dy * e * w, (dy * x.exp()).sum()


def test_what_autograd_refuses_makes_no_rounding_a_mistake() -> None:
    inputs = {"x": torch.randn(5, 6), "w": torch.randn(1)}
    report = backhand.check_function(OfAnotherShape, lambda x, w: x.exp() * w, inputs)
    assert [row.name for row in report.culprits] == ["w"], str(report)
    assert report["w"].mistake.kind == "shape"


def relu(at_zero: float, factor: float = 1.0) -> type[Function]:
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return factor * dy * torch.where(x == 0, at_zero, (x > 0).to(dy.dtype))

    return elementwise(F.relu, backward)


@pytest.mark.parametrize(
    ("at_zero", "factor", "is_right"),
    [
        (0.0, 1.0, True),
        (1.0, 1.0, True),
        (0.5, 1.0, True),
        (2.0, 1.0, False),
        (-0.1, 1.0, False),
        (1.0, 1.5, False),
    ],
)
def test_at_a_kink_any_slope_between_its_sides_is_right(
    at_zero: float, factor: float, is_right: bool
) -> None:
    inputs = {"x": torch.tensor([[0.0, 1.0, -1.0], [0.0, 0.0, 2.0]])}
    report = backhand.check_function(relu(at_zero, factor), F.relu, inputs)
    assert report.ok == is_right, str(report)
    assert any("at a kink" in note for note in report.notes) == (at_zero != 0)


def test_where_the_output_jumps_too_there_is_no_slope_to_choose() -> None:
    def kept(x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask > 0, x, 0.0)

    class Kept(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
            return kept(x, mask)

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
            return dy, None

    inputs = {"x": torch.randn(4, 6), "mask": (torch.rand(4, 6) > 0.5).float()}
    assert [row.name for row in backhand.check_function(Kept, kept, inputs).culprits] == ["x"]


def last_of_equals(ctx: Any, dy: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    last = x.shape[-1] - 1 - x.flip(-1).argmax(-1)
    return torch.zeros_like(x).scatter(-1, last[:, None], dy[:, None])


def test_of_several_largest_any_may_get_the_gradient() -> None:
    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.randint(0, 4, (6, 7), generator=generator).float()}

    def plain(x: Tensor) -> Tensor:
        return x.max(-1).values

    report = backhand.check_function(elementwise(plain, last_of_equals), plain, inputs)
    assert report.ok, str(report)
    twice = elementwise(plain, lambda ctx, dy: 2 * last_of_equals(ctx, dy))
    assert not backhand.check_function(twice, plain, inputs).ok


def test_what_computes_in_less_than_float32_is_judged_in_the_dtype_of_its_inputs() -> None:
    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.randn(2, 65, 32, generator=generator).bfloat16() for name in "qkv"}

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    report = backhand.check_function(attention(COARSE["TF32, cut off"], 1.0), plain, inputs)
    assert report.ok, str(report)
    assert report.precision == "bfloat16"


class InBFloat16(Function):
    """A product in bfloat16 whose backward can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return (x.bfloat16() @ w.bfloat16()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, w = (saved.bfloat16() for saved in ctx.saved_tensors)
        return (dy.bfloat16() @ w.T).to(dy.dtype), (x.T @ dy.bfloat16()).to(dy.dtype)


def test_second_derivatives_too_are_as_coarse_as_the_code() -> None:
    inputs = {"x": torch.randn(32, 24), "w": torch.randn(24, 16)}
    report = backhand.check_function(InBFloat16, torch.matmul, inputs)
    assert report.ok, str(report)
    assert any("Tried besides: second derivatives" in note for note in report.notes)


def test_a_reference_may_compute_in_less_as_well() -> None:
    def left(x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x + (COARSE["TF32, cut off"](x) - x).detach()

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(left(q), left(k), left(v), is_causal=True)

    inputs = {name: torch.randn(2, 65, 32) for name in "qkv"}
    report = backhand.check_function(attention(COARSE["TF32, rounded"], 1.0), plain, inputs)
    assert not report.culprits, str(report)


def test_zeros_that_a_mask_leaves_are_no_kink() -> None:
    def masked(x: Tensor, mask: Tensor) -> Tensor:
        return x * mask.detach()

    inputs = {"x": torch.randn(4, 6), "mask": (torch.rand(4, 6) > 0.5).float()}
    doubled = elementwise(lambda x: x, lambda ctx, dy: 2 * dy)
    report = backhand.check_function(lambda x, mask: doubled.apply(x) * mask.detach(), masked, inputs)
    assert [row.name for row in report.culprits] == ["x"]
    assert not any("kink" in note for note in report.notes)
