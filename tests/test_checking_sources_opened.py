"""A custom Function in torch operations: the line at fault, and the mistake in it."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import backhand
from backhand.checking.verdicts import localising
from kernels import LayerNorm, OneIsKept, SumForMean


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(4, 6, generator=generator), "w": torch.randn(6, generator=generator)}


def spelled_out(x: Tensor, w: Tensor) -> Tensor:
    mu = x.mean(-1, keepdim=True)
    var = (x - mu).square().mean(-1, keepdim=True)
    return (x - mu) / (var + 1e-5).sqrt() * w


def in_one_call(x: Tensor, w: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w)


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
        (lambda x: WithoutSource.apply(x), "the source of its backward cannot be read"),
        (lambda x: Decorated.apply(x.view(-1)).view(x.shape), "do not give what it gives"),
        (lambda x: x.exp() + x - x.detach(), "it calls no `torch.autograd.Function`"),
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


class WeightFirst(SumForMean):
    """Takes its arguments in another order, and one more."""

    @staticmethod
    def forward(ctx: Any, eps: float, w: Tensor, x: Tensor) -> Tensor:
        mu = x.mean(-1, keepdim=True)
        rstd = ((x - mu).square().mean(-1, keepdim=True) + eps) ** -0.5
        xhat = (x - mu) * rstd
        ctx.save_for_backward(xhat, rstd, w)
        return xhat * w

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor, Tensor]:
        xhat, rstd, w = ctx.saved_tensors
        g = dy * w
        c2 = (g * xhat).sum(-1, keepdim=True)
        return None, (dy * xhat).sum(0), rstd * (g - g.mean(-1, keepdim=True) - xhat * c2)


class Norm(torch.nn.Module):
    def __init__(self, own: bool) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(6))
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        return WeightFirst.apply(1e-5, self.w, x) if self.own else in_one_call(x, self.w)


@pytest.mark.parametrize(
    ("fn", "reference"),
    [(lambda x, w: WeightFirst.apply(1e-5, w, x), in_one_call), (Norm(own=True), Norm(own=False))],
    ids=["function", "module"],
)
def test_what_only_calls_a_function_is_opened_as_that(fn: Any, reference: Any) -> None:
    draw = inputs if not isinstance(fn, Norm) else (lambda g: {"x": inputs(g)["x"]})
    report = backhand.check_function(fn, reference, draw)
    assert [row.name for row in report.culprits] == ["x"]
    assert report["x"].lines[0].text.startswith("c2 = ")
    assert "apply" not in vars(WeightFirst)


class DroppedTwice(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept = torch.rand(x.shape, dtype=x.dtype) > p
        ctx.save_for_backward(kept)
        ctx.p = p
        return x * kept / (1 - p)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        dx = dy * kept
        return dx / ctx.p, None


def dropped(x: Tensor, p: float) -> Tensor:
    return torch.where(torch.rand(x.shape, dtype=x.dtype) > p, x / (1 - p), 0)


def test_a_function_that_draws_numbers_is_opened_under_one_seed() -> None:
    report = backhand.check_function(DroppedTwice, dropped, {"x": torch.randn(6, 5), "p": 0.3})
    assert report["x"].lines[0].text == "return dx / ctx.p, None"


class Added(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(w)
        return x.add_(w * w)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        (w,) = ctx.saved_tensors
        dw = dy.sum(0) * w
        return dy, dw


def test_a_function_that_writes_into_its_input_and_says_so_is_checked() -> None:
    report = backhand.check_function(Added, lambda x, w: x + w.square(), inputs)
    assert [row.name for row in report.culprits] == ["w"]
    assert not report.stress
    assert report["w"].lines[0].text == "dw = dy.sum(0) * w"


class Exchanged(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y.exp()

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        dx = dz * y.exp()
        dy = dx * x
        return dy, dx


def test_gradients_in_another_order_are_told_at_the_return() -> None:
    draw = {"x": torch.randn(3, 4), "y": torch.randn(3, 4)}
    report = backhand.check_function(Exchanged, lambda x, y: x * y.exp(), draw)
    assert {row.mistake.kind for row in report.culprits if row.mistake} == {"swapped"}
    assert {row.lines[0].text for row in report.culprits} == {"return dy, dx"}


class Constants(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(table)
        return x * table

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (table,) = ctx.saved_tensors
        return dy * table, None


def test_a_table_that_the_reference_detaches_has_no_second_derivative() -> None:
    draw = {"x": torch.randn(3, 4), "table": torch.randn(3, 4)}
    assert backhand.check_function(Constants, lambda x, table: x * table.detach(), draw).ok


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


def both(dy, x, w):
    dw = dy * w
    return dy * w, dw


class AllAtOnce(torch.autograd.Function):
    """What another function gives, handed on as it is."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        return both(dy, x, w)


