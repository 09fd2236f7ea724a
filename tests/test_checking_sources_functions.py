"""Kernels that shipped wrong, in a few lines each: every one is caught and named."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function

import backhand
from backhand.errors import CheckError
from kernels import first, operation, product


def strided(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    rows = torch.as_strided(g, g.shape, (g.shape[1], 1))
    return rows * w, rows * x


def tail(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    dx = g * w
    dx[4:] = 0
    return dx, g * x


def into_one_row(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    dx = torch.zeros_like(x)
    dx[0] = (g * w).sum(0)
    return dx, g * x


def noisy(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple:
    return g * w + 1e-3 * torch.randn_like(g), g * x


HERE = Path(__file__).name
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
    assert not any(
        row.mistake.message.startswith(f"{row.gradient}: {row.gradient} ") for row in report.culprits
    )
    told = [row.gradient for row in report.culprits if "no_gradient=" in row.mistake.hint]
    assert told == ["dw"] * (name == "None for the weight")


class Gated(Function):
    """Writes its gradients into what it has saved, as kernels do; no version tells of it."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return torch.sigmoid(a) * b

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple:
        a, b = ctx.saved_tensors
        s = torch.sigmoid(a)
        da, db = 1.05 * g * b * s * (1 - s), g * s
        a.data.copy_(da)
        b.data.copy_(db)
        return a, b


def test_a_factor_is_named_where_gradients_are_written_into_what_was_saved() -> None:
    inputs = {"a": torch.randn(6, 5), "b": torch.randn(6, 5)}
    report = backhand.check_function(Gated, lambda a, b: torch.sigmoid(a) * b, inputs)
    assert {row.name: row.mistake.kind for row in report.culprits} == {"a": "scale"}
    assert [m.kind for m in report.stress] == ["modifies_input"] * 2


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


def test_a_builtin_may_be_the_reference_though_it_does_not_tell_its_parameters() -> None:
    right = operation(lambda g, x, w: (g * w, g * x))
    report = backhand.check_function(right, torch.mul, [torch.randn(6, 5), torch.randn(6, 5)])
    assert [(row.name, row.verdict) for row in report.rows] == [("input0", "right"), ("input1", "right")]


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
    with pytest.raises(CheckError, match=rf"^raising raised ValueError: no \({HERE}, line \d+: `raise"):
        backhand.check_function(raising, product, values)
    with pytest.raises(CheckError, match=rf"^the reference raised ValueError: no \({HERE}, line"):
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


