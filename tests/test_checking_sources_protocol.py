"""One pipeline: what is named of a Function is named of a pass, and scalars end it under any name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import Function

import backhand


def normalised(x: torch.Tensor) -> dict[str, Any]:
    y = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    return {"y": y, "inv_std": (x.var(0, correction=0) + 1e-5) ** -0.5}


def fixed(x: torch.Tensor) -> dict[str, Any]:
    scale = 1.5 + torch.arange(x.shape[1], dtype=x.dtype)
    return {"y": (x - 0.1) / scale, "inv_std": 1 / scale}


def of_fixed_statistics(dy: torch.Tensor, inv_std: torch.Tensor) -> dict[str, Any]:
    return {"dx": inv_std * dy}


def of_the_batch(dy: torch.Tensor, y: torch.Tensor, inv_std: torch.Tensor) -> dict[str, Any]:
    return {"dx": inv_std * (dy - dy.mean(0) - y * (dy * y).mean(0))}


def sized(g: torch.Tensor, inv_std: torch.Tensor) -> torch.Tensor:
    return (inv_std * g).abs() * inv_std.exp()


def shaken(g: torch.Tensor, inv_std: torch.Tensor) -> torch.Tensor:
    return inv_std * (g + 0.01 * torch.randn_like(g))


def of_the_size(dy: torch.Tensor, inv_std: torch.Tensor) -> dict[str, Any]:
    return {"dx": sized(dy, inv_std)}


def noisy(dy: torch.Tensor, inv_std: torch.Tensor) -> dict[str, Any]:
    return {"dx": shaken(dy, inv_std)}


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("forward", "backward", "kind"),
    [
        (normalised, of_fixed_statistics, "missing_branch"),
        (fixed, of_the_batch, "repeated_branch"),
        (fixed, of_the_size, "ignores_upstream"),
        (fixed, of_fixed_statistics, None),
        (normalised, of_the_batch, None),
    ],
)
def test_what_a_backward_does_names_its_mistake_in_a_pass_too(
    forward: Callable, backward: Callable, kind: str | None
) -> None:
    report = backhand.check(forward, backward, inputs={"x": torch.randn(8, 5)}, out="y")
    assert [row.mistake.kind for row in report.culprits] == ([kind] if kind else [])
    if kind in ("missing_branch", "repeated_branch"):
        assert report["x"].mistake.detail["axes"] == [0]


def test_a_pass_that_draws_numbers_in_its_backward_is_nondeterministic() -> None:
    report = backhand.check(fixed, noisy, inputs={"x": torch.randn(8, 5)}, out="y")
    assert [m.kind for m in report.stress] == ["nondeterministic"]


def half_square(x: torch.Tensor, target: torch.Tensor) -> dict[str, Any]:
    diff = x - target
    cost = 0.5 * diff.square().sum()
    return {"diff": diff, "cost": cost, "loss": cost}


def without_upstream(diff: torch.Tensor) -> dict[str, Any]:
    return {"ddiff": diff, "dx": diff.clone(), "dtarget": -diff}


def with_upstream(dcost: torch.Tensor, diff: torch.Tensor) -> dict[str, Any]:
    return {"ddiff": dcost * diff, "dx": dcost * diff, "dtarget": -dcost * diff}


@pytest.mark.parametrize("out", [None, "loss", "cost"])
def test_a_scalar_whose_upstream_is_not_asked_for_ends_the_pass_under_any_name(out: str | None) -> None:
    inputs = {"x": torch.randn(4, 3), "target": torch.randn(4, 3)}
    report = backhand.check(half_square, without_upstream, inputs=inputs, out=out)
    assert report.ok, str(report)
    x = torch.randn(4, 3, requires_grad=True)
    function = backhand.differentiable(half_square, without_upstream, out=out)
    (3 * function(x, torch.zeros(4, 3))).backward()
    assert torch.allclose(x.grad, 3 * x)


def test_a_scalar_whose_upstream_is_asked_for_has_a_random_one() -> None:
    def ignoring(dcost: torch.Tensor, diff: torch.Tensor) -> dict[str, Any]:
        return without_upstream(diff)

    inputs = {"x": torch.randn(4, 3), "target": torch.randn(4, 3)}
    assert backhand.check(half_square, with_upstream, inputs=inputs, out="cost").ok
    assert not backhand.check(half_square, ignoring, inputs=inputs, out="cost").ok


@pytest.mark.parametrize("out", ["diff", ("diff", "cost")])
def test_what_is_no_single_scalar_still_needs_its_upstream(out: Any) -> None:
    def alone(target: torch.Tensor) -> dict[str, Any]:
        return {"dx": torch.ones_like(target)}

    inputs = {"x": torch.randn(4, 3), "target": torch.randn(4, 3)}
    report = backhand.check(half_square, alone, inputs=inputs, out=out)
    assert "ignores_upstream" in {m.kind for m in report.stress}


def product(backward: Callable[..., Any]) -> Any:
    class Product(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            return x * w

    Product.backward = staticmethod(lambda ctx, g: backward(g, *ctx.saved_tensors))
    return Product


@pytest.mark.parametrize(("first", "second"), [("x", "y"), ("dy", "y"), ("y0", "out"), ("output", "dout")])
def test_an_input_is_judged_whatever_it_is_called(first: str, second: str) -> None:
    wrong = product(lambda g, x, w: (g * w, 17 * g))
    inputs = {first: torch.randn(4, 3), second: torch.randn(4, 3)}
    report = backhand.check_function(wrong, lambda x, w: x * w, inputs)
    assert [(row.name, row.verdict) for row in report.rows] == [(first, "right"), (second, "wrong")]


def test_each_of_several_outputs_is_told_from_inputs_of_its_name() -> None:
    class Both(Function):
        @staticmethod
        def forward(ctx: Any, y0: torch.Tensor, y1: torch.Tensor) -> Any:
            ctx.save_for_backward(y0, y1)
            return y0 * y1, y0 + y1

        @staticmethod
        def backward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> Any:
            y0, y1 = ctx.saved_tensors
            return a * y1 + b, a * y0 - b

    inputs = {"y0": torch.randn(5), "y1": torch.randn(5)}
    report = backhand.check_function(Both, lambda y0, y1: (y0 * y1, y0 + y1), inputs)
    assert {row.name: row.verdict for row in report.rows} == {"y0": "right", "y1": "wrong"}


@pytest.mark.parametrize(
    ("returned", "verdict"), [(None, "vacuous"), (torch.zeros, "vacuous"), (torch.ones, "wrong")]
)
def test_a_gradient_where_the_reference_has_none_is_wrong_unless_it_is_zero_or_none(
    returned: Callable | None, verdict: str
) -> None:
    leaking = product(lambda g, x, w: (g, returned and returned(g.shape, dtype=g.dtype)))
    shapes = {"x": torch.randn(4, 3), "teacher": torch.zeros(4, 3, requires_grad=True)}
    inputs = shapes | {"x": shapes["x"].requires_grad_()}

    class Leaking(leaking):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, teacher)
            return x.clone()

    report = backhand.check_function(Leaking, lambda x, teacher: x + 0, inputs)
    assert report["teacher"].verdict == verdict
    assert report["x"].verdict == "right"


def test_a_dropout_that_draws_its_mask_in_the_forward_is_no_alarm() -> None:
    class Dropout(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            mask = (torch.rand(x.shape) < 0.8) / 0.8
            ctx.save_for_backward(mask)
            return x * mask

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            return g * ctx.saved_tensors[0]

    report = backhand.check_function(
        Dropout, lambda x: x * ((torch.rand(x.shape) < 0.8) / 0.8), {"x": torch.randn(6, 5)}
    )
    assert report.ok, str(report)


def test_tensors_in_a_list_are_judged_and_probed_one_by_one() -> None:
    class Joined(Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return torch.cat([a, b])

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> Any:
            return g[:3], 2 * g[3:]

    inputs = {"parts": [torch.randn(3, 2), torch.randn(4, 2)]}
    report = backhand.check_function(lambda parts: Joined.apply(*parts), torch.cat, inputs)
    assert {row.name: row.verdict for row in report.rows} == {"parts[0]": "right", "parts[1]": "wrong"}
    assert report["parts[1]"].mistake.kind == "scale"
