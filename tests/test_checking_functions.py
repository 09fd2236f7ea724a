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


def into_one_row(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    dx = torch.zeros_like(x)
    dx[0] = (g * w).sum(0)
    return dx, g * x


def noisy(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    return g * w + 1e-3 * torch.randn_like(g), g * x


BUGS = {
    "a non-contiguous upstream gradient": (strided, {}, {"layout"}),
    "view on whatever comes": (lambda g, x, w: (g.view(-1).view(6, 5) * w, g * x), {}, {"layout"}),
    "written into the upstream gradient": (lambda g, x, w: (g * w, g.mul_(x)), {}, {"modifies_input"}),
    "written into a saved input": (lambda g, x, w: (g * w, x.mul_(g)), {}, {"modifies_input"}),
    "the first element of the upstream only": (
        first,
        {"x": "ignores_upstream", "w": "ignores_upstream"},
        {"ignores_upstream"},
    ),
    "no upstream at all": (
        lambda g, x, w: (w + 0, x + 0),
        {"x": "wrong_upstream", "w": "wrong_upstream"},
        {"ignores_upstream"},
    ),
    "None for the weight": (lambda g, x, w: (g * w, None), {"w": "zero"}, set()),
    "the tail block dropped": (tail, {"x": "partial"}, set()),
    "all rows written to row 0": (into_one_row, {"x": "partial"}, set()),
    "one row of the upstream for all": (lambda g, x, w: (g[:1] * w, g * x), {"x": "ignores_upstream"}, set()),
    "the size of the upstream only": (
        lambda g, x, w: (g.abs() * w, g * x),
        {"x": "ignores_upstream"},
        {"ignores_upstream"},
    ),
    "dropout's scale": (lambda g, x, w: (g * w * 0.3, g * x), {"x": "scale"}, set()),
    "a sign": (lambda g, x, w: (g * w, -g * x), {"w": "sign"}, set()),
    "a race": (noisy, {"x": "nondeterministic"}, {"nondeterministic"}),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_that_shipped_is_caught_and_named(name: str) -> None:
    backward, culprits, stress = BUGS[name]
    report = backhand.check_function(
        operation(backward), product, {"x": torch.randn(6, 5), "w": torch.randn(6, 5)}
    )
    assert not report.ok
    assert stress <= {m.kind for m in report.stress}
    assert {row.name: row.mistake.kind for row in report.culprits} == culprits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_dropped_tail_is_named_in_a_kernel_that_knows_its_own_dtype_only(dtype: torch.dtype) -> None:
    def kernel(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        assert x.dtype == dtype
        return operation(tail).apply(x, w)

    report = backhand.check_function(kernel, product, [torch.randn(6, 5, dtype=dtype) for _ in range(2)])
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("x", "partial")]
    assert report["x"].mistake.detail["where"] == {"axis": 0, "indices": [4, 5]}


def test_a_right_function_is_right_in_every_dtype() -> None:
    right = operation(lambda g, x, w: (g * w, g * x))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        report = backhand.check_function(
            right, product, [torch.randn(6, 5).to(dtype), torch.randn(6, 5).to(dtype)]
        )
        assert report.ok, str(report)
        assert [row.dtype for row in report.rows] == [str(dtype).removeprefix("torch.")] * 2


@pytest.mark.parametrize("knows_float64", [True, False])
def test_the_table_of_a_function_is_in_the_inputs_own_dtype_with_the_error_in_references(
    knows_float64: bool,
) -> None:
    def inner(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x @ w

    class Coarser(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            assert knows_float64 or x.dtype == torch.float32
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple:
            x, w = ctx.saved_tensors
            return (g * (1 + 3e-7 * (g.dtype == torch.float32))) @ w.T, x.T @ g

    inputs = [torch.randn(6, 5), torch.randn(5, 4)]
    report = backhand.check_function(Coarser, inner, inputs)
    assert report.ok, str(report)
    assert report.precision == ("float64" if knows_float64 else "float32")
    assert report["w"].multiple == 1
    assert report["x"].multiple > 1.5


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


def test_a_builtin_may_be_the_reference_though_it_does_not_tell_its_parameters() -> None:
    right = operation(lambda g, x, w: (g * w, g * x))
    report = backhand.check_function(right, torch.mul, [torch.randn(6, 5), torch.randn(6, 5)])
    assert [(row.name, row.verdict) for row in report.rows] == [("input0", "right"), ("input1", "right")]


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


@pytest.mark.parametrize(
    ("returned", "verdict", "kind"),
    [
        (lambda dw: dw.sum(), "wrong", "overreduced"),
        (lambda dw: dw.mean(0), "wrong", "overreduced"),
        (lambda dw: dw.flatten(), "shape", "shape"),
        (lambda dw: dw.T, "wrong", "transposed"),
    ],
)
def test_a_gradient_whose_shape_autograd_refuses_has_its_row_and_its_name(
    returned: Callable, verdict: str, kind: str
) -> None:
    bad = operation(lambda g, x, w: (g * w, returned(g * x)))
    report = backhand.check_function(bad, product, [torch.randn(6, 5), torch.randn(6, 5)])
    assert not report.ok
    assert {row.name: row.verdict for row in report.rows} == {"x": "right", "w": verdict}
    assert report["w"].mistake.kind == kind
    assert "invalid gradient at index 1" in report.raised.error


def test_a_backward_that_raises_has_the_rows_of_the_inputs() -> None:
    raising = operation(lambda g, x, w: (g @ w, g * x))
    report = backhand.check_function(raising, product, [torch.randn(6, 5), torch.randn(6, 5)])
    assert not report.ok
    assert [(row.gradient, row.verdict, row.shape) for row in report.rows] == [
        ("dx", "todo", (6, 5)),
        ("dw", "todo", (6, 5)),
    ]
    assert "mat1 and mat2 shapes cannot be multiplied" in report.raised.error
    assert report.raised.line.text == "raising = operation(lambda g, x, w: (g @ w, g * x))"
    assert report.precision == "float32"


def test_a_forward_that_raises_is_no_wrong_gradient() -> None:
    def raising(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        raise ValueError("no\nand more")

    values = [torch.randn(6, 5), torch.randn(6, 5)]
    weight = torch.randn(5, 3, requires_grad=True)

    def rows(i):
        return weight[i]

    with pytest.raises(
        CheckError, match=r"^no input of rows needs a gradient; expected a floating-point tensor"
    ):
        backhand.check_function(rows, rows, {"i": torch.tensor([0, 1, 1])})
    with pytest.raises(CheckError, match=r"^raising raised ValueError: no$"):
        backhand.check_function(raising, product, values)
    with pytest.raises(CheckError, match=r"^the reference raised ValueError: no$"):
        backhand.check_function(operation(tail), raising, values)


def test_a_refused_shape_is_told_of_the_right_argument_among_plain_ones() -> None:
    class Scaled(Function):
        @staticmethod
        def forward(ctx: Any, factor: float, x: torch.Tensor, frozen: torch.Tensor, w: torch.Tensor) -> Any:
            ctx.factor, ctx.w = factor, w
            return factor * x * w + frozen

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple:
            return None, (ctx.factor * g * ctx.w).flatten(), None, g

    x, w = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    inputs = {"factor": 1.5, "x": x, "frozen": torch.randn(4, 3), "w": w}
    report = backhand.check_function(
        Scaled, lambda factor, x, frozen, w: factor * x * w + frozen, inputs, draws=1
    )
    assert {row.name: row.verdict for row in report.rows} == {"x": "shape", "w": "wrong"}


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


def test_an_input_that_needs_no_gradient_is_not_asked_for_one() -> None:
    def fixed(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.batch_norm(x, mean, torch.ones_like(mean))  # refuses a gradient of mean

    wrong = operation(lambda g, x, w: ((g - g.mean(0)) * w, None))
    inputs = {"x": torch.randn(6, 5, requires_grad=True), "mean": torch.zeros(5)}
    report = backhand.check_function(
        lambda x, mean: wrong.apply(x, torch.full_like(x, (1 + 1e-5) ** -0.5)), fixed, inputs
    )
    assert [(row.name, row.mistake.kind) for row in report.rows] == [("x", "repeated_branch")]


def test_forwards_that_differ_are_refused() -> None:
    with pytest.raises(CheckError, match="different outputs"):
        backhand.check_function(
            operation(lambda g, x, w: (g, g)), lambda x, w: x + w, [torch.randn(3), torch.randn(3)]
        )


def test_one_of_several_ways_through_a_reference_is_found_by_its_factor() -> None:
    def reference(x: torch.Tensor) -> torch.Tensor:
        s = x.sin()
        return s * (s * s.exp()).cos()

    class Gate(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return reference(x)

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            s = x.sin()
            inner = s * s.exp()
            return g * (inner.cos() - 3 * s * inner.sin() * (s.exp() + inner)) * x.cos()

    (culprit,) = backhand.check_function(Gate, reference, [torch.randn(5)]).culprits
    assert culprit.mistake.kind == "scale"
    assert culprit.mistake.message.startswith("dx: one of the paths through y times 3.")