class Padded(torch.autograd.Function):
    """The gradients, and a None for each of the other arguments."""

    @staticmethod
    def forward(ctx, x, w, a, b):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, dy):
        _, w = ctx.saved_tensors
        dx = dy * w
        dw = dy * w
        return (dx, dw) + (None,) * 2


RULES = {"product": both}


class FromATable(AllAtOnce):
    """The same by what is looked up, which is not written out."""

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        return RULES.get("product")(dy, x, w)


@pytest.mark.parametrize(
    ("fn", "more", "line"),
    [
        (AllAtOnce, {}, "dw = dy * w"),
        (FromATable, {}, 'return RULES.get("product")(dy, x, w)'),
        (Padded, {"a": 1, "b": 2}, "dw = dy * w"),
    ],
)
def test_a_line_is_shown_where_a_return_makes_all_gradients_at_once(fn, more, line: str) -> None:
    inputs = {"x": torch.randn(3, 4), "w": torch.randn(3, 4), **more}
    report = backhand.check_function(fn, lambda x, w, a=0, b=0: x * w, inputs)
    (culprit,) = report.culprits
    assert (culprit.name, culprit.mistake.kind) == ("w", "wrong_point")
    assert culprit.lines[0].text == line


class TopTwo(Function):
    """Gives the values, their places, and what they were chosen from, whose own gradient is left out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        hidden = 2 * x
        values, places = hidden.topk(2, -1)
        ctx.save_for_backward(places, x)
        ctx.mark_non_differentiable(places)
        return values, places, hidden

    @staticmethod
    def backward(ctx: Any, dvalues: Tensor, dplaces: Tensor, dhidden: Tensor) -> Tensor:
        places, x = ctx.saved_tensors
        dx = torch.zeros_like(x)
        dx.scatter_(-1, places, dvalues)
        return 2 * dx


def test_an_upstream_gradient_is_called_what_the_backward_calls_it_beside_whole_numbers() -> None:
    def reference(x: Tensor) -> Any:
        values, places = (2 * x).topk(2, -1)
        return values, places, 2 * x

    report = backhand.check_function(TopTwo, reference, {"x": torch.randn(4, 6)})
    assert "dhidden" in report["x"].mistake.message
    assert "dplaces" not in report["x"].mistake.message


class InPlace(Function):
    """Writes into what it saved, step by step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        s = torch.sigmoid(x * w)
        ctx.kept = x, w, s
        return s * x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, w, s = ctx.kept
        slope = 1 + s
        slope.mul_(s)
        inner = slope.mul_(x).mul_(dy)
        dw = (inner * x).sum(0)
        dx = s.mul_(dy)
        dx.add_(inner.mul_(w))
        return dx, dw


def test_a_slip_among_writes_into_saved_tensors_is_found_on_its_line() -> None:
    report = backhand.check_function(InPlace, lambda x, w: torch.sigmoid(x * w) * x, inputs)
    (culprit,) = report.culprits
    assert culprit.lines[0].text == "slope = 1 + s"
    assert culprit.mistake.kind == "sign"