def test_an_input_that_needs_no_gradient_is_not_asked_for_one() -> None:
    def fixed(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.batch_norm(x, mean, torch.ones_like(mean))  # refuses a gradient of mean

    wrong = operation(lambda g, x, w: ((g - g.mean(0)) * w, None))
    inputs = {"x": torch.randn(6, 5, requires_grad=True), "mean": torch.zeros(5)}
    report = backhand.check_function(
        lambda x, mean: wrong.apply(x, torch.full_like(x, (1 + 1e-5) ** -0.5)), fixed, inputs
    )
    assert [(row.name, row.mistake.kind) for row in report.rows] == [("x", "repeated_branch")]


def adding_up_in_any_order(inside: torch.dtype | None, lost: float = 0.0) -> Any:
    """Return a scale whose gradient is added up row by row in another order each time, as atomics do."""
    turns = random.Random(4)

    def backward(g: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = list((g * x).to(inside or g.dtype))
        turns.shuffle(rows)
        total = torch.zeros_like(rows[0])
        for row in rows:
            total = total + row
        return g * w, (total - lost * rows[0]).to(g.dtype)

    class Scale(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x, w)
            return (x.to(inside or x.dtype) * w.to(inside or x.dtype)).to(x.dtype)

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return backward(g, *ctx.saved_tensors)

    return Scale


@pytest.mark.parametrize("inside", [None, torch.float32, torch.bfloat16])
def test_what_differs_from_run_to_run_by_rounding_alone_is_no_fault_and_said(
    inside: torch.dtype | None,
) -> None:
    drawn = {"x": torch.randn(33, 7), "w": torch.randn(7)}
    inputs = {n: v.to(inside or v.dtype) for n, v in drawn.items()}
    report = backhand.check_function(adding_up_in_any_order(inside), lambda x, w: x * w, inputs)
    assert report.ok
    assert any(note == "Two runs give different dw, by rounding alone." for note in report.notes)


@pytest.mark.parametrize("inside", [None, torch.float32, torch.bfloat16])
def test_what_differs_by_more_is_that_whatever_one_run_looks_like(inside: torch.dtype | None) -> None:
    drawn = {"x": torch.randn(33, 7), "w": torch.randn(7)}
    inputs = {n: v.to(inside or v.dtype) for n, v in drawn.items()}
    report = backhand.check_function(adding_up_in_any_order(inside, lost=1.0), lambda x, w: x * w, inputs)
    assert [m.message for m in report.stress] == ["two runs give different dw, by more than rounding."]
    assert report["w"].mistake.kind == "nondeterministic"


def test_a_factor_that_is_fitted_to_rounding_is_none() -> None:
    lost = 0.008 * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0]) - 0.01

    def unreadable(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return g, g.sum(0) * (1 + lost.to(g.dtype))

    class Shift(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (x.bfloat16() + b.bfloat16()).to(x.dtype)

        backward = staticmethod(partial(unreadable))

    inputs = {"x": torch.randn(33, 8), "b": torch.randn(8)}
    report = backhand.check_function(Shift, lambda x, b: x + b, inputs)
    assert (report["b"].verdict, report["b"].mistake.kind) == ("wrong", "dtype")


class TwoOutputs(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(x, w)
        return x * w, x.sum(0)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor, dtotal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, w = ctx.saved_tensors
        return dy * w + dtotal, (dy * x).sum(0)


def test_a_shape_that_autograd_refuses_is_told_beside_an_output_that_nobody_uses() -> None:
    inputs = {"x": torch.randn(3, 4), "w": torch.randn(3, 4)}
    report = backhand.check_function(lambda x, w: TwoOutputs.apply(x, w)[0], product, inputs)
    assert [(row.name, row.verdict) for row in report.rows] == [("x", "right"), ("w", "wrong")]
    assert report["w"].mistake.kind == "overreduced"


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
    assert culprit.mistake.message.startswith(
        "dx: one of the paths through y times 3: the factor `3` is one too many."
    )


def turning(slope: float) -> type[Function]:
    class Turn(Function):
        @staticmethod
        def forward(ctx: Any, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(z, x)
            return z * x

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            z, x = ctx.saved_tensors
            return slope * g * x, (g * z.conj()).real

    return Turn


def test_complex_tensors_are_judged_by_their_real_and_imaginary_parts() -> None:
    inputs = {"z": torch.randn(4, dtype=torch.complex64), "x": torch.randn(4)}
    report = backhand.check_function(turning(1.0), torch.mul, inputs)
    assert report.ok
    assert [(row.name, row.shape) for row in report.rows] == [("z", (4, 2)), ("x", (4,))]
    wrong = backhand.check_function(turning(7.0), torch.mul, inputs)
    assert [culprit.name for culprit in wrong.culprits] == ["z"]


class Rows(Function):
    @staticmethod
    def forward(ctx: Any, w: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(i)
        ctx.size = w.shape
        return w[i]

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        (i,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(i[None], g, ctx.size, check_invariants=True), None


def test_a_sparse_gradient_is_judged_by_its_numbers() -> None:
    inputs = {"w": torch.randn(4, 3), "i": torch.tensor([0, 2, 2])}
    assert backhand.check_function(Rows, lambda w, i: w[i], inputs).ok
    assert not backhand.check_function(Rows, lambda w, i: w[i] + w[i] - w[i].detach(), inputs).ok


class Times(Function):
    @staticmethod
    def forward(ctx: Any, s: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(s)
        return s @ w

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, ctx.saved_tensors[0].to_dense().T @ g


def test_a_sparse_argument_is_a_constant_or_refused() -> None:
    inputs = {"s": torch.randn(3, 4).relu().to_sparse(), "w": torch.randn(4, 2)}
    report = backhand.check_function(Times, torch.matmul, inputs, no_gradient=("s",))
    assert report.ok
    assert [row.name for row in report.rows] == ["w"]
    with pytest.raises(CheckError, match="s is sparse: its gradient is not judged"):
        backhand.check_function(Times, torch.matmul, inputs)


def test_inputs_by_name_are_put_in_the_order_of_the_reference() -> None:
    def lessened(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 2 * a - b

    class Less(Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return lessened(a, b)

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 3 * g, -g

    report = backhand.check_function(Less, lessened, {"b": torch.randn(3), "a": torch.randn(3)})
    assert [culprit.name for culprit in report.culprits] == ["a"]


class Mirrored(Function):
    """A product with a sparse matrix, whose backward has it laid out."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, b: Tensor) -> Tensor:
        matrix = on_the_other_diagonal(values)
        ctx.save_for_backward(matrix.to_dense(), b)
        return torch.sparse.mm(matrix, b)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        full, b = ctx.saved_tensors
        return (dy * b.flip(0)).sum(1), full.t() @ dy


class NotFlipped(Mirrored):
    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        full, b = ctx.saved_tensors
        dvalues = (dy * b).sum(1)
        return dvalues, full.t() @ dy


class KeptSparse(Mirrored):
    @staticmethod
    def forward(ctx: Any, values: Tensor, b: Tensor) -> Tensor:
        matrix = on_the_other_diagonal(values)
        ctx.save_for_backward(matrix, b)
        return torch.sparse.mm(matrix, b)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        matrix, b = ctx.saved_tensors
        return (dy * b).sum(1), matrix.t() @ dy


def on_the_other_diagonal(values: Tensor) -> Tensor:
    n = len(values)
    places = torch.stack([torch.arange(n), torch.arange(n).flip(0)])
    return torch.sparse_coo_tensor(places, values, (n, n), check_invariants=True)


@pytest.mark.parametrize(
    "reference",
    [
        lambda values, b: on_the_other_diagonal(values) @ b,
        lambda values, b: values[:, None] * b.flip(0),
    ],
    ids=["sparse", "dense"],
)
def test_what_is_sparse_on_the_way_does_not_end_a_check(reference: Any) -> None:
    given = {"values": torch.randn(4), "b": torch.randn(4, 2)}
    assert backhand.check_function(Mirrored, reference, given).ok
    report = backhand.check_function(NotFlipped, reference, given)
    assert [row.name for row in report.culprits] == ["values"]
    assert report["values"].lines[0].text == "dvalues = (dy * b).sum(1)"
    report = backhand.check_function(KeptSparse, reference, given)
    assert [row.name for row in report.culprits] == ["values"]
    assert any("its backward works on sparse tensors" in note for note in report.notes)


class OneTwice(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        da, db = dy @ b.T, a.T @ dy
        return da, da


def test_a_gradient_that_is_returned_twice_is_told_though_autograd_refuses_its_shape() -> None:
    report = backhand.check_function(OneTwice, torch.matmul, [torch.randn(4, 3), torch.randn(3, 5)])
    (row,) = report.culprits
    assert row.mistake is not None
    assert row.mistake.kind == "swapped"
    assert "returned twice" in row.mistake.message
    assert row.lines[0].text == "return da, da"


class NoSlopeIn(Function):
    """Of the points it has no gradient, and refuses to be asked for one."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, width: Tensor) -> Tensor:
        if ctx.needs_input_grad[0]:
            raise ValueError("the points are constants")
        kernel = torch.exp(-points.square() / width)
        ctx.save_for_backward(points, width, kernel)
        return kernel

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor]:
        points, width, kernel = ctx.saved_tensors
        return None, (dy * kernel * points.square() / width**2).sum().view(1)


class WidthOnce(NoSlopeIn):
    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor]:
        points, width, kernel = ctx.saved_tensors
        dwidth = (dy * kernel * points.square() / width).sum().view(1)
        return None, dwidth


def test_what_refuses_an_input_with_a_gradient_is_judged_by_the_others() -> None:
    def kernel(points: Tensor, width: Tensor) -> Tensor:
        return torch.exp(-points.square() / width)

    given = {"points": torch.randn(4, 3), "width": torch.rand(1) + 0.5}
    with pytest.raises(backhand.BackhandError, match=r"the points are constants.*no_gradient="):
        backhand.check_function(NoSlopeIn, kernel, given)
    assert backhand.check_function(NoSlopeIn, kernel, given, no_gradient=("points",)).ok
    report = backhand.check_function(WidthOnce, kernel, given, no_gradient=("points",))
    assert [row.name for row in report.culprits] == ["width"]
    assert report["width"].lines[0].text == "dwidth = (dy * kernel * points.square() / width).sum().view(1)"


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        h = x @ w
        ctx.save_for_backward(x, w, h)
        return h**2

    @staticmethod
    def backward(ctx, dout):
        x, w, h = ctx.saved_tensors
        dh = dout * 2 * h
        dx = dh @ w.t()
        dw = x.t() @ dh
        return None, dw


def test_none_in_the_place_of_a_gradient_that_is_made_is_told_at_the_return():
    inputs = {"x": torch.randn(4, 5), "w": torch.randn(5, 5)}
    (row,) = backhand.check_function(Squared.apply, lambda x, w: (x @ w) ** 2, inputs).culprits
    assert (row.name, row.mistake.kind, row.lines[0].text) == ("x", "swapped", "return None, dw")


class Looked(Function):
    """Copies rows; what arrives is looked at flat, and added up row by row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index, table)
        return x + table[index]

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple:
        index, table = ctx.saved_tensors
        dx = -dy.clone()
        flat = dy.contiguous().view(-1, table.size(1))
        dtable = torch.zeros_like(table)
        dtable.index_add_(0, index, flat)
        return dx, dtable, None


def test_a_right_gradient_that_an_operation_in_place_reads_is_not_called_unread() -> None:
    inputs = {"x": torch.randn(6, 3), "table": torch.randn(4, 3), "index": torch.tensor([0, 1, 1, 3, 0, 2])}
    (row,) = backhand.check_function(Looked, lambda x, table, index: x + table[index], inputs).culprits
    assert (row.name, row.mistake.kind, row.lines[0].text) == ("x", "sign", "dx = -dy.clone()")


class Nearly(Function):
    """Saves what is off by half a percent, in nothing but float64."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward((x**2).sum(0) * (1 + 0.002 * w**2), w)
        return (x * w).square().sum(0)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple:
        squares, w = ctx.saved_tensors
        return None, 2 * dy * w * squares


def test_a_formula_that_is_off_by_little_is_not_said_to_be_computed_coarsely() -> None:
    def squared(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x * w).square().sum(0)

    inputs = {"x": torch.randn(6, 5), "w": torch.rand(5) + 0.5}
    (row,) = backhand.check_function(Nearly, squared, inputs, no_gradient=("x",)).culprits
    assert row.mistake.kind == "unexplained"


class Vanishing(Function):
    """Sends back rounding alone, all of it scaled by the first element that arrives."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * 3

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 1e-17 * x * dy


def test_a_gradient_of_rounding_alone_is_not_said_to_read_one_element() -> None:
    report = backhand.check_function(Vanishing, lambda x: x * 3, {"x": torch.randn(6, 5)})
    assert [row.mistake.kind for row in report.culprits] == ["zero"]
    assert not report.stress


class Shifted(Function):
    """Rolls along the last axis by what a filter of some size needs, and the other way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int) -> torch.Tensor:
        ctx.size = size
        return torch.roll(x, size // 2 - 1, -1)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple:
        L = ctx.size
        return torch.roll(dy, -L // 2, -1), None


def test_a_size_is_not_said_to_lack_the_derivative_of_a_tanh() -> None:
    inputs = {"x": torch.randn(3, 8), "size": 4}
    report = backhand.check_function(Shifted, lambda x, size: torch.roll(x, size // 2 - 1, -1), inputs)
    (row,) = report.culprits
    assert row.mistake.message.startswith("dx: a number is off at `-L // 2`")


class Ramp(Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-3, 3) * 6

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        inside = (x > -3) & (x < 6)
        return dy * 6 * inside


def test_a_wrong_bound_is_called_a_bound() -> None:
    (row,) = backhand.check_function(Ramp, lambda x: x.clamp(-3, 3) * 6, [4 * torch.randn(6, 8)]).culprits
    assert row.lines[0].text == "inside = (x > -3) & (x < 6)"
    assert "a bound is off at `6`" in row.mistake.message


class SumOfProducts(Function):
    """Its gradient of `w` leaves out the tensors of the list, which are all ones as they are given."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, *xs: Tensor) -> Tensor:
        ctx.save_for_backward(w, *xs)
        return torch.stack([x * w for x in xs]).sum(0)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        w, *xs = ctx.saved_tensors
        return (len(xs) * dy).sum(0), *[dy * w for _ in xs]


def test_tensors_in_a_list_are_varied_from_draw_to_draw() -> None:
    report = backhand.check_function(
        lambda xs, w: SumOfProducts.apply(w, *xs),
        lambda xs, w: torch.stack(xs).sum(0) * w,
        {"xs": [torch.ones(3, 4), torch.ones(3, 4)], "w": torch.ones(4)},
    )
    assert [row.name for row in report.culprits] == ["w"]
