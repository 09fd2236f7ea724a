"""A whole backward under stress: every layout, a budget of rounding, the formula of the other mode."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

import backhand
from altered import altered
from backhand.passes import used_twice
from kernels import first, operation, product


@pytest.mark.parametrize(("units", "right"), [(4, True), (25, False)])
def test_the_error_in_the_inputs_own_dtype_has_a_budget_of_a_few_units_of_rounding(
    units: int, right: bool
) -> None:
    class Rounded(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple:
            x, w = ctx.saved_tensors
            lost = units * torch.finfo(g.dtype).eps if g.dtype == torch.float32 else 0.0
            return g @ w.T * (1 + lost), x.T @ g

    inputs = [torch.randn(6, 5), torch.randn(5, 4)]
    report = backhand.check_function(Rounded, lambda x, w: x @ w, inputs)
    assert report.ok == right, str(report)
    assert [m.kind for m in report.stress] == ([] if right else ["dtype"])
    if not right:
        assert report.stress[0].message.startswith("d")
        assert units / 2 < report.stress[0].detail["multiple"] < 2 * units


def contiguous_only(g: torch.Tensor) -> torch.Tensor:
    return g.as_strided(g.shape, torch.empty(g.shape).stride(), g.storage_offset())


def without_its_offset(g: torch.Tensor) -> torch.Tensor:
    return g.as_strided(g.shape, g.stride(), 0)


def with_an_inner_stride_of_1(g: torch.Tensor) -> torch.Tensor:
    inner = min(g.stride()) or 1
    return g.as_strided(g.shape, [s // inner for s in g.stride()], g.storage_offset())


def without_strides_of_0(g: torch.Tensor) -> torch.Tensor:
    return g if all(g.stride()) else g.as_strided(g.shape, [1] * g.dim(), g.storage_offset())


@pytest.mark.parametrize(
    ("read", "layout"),
    [
        (contiguous_only, "transposed"),
        (with_an_inner_stride_of_1, "strided"),
        (without_its_offset, "offset"),
        (without_strides_of_0, "expanded"),
        (lambda g: g, None),
    ],
)
@pytest.mark.parametrize("of", ["dy", "w"])
def test_each_layout_is_tried_and_told(read: Callable, layout: str | None, of: str) -> None:
    def backward(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
        return (read(g) if of == "dy" else g) * (read(w) if of == "w" else w), g * x

    inputs = {"x": torch.randn(6, 5), "w": torch.randn(6, 5)}
    report = backhand.check_function(operation(backward), product, inputs)
    told = [(m.kind, m.detail["layout"]) for m in report.stress]
    if of == "w" and layout == "expanded":  # only an upstream gradient comes expanded
        layout = None
    assert told == ([("layout", layout)] if layout else [])
    assert not report.culprits
    assert report.ok == (layout is None)
    if layout:
        assert report.stress[0].message.startswith(f"a {layout} {of}")


@pytest.mark.parametrize(
    ("shape", "layout"), [((2, 3, 4), "permuted"), ((2, 3, 4, 5), "permuted"), ((2, 3, 4, 5, 2), None)]
)
def test_an_order_of_the_axes_in_memory_that_a_kernel_takes_for_granted_is_told(
    shape: tuple[int, ...], layout: str | None
) -> None:
    def in_order(g: torch.Tensor) -> torch.Tensor:
        return contiguous_only(g) if g.stride(-3) < g.stride(-2) else g

    def backward(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
        return (in_order(g) if layout else g) * w, g * x

    inputs = {"x": torch.randn(shape), "w": torch.randn(shape)}
    report = backhand.check_function(operation(backward), product, inputs)
    assert [m.detail["layout"] for m in report.stress] == ([layout] if layout else [])


@pytest.mark.parametrize("layout", ["channels_last", "channels_last_3d"])
def test_channels_that_lie_last_are_tried(layout: str) -> None:
    last = getattr(torch, layout)
    shape = (2, 3, 4, 5, 2)[: 5 if layout.endswith("3d") else 4]

    def backward(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
        return (-g if g.is_contiguous(memory_format=last) else g) * w, g * x

    report = backhand.check_function(
        operation(backward), product, {"x": torch.randn(shape), "w": torch.randn(shape)}
    )
    assert [(m.detail["argument"], m.detail["layout"]) for m in report.stress] == [("dy", layout)]


def test_a_function_that_reads_one_element_of_its_upstream_says_so_on_each_row() -> None:
    report = backhand.check_function(operation(first), product, [torch.randn(6, 5), torch.randn(6, 5)])
    assert [row.mistake.kind for row in report.culprits] == ["ignores_upstream", "ignores_upstream"]
    assert report["x"].mistake.message.startswith("dx: only the first element of dy is read")


def batch_norm(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    return (x - mean) / (variance + 1e-5).sqrt()


def in_training(x: torch.Tensor) -> torch.Tensor:
    return batch_norm(x, x.mean(0), x.var(0, correction=0))


def in_evaluation(x: torch.Tensor) -> torch.Tensor:
    columns = torch.arange(x.shape[1], dtype=x.dtype)
    return batch_norm(x, 0.1 * columns, 0.5 + columns)


def training_formula(g: torch.Tensor, y: torch.Tensor, inv_std: torch.Tensor) -> torch.Tensor:
    return inv_std * (g - g.mean(0) - y * (g * y).mean(0))


def evaluation_formula(g: torch.Tensor, y: torch.Tensor, inv_std: torch.Tensor) -> torch.Tensor:
    return inv_std * g


def normalising(reference: Callable, formula: Callable) -> type[Function]:
    class Norm(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            y = reference(x)
            ctx.save_for_backward(y, (y[0] - y[1]) / (x[0] - x[1]))
            return y

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            return formula(g, *ctx.saved_tensors)

    return Norm


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("reference", "formula", "kind"),
    [
        (in_training, evaluation_formula, "missing_branch"),
        (in_evaluation, training_formula, "repeated_branch"),
        (in_training, training_formula, None),
        (in_evaluation, evaluation_formula, None),
    ],
)
def test_the_formula_of_the_other_mode_is_named(reference: Callable, formula: Callable, kind: str) -> None:
    report = backhand.check_function(normalising(reference, formula), reference, {"x": torch.randn(8, 5)})
    assert [row.mistake.kind for row in report.culprits] == ([kind] if kind else [])
    if kind:
        assert report["x"].mistake.detail["axes"] == [0]
        assert "along axis 0" in report["x"].mistake.message


def test_a_right_backward_that_needs_one_element_only_is_no_alarm() -> None:
    def forward(x):
        y = x.relu()
        return locals()

    def backward(dy, x):
        dx = dy * (x > 0)
        return locals()

    def first(dy, x):
        dx = dy[:1] * (x > 0)
        return locals()

    positive_first = {"x": torch.tensor([1.0, -2.0, -3.0])}
    assert backhand.check(forward, backward, inputs=positive_first, out="y").ok
    report = backhand.check(forward, first, inputs={"x": torch.tensor([1.0, 2.0, -3.0])}, out="y")
    assert [failed.kind for failed in report.stress] == ["ignores_upstream"]


@pytest.mark.seconds
def test_of_several_gradients_that_are_not_linear_the_message_speaks_in_the_plural() -> None:
    wrong = altered(used_twice, ("q * dy + dq", "torch.tanh(q * dy) + dq.exp()"))
    (culprit,) = backhand.check(wrong).culprits
    assert culprit.mistake is not None
    assert culprit.mistake.message.startswith(
        "dp: da, db, dp do not become -2 times themselves when the upstream gradient dy is multiplied by -2."
    )


class Bounded(Function):
    """Lets a gradient through below the bound where that moves x up, as its reference does: not linear."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0.0)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return dy * ((x >= 0) | (dy < 0))


class BoundedToo(Bounded):
    pass


def test_what_is_as_little_linear_in_its_reference_is_so_on_purpose() -> None:
    inputs = {"x": torch.randn(6)}
    assert backhand.check_function(Bounded, BoundedToo.apply, inputs).ok
    failed = backhand.check_function(Bounded, torch.relu, inputs).stress
    assert [failure.kind for failure in failed] == ["ignores_upstream"]


def test_a_layout_that_the_reference_does_not_take_either_is_left_untried() -> None:
    def flat(x: Tensor) -> Tensor:
        return x.view(-1).sin()

    report = backhand.check_function(lambda x: x.view(-1).sin(), flat, {"x": torch.randn(4, 3)})
    assert report.ok
    assert "a transposed x (the reference does not take it)" in report.notes[-1]
    refused = backhand.check_function(
        lambda x: x.view(-1).sin(), lambda x: x.reshape(-1).sin(), {"x": torch.randn(4, 3)}
    )
    assert [failure.kind for failure in refused.stress] == ["layout"]
