"""Functions called within something that does more: which of them is wrong, and on which line."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

import backhand
from backhand import Report
from kernels import SumForMean

SHAPES = {"x": (2, 4, 6), "w": (6,), "b": (6,), "xs": (5, 3, 4), "W": (4, 4)}


def drawing(*names: str) -> Callable[[torch.Generator], dict[str, Tensor]]:
    return lambda generator: {n: torch.randn(SHAPES[n], generator=generator) for n in names}


def told(report: Report) -> dict[str, tuple[str, str]]:
    """Return of each culprit how its message begins, and its first line."""
    return {
        row.name: (row.mistake.message.split(":")[0], next((line.text for line in row.lines), ""))
        for row in report.culprits
    }


class Silu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        x, s = ctx.saved_tensors
        return dy * (s + x * s * (1 - s))


class NegatedSilu(Silu):
    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        x, s = ctx.saved_tensors
        return dy * (s - x * s * (1 - s))


class Rounded(Function):
    """A straight-through estimator: its gradient is not that of its forward, on purpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


def straight_through(x: Tensor) -> Tensor:
    return x + (x.round() - x).detach()


def norm(x: Tensor, w: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w)


own_norm = SumForMean.apply  # which is what a file exports
C2 = "c2 = (g * xhat).sum(-1, keepdim=True)"
IN_NORM = "In SumForMean's backward, dx"
RETURN = "return dy * ctx.kept / ctx.p, None"
SIGN = "return dy * (s - x * s * (1 - s))"


def test_a_function_is_opened_where_more_is_done_than_to_call_it() -> None:
    def with_bias(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return (own_norm(x.reshape(-1, x.shape[-1]).contiguous(), w) + b).view_as(x)

    before = dict(vars(SumForMean))
    report = backhand.check_function(with_bias, lambda x, w, b: norm(x, w) + b, drawing("x", "w", "b"))
    assert told(report) == {"x": (IN_NORM, C2)}
    assert [row.verdict for row in report.rows] == ["wrong", "right", "right"]
    assert report["x"].mistake.kind == "scale"
    assert dict(vars(SumForMean)) == before  # nothing is left in the class


class Block(nn.Module):
    def __init__(self, norm: Callable[..., Tensor]) -> None:
        super().__init__()
        self.norm = norm
        self.linear = nn.Linear(6, 6)
        self.first, self.second = nn.Parameter(torch.rand(6) + 1), nn.Parameter(torch.rand(6) + 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x.flatten(0, 1), self.first)
        return self.norm(torch.tanh(self.linear(h)), self.second)


def test_of_a_module_that_calls_it_twice_one_gradient_is_told_and_the_others_follow() -> None:
    own, right = Block(own_norm), Block(norm)
    right.load_state_dict(own.state_dict())
    report = backhand.check_function(own, right, lambda g: {"x": torch.randn(2, 4, 6, generator=g)})
    assert told(report) == {"x": (IN_NORM, C2)}
    verdicts = {row.name: row.verdict for row in report.rows}
    assert verdicts["second"] == "right"
    assert {verdicts[n] for n in ("first", "linear.weight", "linear.bias")} == {"follows"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (straight_through, F.silu, {"x": (IN_NORM, C2)}),
        (torch.sin, NegatedSilu.apply, {"x": (IN_NORM, C2), "w": ("In NegatedSilu's backward, dx", SIGN)}),
    ],
    ids=["one that is as designed", "both are wrong"],
)
def test_of_several_functions_those_are_told_that_are_wrong(
    before: Callable[..., Tensor], after: Callable[..., Tensor], expected: dict[str, Any]
) -> None:
    first = Rounded.apply if before is straight_through else before
    last = F.silu if after is F.silu else NegatedSilu.apply
    report = backhand.check_function(
        lambda x, w: last(own_norm(first(x.flatten(0, 1)), w)),
        lambda x, w: F.silu(norm(before(x.flatten(0, 1)), w)),
        drawing("x", "w"),
    )
    assert told(report) == expected


def test_a_right_one_beside_a_wrong_one_is_not_told() -> None:
    report = backhand.check_function(
        lambda x, w: NegatedSilu.apply(Silu.apply(x + w)),
        lambda x, w: F.silu(F.silu(x + w)),
        drawing("x", "w"),
    )
    assert told(report) == {"x": ("In NegatedSilu's backward, dx", SIGN)}
    assert report["w"].verdict == "follows"


def test_no_line_is_shown_where_the_fault_lies_around_the_function() -> None:
    report = backhand.check_function(
        lambda x, w: own_right(x.detach(), w), lambda x, w: F.silu(x) * w, drawing("x", "w")
    )
    assert told(report) == {"x": ("dx", "")}
    assert any("the fault lies in what is done besides" in note for note in report.notes)