def gated_slope(x: Tensor, dy: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    slope = s * (1 + (1 - s))
    return dy * slope


class ByAHelper(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if x.dim() > 9:
            flat = x.flatten()
            return flat * dy.flatten()
        return gated_slope(x, dy)


def test_the_line_within_a_helper_is_shown_and_none_of_a_branch_that_did_not_run() -> None:
    row = backhand.check_function(ByAHelper, F.silu, {"x": torch.randn(4, 6)})["x"]
    assert row.lines[0].text == "slope = s * (1 + (1 - s))"
    assert "what depends on x is missing" in row.mistake.message
    assert not any("flat" in line.text for line in row.lines)


class RunningSum(Function):
    """A sum with a decay over time; its gradient's own sum goes the wrong way, or takes the wrong steps."""

    wrong_way = False

    @staticmethod
    def forward(ctx: Any, x: Tensor, decay: Tensor) -> Tensor:
        h, hs = torch.zeros_like(x[0]), []
        for t in range(len(x)):
            h = decay[t] * h + x[t]
            hs.append(h)
        ctx.save_for_backward(torch.stack(hs), decay)
        return torch.stack(hs)

    @classmethod
    def running(cls, dy: Tensor, decay: Tensor) -> Tensor:
        g, gs = torch.zeros_like(dy[0]), torch.zeros_like(dy)
        times = range(len(dy)) if cls.wrong_way else reversed(range(len(dy)))
        for t in times:
            g = dy[t] + (decay[t + 1] * g if t + 1 < len(dy) else 0)
            gs[t] = g
        return gs


class OtherSteps(RunningSum):
    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        hs, decay = ctx.saved_tensors
        dx = RunningSum.running(dy, decay)
        ddecay = torch.zeros_like(decay)
        ddecay[1:].add_(hs[1:] * dx[1:])
        return dx, ddecay


class WrongWay(RunningSum):
    wrong_way = True

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        hs, decay = ctx.saved_tensors
        dx = WrongWay.running(dy, decay)
        return dx, torch.cat([torch.zeros_like(dx[:1]), hs[:-1] * dx[1:]])


def running_sum(x: Tensor, decay: Tensor) -> Tensor:
    h, hs = torch.zeros_like(x[0]), []
    for t in range(len(x)):
        h = decay[t] * h + x[t]
        hs.append(h)
    return torch.stack(hs)


def over_time(g: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(5, 3, generator=g), "decay": torch.rand(5, 3, generator=g)}


def test_steps_that_are_one_off_are_named_by_the_part_that_belongs() -> None:
    row = backhand.check_function(OtherSteps, running_sum, over_time)["decay"]
    assert row.lines[0].text == "ddecay[1:].add_(hs[1:] * dx[1:])"
    assert "`1:` stands where `:-1` belongs" in row.mistake.message


@pytest.mark.seconds
def test_a_sum_over_time_that_runs_the_wrong_way_is_told_by_the_rows_that_it_reads() -> None:
    mistake = backhand.check_function(WrongWay, running_sum, over_time)["x"].mistake
    assert "each row is made of the rows of dy up to its own, not of the rows of dy from its own on" in (
        mistake.message
    )


class Again(Function):
    """Runs its forward again under autograd, with another power."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.detach())
        return x * x.square().mean(-1, keepdim=True) ** -0.5

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x = ctx.saved_tensors[0].clone().requires_grad_()
        with torch.enable_grad():
            y = x * x.square().mean(-1, keepdim=True) ** -1
            y.backward(dy)
        return x.grad


@pytest.mark.seconds
def test_what_autograd_reads_within_is_not_said_to_be_unused() -> None:
    def reference(x: Tensor) -> Tensor:
        return x * x.square().mean(-1, keepdim=True) ** -0.5

    mistake = backhand.check_function(Again, reference, {"x": torch.randn(4, 6)})["x"].mistake
    assert "not used" not in mistake.message


class PerRow(Function):
    """Gives back a gradient for each row, which autograd adds up; the width is forgotten."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: Tensor) -> Tensor:
        ctx.save_for_backward(x, width)
        return torch.exp(-x / width)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, width = ctx.saved_tensors
        slope = torch.exp(-x / width) / width
        return -dy * slope, dy * slope * x


class PerPair(Function):
    """The same in a variable, of a slope that the forward has made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: Tensor) -> Tensor:
        kernel = torch.exp(-x / width)
        ctx.save_for_backward(kernel, x / width * kernel)
        ctx.width = width
        return kernel

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        kernel, slope = ctx.saved_tensors
        dwidth = dy * slope
        return -dy * kernel / ctx.width, dwidth


@pytest.mark.parametrize("fn", [PerRow, PerPair])
def test_a_shape_that_autograd_sums_is_not_the_mistake_of_wrong_numbers(fn: Any) -> None:
    report = backhand.check_function(
        fn,
        lambda x, width: torch.exp(-x / width),
        {"x": torch.randn(4, 6), "width": torch.full((1, 1), 2.0)},
    )
    assert report["width"].mistake.kind != "unreduced"
    assert "not summed" not in report["width"].mistake.message
    assert report["x"].verdict == "right"


class SavedAndChanged(Function):
    """Writes into what it saved, and has a slip besides, which that does not explain."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.grown = torch.exp(x * w)
        ctx.save_for_backward(x, w)
        return ctx.grown.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, w = ctx.saved_tensors
        both = ctx.grown.mul_(dy.cumsum(0))
        return both * w, (both * x).sum(0)


@pytest.mark.seconds
def test_a_second_backward_that_is_wrong_explains_no_first_one() -> None:
    report = backhand.check_function(
        lambda x, w: SavedAndChanged.apply(x, w) + 0, lambda x, w: torch.exp(x * w), inputs
    )
    assert "modifies_input" in [failure.kind for failure in report.stress]
    assert all(row.mistake.kind != "modifies_input" for row in report.culprits)


class Squared(Function):
    """A power of a matrix that has no name of its own, read the other way round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(x, a)
        return (a @ a) @ x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, a = ctx.saved_tensors
        da = dy @ x.T @ a.T + a.T @ dy @ x.T
        return [a, a][0] @ a @ dy, da


def test_what_has_no_name_is_not_called_none() -> None:
    given = {"x": torch.randn(4, 4), "a": torch.randn(4, 4)}
    report = backhand.check_function(lambda x, a: Squared.apply(x, a) + 0, lambda x, a: (a @ a) @ x, given)
    assert report["x"].mistake.kind == "transposed"
    assert "None" not in report["x"].mistake.message


class CosineSimilarity(Function):
    """Each argument's gradient is made by the same helper, kept in the class."""

    @staticmethod
    def towards(a: Tensor, b: Tensor, cosine: Tensor, lengths: Tensor) -> Tensor:
        along = a / (a * a).sum(-1, keepdim=True)
        return b / lengths - cosine * along

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor) -> Tensor:
        lengths = u.norm(dim=-1, keepdim=True) * v.norm(dim=-1, keepdim=True)
        cosine = (u * v).sum(-1, keepdim=True) / lengths
        ctx.save_for_backward(u, v, cosine, lengths)
        return cosine[:, 0]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        u, v, cosine, lengths = ctx.saved_tensors
        du = CosineSimilarity.towards(u, v, cosine, lengths)
        dv = CosineSimilarity.towards(v, u, cosine, lengths)
        return du * dy[:, None], dv * dy[:, None]


class OppositeTerm(CosineSimilarity):
    @staticmethod
    def towards(a: Tensor, b: Tensor, cosine: Tensor, lengths: Tensor) -> Tensor:
        along = a / (a * a).sum(-1, keepdim=True)
        return b / lengths + cosine * along

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        u, v, cosine, lengths = ctx.saved_tensors
        du = OppositeTerm.towards(u, v, cosine, lengths)
        dv = OppositeTerm.towards(v, u, cosine, lengths)
        return du * dy[:, None], dv * dy[:, None]


class ArgumentsExchanged(CosineSimilarity):
    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        u, v, cosine, lengths = ctx.saved_tensors
        du = CosineSimilarity.towards(u, v, cosine, lengths)
        dv = CosineSimilarity.towards(v, u, lengths, cosine)
        return du * dy[:, None], dv * dy[:, None]


@pytest.mark.parametrize(
    ("fn", "names", "line", "said"),
    [
        (OppositeTerm, ["u"], "return b / lengths + cosine * along", "`du = b / lengths + cosine * along`"),
        (
            ArgumentsExchanged,
            ["v"],
            "dv = CosineSimilarity.towards(v, u, lengths, cosine)",
            "two arguments of `CosineSimilarity.towards` are in the other order",
        ),
    ],
)
def test_one_line_of_a_helper_that_is_called_twice_is_one_culprit(
    fn: Any, names: list[str], line: str, said: str
) -> None:
    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        return {n: torch.randn(4, 3, generator=generator) for n in "uv"}

    assert backhand.check_function(CosineSimilarity, F.cosine_similarity, draw).ok
    report = backhand.check_function(fn, F.cosine_similarity, draw)
    assert [row.name for row in report.culprits] == names
    (row,) = report.culprits
    assert row.lines[0].text == line
    assert row.mistake is not None
    assert said in row.mistake.message


class OfItsClass(Function):
    """Its parts are class methods, as where several Functions share a base."""

    @classmethod
    def forward(cls, x: Tensor, w: Tensor) -> Tensor:  # type: ignore[override]
        return cls.made(x, w)

    @classmethod
    def made(cls, x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(x) * w

    @classmethod
    def setup_context(cls, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # type: ignore[override]
        ctx.save_for_backward(*inputs)

    @classmethod
    def backward(cls, ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        t = torch.tanh(x)
        dx = dy * w * (1 - t)
        return dx, (dy * t).sum(0)


def test_a_function_of_class_methods_has_its_line() -> None:
    (row,) = backhand.check_function(OfItsClass, lambda x, w: torch.tanh(x) * w, inputs).culprits
    assert row.lines[0].text == "dx = dy * w * (1 - t)"


class Settled(Function):
    """The derivative of what an iteration settles at, beside a reference that is unrolled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = settled(x.detach())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        dx = dy / (1 + y.sin() / 2)
        return dx / 2


def settled(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for _ in range(22):
        y = y.cos() / 2 + x
    return y


def test_a_factor_is_named_though_the_reference_settles_only_to_seven_digits() -> None:
    (row,) = backhand.check_function(
        Settled, settled, lambda g: {"x": torch.rand(4, 5, generator=g)}
    ).culprits
    assert row.mistake is not None
    assert row.mistake.kind == "scale"


class Starred(Function):
    """Some of its gradients are made at once, and starred in what it returns; that of b is negative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, W)
        return x @ W + b

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        x, W = ctx.saved_tensors
        dx = dy @ W.T
        return dx, *of_parameters(x, dy)


def of_parameters(x: Tensor, dy: Tensor) -> list[Tensor]:
    dW = x.T @ dy
    db = -dy.sum(0)
    return [dW, db]


def test_gradients_that_are_starred_in_a_return_have_lines() -> None:
    report = backhand.check_function(
        Starred,
        lambda x, W, b: x @ W + b,
        lambda g: {n: torch.randn(s, generator=g) for n, s in (("x", (4, 3)), ("W", (3, 5)), ("b", (5,)))},
    )
    assert [(row.name, row.lines[0].text) for row in report.culprits] == [("b", "db = -dy.sum(0)")]


def gelu_slope(dy: Tensor, bias: Tensor, z: Tensor) -> Tensor:
    x = bias + z
    share = 0.5 * (1 + torch.erf(x * 0.5**0.5))
    slope = share + x * torch.exp(-0.5 * x * x) * (2 * torch.pi) ** -0.5
    return dy * slope


class WrongArgument(Function):
    """GELU after a bias, whose `backward` calls its helper with the input twice."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(y, bias)
        return F.gelu(y + bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        y, bias = ctx.saved_tensors
        assert y.shape == bias.shape
        both = gelu_slope(dy, y, y)
        return both, both


def test_a_wrong_argument_of_a_helper_is_told_in_its_call_and_not_in_its_own_names() -> None:
    report = backhand.check_function(
        WrongArgument,
        lambda y, bias: F.gelu(y + bias),
        lambda g: {n: torch.randn(4, 6, generator=g) for n in ("y", "bias")},
    )
    row = report["y"]
    assert row.lines[0].text == "both = gelu_slope(dy, y, y)"
    assert "in `gelu_slope(dy, y, y)`, y is used where bias belongs" in row.mistake.message


class Doubled(Function):
    """Its gradient stands in a file that cannot be opened, once for both inputs."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(bias)
        return F.gelu(y + bias)

    backward = staticmethod(functools.partial(lambda ctx, dy: (dy * ctx.saved_tensors[0].exp(),) * 2))


def test_one_gradient_of_two_inputs_is_not_told_to_be_that_of_another() -> None:
    report = backhand.check_function(
        Doubled,
        lambda y, bias: F.gelu(y + bias),
        lambda g: {n: torch.randn(4, 6, generator=g) for n in ("y", "bias")},
    )
    assert "equals" not in report["y"].mistake.message


class Blocks(Function):
    """Everything stands in a block; the term of the determinant lacks the number of columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            ctx.save_for_backward(x, W)
            return W @ x, x.shape[1] * torch.linalg.slogdet(W)[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dlog: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, W = ctx.saved_tensors
        n, dx, dW = x.shape[1], None, None
        with torch.no_grad():
            inverse = W.inverse()
            if ctx.needs_input_grad[0]:
                dx = W.T @ dy
            if ctx.needs_input_grad[1]:
                dW = dy @ x.T
                dW += inverse.T * dlog
        assert n
        return dx, dW


def test_what_stands_in_blocks_is_looked_at_line_by_line() -> None:
    report = backhand.check_function(
        Blocks,
        lambda x, W: (W @ x, x.shape[1] * torch.linalg.slogdet(W)[1]),
        lambda g: {"x": torch.randn(4, 3, generator=g), "W": torch.randn(4, 4, generator=g)},
    )
    (row,) = report.culprits
    assert row.lines[0].text == "dW += inverse.T * dlog"
    assert "the factor n is missing" in row.mistake.message


class Smoothed(Function):
    """A sum over three neighbours, made in a buffer: `backward` multiplies where it should divide."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1))
        scale = 1 + padded[:, :-2] ** 2 + padded[:, 1:-1] ** 2 + padded[:, 2:] ** 2
        ctx.save_for_backward(x, scale)
        return x / scale

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        x, scale = ctx.saved_tensors
        dx = dy / scale
        buffer = torch.zeros(x.shape[1] + 2, dtype=x.dtype)
        middle = buffer.narrow(0, 1, x.shape[1])
        for n in range(x.shape[0]):
            torch.mul(dy[n], x[n], out=middle)
            middle.mul_(scale[n] ** 2)
            for c in range(x.shape[1]):
                dx[n, c] -= 2 * x[n, c] * buffer[c : c + 3].sum()
        return dx


def smoothed(x: Tensor) -> Tensor:
    padded = F.pad(x, (1, 1))
    return x / (1 + padded[:, :-2] ** 2 + padded[:, 1:-1] ** 2 + padded[:, 2:] ** 2)


@pytest.mark.seconds
def test_a_part_of_a_buffer_that_others_fill_is_not_at_fault() -> None:
    report = backhand.check_function(Smoothed, smoothed, lambda g: {"x": torch.randn(2, 4, generator=g)})
    (row,) = report.culprits
    assert row.mistake.kind != "zero"
    assert "narrow" not in row.lines[0].text


class Powers(Function):
    """The sum of the powers up to the fifth by Horner's rule; a turn of `backward` is left out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = torch.zeros_like(x)
        for _ in range(5):
            y = (y + 1) * x
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope = torch.zeros_like(x)
        for k in range(1, 5):
            slope = slope + k * x ** (k - 1)
        dx = dy * slope
        return dx


def test_a_wrong_bound_is_told_with_the_head_of_its_loop() -> None:
    report = backhand.check_function(
        Powers, lambda x: x + x**2 + x**3 + x**4 + x**5, lambda g: {"x": torch.randn(3, 2, generator=g)}
    )
    assert report["x"].lines[0].text == "for k in range(1, 5):"


class Spread(Function):
    """Keeps a view of one temperature for every row, and multiplies by it."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, warmth: torch.Tensor) -> torch.Tensor:
        Spread.calls += 1
        ctx.warmth = warmth.expand(len(x), 1)
        p = (x / ctx.warmth).softmax(1)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple:
        (p,) = ctx.saved_tensors
        inner = (p * dy).sum(1, keepdim=True)
        return (dy - inner) * p * ctx.warmth, None


def test_a_call_that_keeps_a_view_of_one_number_is_made_a_few_times() -> None:
    def reference(x: torch.Tensor, warmth: torch.Tensor) -> torch.Tensor:
        return (x / warmth).softmax(1)

    inputs = {"x": torch.randn(4, 5), "warmth": torch.tensor(1.7)}
    Spread.calls = 0
    (row,) = backhand.check_function(Spread, reference, inputs, no_gradient=("warmth",)).culprits
    assert row.name == "x"
    assert Spread.calls < 60, Spread.calls


class Rounded(Function):
    """One gradient has a constant of eight digits, the other lacks a term."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        return x * w.tanh() * 2**0.5 + x.sin()

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple:
        x, w = ctx.saved_tensors
        inner = dy * w.tanh()
        return inner * 1.4142135, dy * x * (1 - w.tanh() ** 2) * 1.4142135


def test_what_is_off_by_rounding_alone_is_known_before_lines_are_sought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sought = []
    localised = localising._localised
    monkeypatch.setattr(
        localising, "_localised", lambda *args: (sought.append(args[1].draw.ran), localised(*args))[1]
    )
    inputs = {"x": torch.randn(4, 5), "w": torch.randn(4, 5)}
    report = backhand.check_function(Rounded, lambda x, w: x * w.tanh() * 2**0.5 + x.sin(), inputs)
    assert [row.name for row in report.culprits] == ["x"]
    assert sought[0] is not None  # it is of a run in the precision of the code


class RootMeanSquare(Function):
    """Saves another tensor than the one that its backward takes for the weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        rstd = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        ctx.save_for_backward(x, w + 1, rstd)
        return x * rstd * w

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple:
        x, scale, rstd = ctx.saved_tensors
        along = (dy * x * scale).mean(-1, keepdim=True)
        dx = dy * scale * rstd - rstd**3 * x * along
        return dx, (dy * x * rstd).sum(0)


def test_a_wrong_tensor_that_was_saved_and_is_read_twice_is_told_where_it_is_taken() -> None:
    (row,) = backhand.check_function(
        RootMeanSquare, lambda x, w: F.rms_norm(x, (6,), w, 1e-6), inputs
    ).culprits
    assert (row.name, row.mistake.kind) == ("x", "wrong_point")
    assert row.lines[0].text == "x, scale, rstd = ctx.saved_tensors"
    assert "scale holds another tensor than the forward's w, which belongs there" in row.mistake.message


def test_the_line_that_puts_something_comes_before_the_one_that_makes_zeros_for_it() -> None:
    inputs = {"table": torch.randn(5, 4), "index": torch.tensor([0, 1, 1, 3])}
    (row,) = backhand.check_function(OneIsKept, lambda table, index: table[index], inputs).culprits
    assert row.mistake.kind == "overwritten"
    assert row.lines[0].text == "dtable[index] = dy"


MADE_IN_THE_FORWARD = """
import torch
from torch.autograd import Function

class Squares(Function):
    @staticmethod
    def forward(ctx, x, w, size=2):
        n = len(x)
        dx = torch.empty_like(x)
        dw = torch.zeros_like(w)
        loss = x.new_zeros(())
        for at in range(0, n, size):
            part = x[at : at + size]
            h = part @ w
            loss = loss + h.square().sum() / n
            dh = 2 * h / n
            dx[at : at + size] = dh @ w.T
            dw += part.T @ dh
        ctx.save_for_backward(dx, dw)
        return loss

    @staticmethod
    def backward(ctx, dloss):
        dx, dw = ctx.saved_tensors
        return dloss * dx, dloss * dw, None

def squares_reference(x, w, size):
    return (x @ w).square().sum() / len(x)

def squares_inputs(generator):
    x, w = torch.randn(6, 3, generator=generator), torch.randn(3, 4, generator=generator)
    return {"x": x, "w": w, "size": 2}
"""


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("2 * h / n", "2 * h", "6 is the size of x along axis 0"),
        ("dw += part", "dw = part", ""),
        ("= dh @ w.T", "= -dh @ w.T", "opposite sign"),
        ("dloss * dw, None", "dw, None", "dloss"),
        ("dloss * dx", "dx", "dloss"),
    ],
)
def test_gradients_that_are_made_in_the_forward_are_told_there(
    right: str, wrong: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "squares.py"
    file.write_text(MADE_IN_THE_FORWARD.replace(right, wrong), encoding="utf-8")
    (row,) = backhand.check_file(file).culprits
    assert wrong in row.lines[0].text
    assert row.mistake is not None
    assert told in row.mistake.message
    assert "ctx_" not in row.mistake.message


def fused(function: Any) -> Any:
    """Return a function as it is, as what compiles it does where there is nothing to compile for."""
    return function


@fused
def gated_back(dy: Tensor, x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    s = torch.sigmoid(a)
    da = dy * b * s * (1 + s)
    return torch.cat((da, dy * s), -1)


class Gated(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sigmoid(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gated_back(dy, x)


def test_the_line_within_a_helper_is_shown_though_a_decorator_gave_it_back() -> None:
    def reference(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.sigmoid(a) * b

    (row,) = backhand.check_function(Gated, reference, {"x": torch.randn(3, 8)}).culprits
    assert row.lines[0].text == "da = dy * b * s * (1 + s)"


class Rerun(Function):
    """Runs what it is given once more in its backward, and has the sign wrong."""

    @staticmethod
    def forward(ctx: Any, run: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x, w)
        return run(x, w)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        held = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            y = ctx.run(*held)
        dx, dw = torch.autograd.grad(y, held, -dy)
        return None, dx, dw


def test_what_is_run_again_as_it_was_is_not_the_line_at_fault() -> None:
    def run(x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(x @ w) * x.sum(1, keepdim=True)

    inputs = {"x": torch.randn(4, 3), "w": torch.randn(3, 5)}
    (row,) = backhand.check_function(lambda x, w: Rerun.apply(run, x, w), run, inputs).culprits
    assert row.lines[0].text == "dx, dw = torch.autograd.grad(y, held, -dy)"


class Softplus(Function):
    """Keeps the exponential, and makes its result in the same memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        e = torch.exp(x * w)
        ctx.save_for_backward(x, w, e)
        e += 1
        return e.log()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, w, e = ctx.saved_tensors
        dz = dy * e / (1 + e)
        return dz * w, dz * x


class SoftplusReturned(Softplus):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.x, ctx.w, e = x, w, torch.exp(x * w)
        ctx.e = e
        return e.add_(1).log()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        dz = dy * ctx.e / (1 + ctx.e)
        return dz * ctx.w, dz * ctx.x


@pytest.mark.parametrize(("fn", "line"), [(Softplus, "e += 1"), (SoftplusReturned, "return e.add_(1).log()")])
def test_what_is_kept_and_then_changed_in_place_is_told_on_that_line(fn: Any, line: str) -> None:
    inputs = {"x": torch.randn(4, 3), "w": torch.randn(4, 3)}
    report = backhand.check_function(fn, lambda x, w: F.softplus(x * w), inputs)
    (row,) = report.culprits
    assert row.lines[0].text == line
    assert row.mistake is not None
    assert row.mistake.kind == "modifies_input"
    assert "changes e in place after it kept it" in row.mistake.message
    assert [each.verdict for each in report.rows] == ["wrong", "follows"]


def put_in_halves(into: Tensor, part: Tensor) -> None:
    first = into[:, :2]
    first += part[:, :2]
    last = into[:, 2:]
    last += part[:, 2:]


class Halves(Function):
    """The second half counts twice, which its helper forgets."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        y = x * w
        return torch.cat([y[:, :2], 2 * y[:, 2:]], 1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, w = ctx.saved_tensors
        dx, dw = torch.zeros_like(x), torch.zeros_like(w)
        put_in_halves(dx, dy * w)
        put_in_halves(dw, dy * x)
        return dx, dw


def test_a_line_that_writes_through_a_view_of_what_a_helper_is_given_is_one_culprit() -> None:
    def reference(x: Tensor, w: Tensor) -> Tensor:
        return torch.cat([x[:, :2] * w[:, :2], 2 * x[:, 2:] * w[:, 2:]], 1)

    inputs = {"x": torch.randn(4, 5), "w": torch.randn(4, 5)}
    (row,) = backhand.check_function(Halves, reference, inputs).culprits
    assert row.lines[0].text == "last += part[:, 2:]"


class NoneForTheGain(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(gain)
        return x * gain

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        (gain,) = ctx.saved_tensors
        return dy * gain, None


def test_a_none_that_a_function_returns_is_told_on_that_line() -> None:
    inputs = {"x": torch.randn(4, 3), "gain": torch.randn(4, 3)}
    (row,) = backhand.check_function(NoneForTheGain, torch.mul, inputs).culprits
    assert row.lines[0].text == "return dy * gain, None"