class Scaled(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return F.silu(x) * w

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        s = torch.sigmoid(x)
        return dy * w * (s + x * s * (1 - s)), (dy * x * s).sum((0, 1))


own_right = Scaled.apply


class Dropped(Function):
    """In the newer style, with numbers that are drawn, and an output that has no gradient."""

    @staticmethod
    def forward(x: Tensor, p: float) -> tuple[Tensor, Tensor]:
        kept = torch.rand(x.shape, dtype=x.dtype) > p
        return x * kept / (1 - p), kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.p, ctx.kept = inputs[1], output[1]
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor, None]:
        return dy * ctx.kept / ctx.p, None


class InPlace(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.mul_(2).exp_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return dy * y


class WithNorms(Function):
    """Wrong by a factor; the second output's gradient is left out as well, but nobody asks for that."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return x.square(), x.square().sum(-1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * dy


class Packed(Function):
    """Reads its upstream gradient as if its rows lay one after another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        rows = torch.as_strided(dy, dy.shape, (dy.shape[1], 1))
        return 2 * x * rows


def dropout(x: Tensor) -> Tensor:
    return x * (torch.rand(x.shape, dtype=x.dtype) > 0.4) / 0.6


@pytest.mark.parametrize(
    ("fn", "reference", "kind", "line"),
    [
        (
            lambda x: Dropped.apply(x + 1, 0.4)[0],
            lambda x: dropout(x + 1),
            "scale",
            "return dy * ctx.kept / ctx.p, None",
        ),
        (lambda x: InPlace.apply(x * 1.5) + 1, lambda x: (3 * x).exp() + 1, "scale", "return dy * y"),
        (lambda x: 3 * WithNorms.apply(x)[0], lambda x: 3 * x.square(), "scale", "return x * dy"),
        (
            lambda x: Packed.apply(x.flatten(0, 1)).T,
            lambda x: x.flatten(0, 1).square().T,
            "wrong_upstream",
            "return 2 * x * rows",
        ),
    ],
    ids=["drawn numbers", "in place", "unused output", "layout"],
)
def test_a_call_is_judged_by_what_goes_into_it_and_what_arrives(
    fn: Any, reference: Any, kind: str, line: str
) -> None:
    report = backhand.check_function(fn, reference, drawing("x"))
    assert [text for _, text in told(report).values()] == [line]
    assert report["x"].mistake.kind == kind


class MaskedSoftmax(Function):
    """Its forward changes what softmax gave in place, after which autograd cannot differentiate that."""

    @staticmethod
    @torch.no_grad()
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        y = torch.softmax(x.masked_fill(mask, torch.finfo(x.dtype).min), -1)
        y.masked_fill_(mask, 0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        inner = dy.sum(-1, keepdim=True)
        return y * (dy - inner), None


def masked(x: Tensor) -> Tensor:
    return x.masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf).softmax(-1)


@pytest.mark.seconds
def test_a_forward_that_autograd_does_not_follow_is_derived_by_differences() -> None:
    mask = torch.ones(4, 4).triu(1).bool()
    report = backhand.check_function(
        lambda x, W: MaskedSoftmax.apply(x @ W, mask) @ W,
        lambda x, W: masked(x @ W) @ W,
        lambda g: {"x": torch.randn(4, 4, generator=g), "W": torch.randn(4, 4, generator=g)},
    )
    assert told(report) == {"x": ("In MaskedSoftmax's backward, dx", "inner = dy.sum(-1, keepdim=True)")}
    assert report["W"].verdict == "follows"


class Cell(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, W: Tensor) -> Tensor:
        n = torch.tanh(x + h @ W)
        ctx.save_for_backward(h, W, n)
        return n

    @staticmethod
    def backward(ctx: Any, dn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, W, n = ctx.saved_tensors
        da = dn * (1 - n)
        return da, da @ W.T, h.T @ da


def over_time(cell: Callable[..., Tensor], xs: Sequence[Tensor], W: Tensor) -> Tensor:
    h = torch.zeros_like(xs[0])
    for x in xs:
        h = cell(x, h, W)
    return h


def test_a_cell_that_is_called_at_every_step_is_opened_as_one() -> None:
    report = backhand.check_function(
        lambda xs, W: over_time(Cell.apply, xs, W),
        lambda xs, W: over_time(lambda x, h, W: torch.tanh(x + h @ W), xs, W),
        drawing("xs", "W"),
    )
    assert told(report) == {"xs": ("In Cell's backward, dx", "da = dn * (1 - n)")}
    assert report["W"].verdict == "follows"


class Distance(Function):
    """Its gradient lacks the factor 2; the target has none, on purpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(x - t)
        return (x - t).square()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (off,) = ctx.saved_tensors
        dx = dy * off
        return dx, None


def test_an_input_without_a_gradient_on_purpose_does_not_hide_which_function_is_wrong() -> None:
    inputs = {"x": torch.randn(4, 3), "t": torch.randn(4, 3)}
    report = backhand.check_function(
        lambda x, t: Distance.apply(3 * x, t).mean(0),
        lambda x, t: (3 * x - t).square().mean(0),
        inputs,
        no_gradient=("t",),
    )
    assert told(report) == {"x": ("In Distance's backward, dx", "dx = dy * off")}


class Mixed(Function):
    """A product with a constant matrix; `backward` forgets that it stands transposed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, m: Tensor) -> Tensor:
        ctx.save_for_backward(m)
        return x @ m

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (m,) = ctx.saved_tensors
        g = dy * 1
        dx = g @ m
        return dx, None


MATRIX = torch.randn(6, 6)


def test_what_else_a_function_is_called_with_is_as_precise_as_its_inputs() -> None:
    report = backhand.check_function(
        lambda x: Mixed.apply(x, torch.linalg.inv(MATRIX.to(x.dtype))),
        lambda x: x @ torch.linalg.inv(MATRIX.to(x.dtype)),
        drawing("x"),
    )
    assert report["x"].mistake.kind == "transposed"
    assert report["x"].lines[0].text == "dx = g @ m"


class Shifted(Function):
    """It is given a network and, so that these get gradients, its parameters; b gets twice its own."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, net: nn.Module, *weights: Tensor) -> Tensor:
        ctx.net = net
        ctx.save_for_backward(a)
        with torch.no_grad():
            return a + b + net(a)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (a,) = ctx.saved_tensors
        with torch.enable_grad():
            point = a.detach().requires_grad_()
            shift = ctx.net(point)
        db = dy * 2
        through, *dw = torch.autograd.grad(shift, [point, *ctx.net.parameters()], dy)
        da = dy + through
        return da, db, None, *dw


class ShiftedBy(nn.Module):
    def __init__(self, apply: Callable[..., Tensor]):
        super().__init__()
        self.net = nn.Linear(4, 4)
        self.apply_ = apply

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.apply_(a, b, self.net, *self.net.parameters())


def test_a_module_that_is_an_argument_holds_the_parameters_of_each_run() -> None:
    plain = ShiftedBy(lambda a, b, net, *weights: a + b + net(a))
    report = backhand.check_function(ShiftedBy(Shifted.apply), plain, {n: torch.randn(3, 4) for n in "ab"})
    assert [row.name for row in report.culprits] == ["b"]
    assert report["b"].lines[0].text == "db = dy * 2"


class IntoSaved(Function):
    """Cross entropy that works in the buffer of its probabilities: a second backward raises."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits.sub_(logits.amax(1, keepdim=True)).exp_()
        logits.div_(logits.sum(1, keepdim=True))
        ctx.save_for_backward(logits, labels)
        return -logits.gather(1, labels[:, None]).log().mean()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        probs, labels = ctx.saved_tensors
        probs[range(len(labels)), labels] -= 1
        probs.div_(probs.shape[1])
        return probs * dy, None


def test_a_backward_that_changes_what_it_saved_has_lines() -> None:
    labels = torch.tensor([2, 0, 4])
    report = backhand.check_function(
        lambda x: IntoSaved.apply(x * 1, labels),
        lambda x: F.cross_entropy(x, labels),
        {"x": torch.randn(3, 5)},
    )
    assert report["x"].lines[0].text == "probs.div_(probs.shape[1])"


class Guarded(Function):
    """The solution of a linear system; `backward` gives up where the forward has failed."""

    @staticmethod
    def forward(ctx: Any, H: Tensor, b: Tensor) -> Tensor:
        ctx.failed = bool((H.diagonal() == 0).all())
        x = torch.linalg.solve(H, b)
        ctx.save_for_backward(H, x)
        return x

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if ctx.failed:
            return None, None
        H, x = ctx.saved_tensors
        db = torch.linalg.solve(H.T, dx)
        dH = db @ x.T
        return dH, db


def test_a_return_that_ends_a_backward_early_is_not_what_is_told() -> None:
    inputs = {"A": torch.randn(4, 4), "b": torch.randn(4, 2)}
    report = backhand.check_function(
        lambda A, b: Guarded.apply(A @ A.T + torch.eye(4, dtype=A.dtype), b),
        lambda A, b: torch.linalg.solve(A @ A.T + torch.eye(4, dtype=A.dtype), b),
        inputs,
    )
    (row,) = report.culprits
    assert (row.mistake.kind, row.lines[0].text) == ("sign", "dH = db @ x.T")
