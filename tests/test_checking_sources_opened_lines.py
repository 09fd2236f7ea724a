"""Which line of a custom Function is shown first, where several would make up for the mistake."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

import backhand


class Softmin(Function):
    """The soft minimum of the distances to some points; wrong ones have a backward of their own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, width: float) -> Tensor:
        scores = -(x[:, None] - y[None]).square().sum(-1) / width
        found = torch.logsumexp(scores, 1)
        ctx.save_for_backward(x, y, found)
        ctx.width = width
        return -width * found

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, found = ctx.saved_tensors
        apart = x[:, None] - y[None]
        weights = -apart.square().sum(-1) / ctx.width - found[:, None]
        per_pair = weights * g[:, None]
        dx = 2 * (per_pair[..., None] * apart).sum(1)
        dy = -2 * (per_pair[..., None] * apart).sum(0)
        return dx, dy, None


class Weighted(Function):
    """A softmin with a height of each point, which reads the width twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, width: float) -> Tensor:
        scores = h[None] - 0.5 * (x[:, None] - torch.arange(len(h))).square() / width
        found = torch.logsumexp(scores, 1)
        ctx.save_for_backward(x, h, found)
        ctx.width = width
        return -width * found

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, h, found = ctx.saved_tensors
        width = 2 * ctx.width
        apart = x[:, None] - torch.arange(len(h))
        weights = torch.exp(h[None] - 0.5 * apart.square() / width - found[:, None])
        per_pair = weights * g[:, None]
        dx = (per_pair * apart).sum(1)
        dh = -width * per_pair.sum(0)
        return dx, dh, None


def softmin(x: Tensor, y: Tensor, width: float) -> Tensor:
    return -width * torch.logsumexp(-torch.cdist(x, y).square() / width, 1)


def weighted(x: Tensor, h: Tensor, width: float) -> Tensor:
    apart = x.unsqueeze(1) - torch.arange(len(h))
    return -width * torch.logsumexp(h - apart.square() / (2 * width), 1)


def points(g: torch.Generator) -> Mapping[str, Any]:
    return {"x": torch.randn(5, 3, generator=g), "y": torch.randn(4, 3, generator=g), "width": 3.0}


def heights(g: torch.Generator) -> Mapping[str, Any]:
    return {"x": torch.randn(5, generator=g), "h": torch.randn(4, generator=g), "width": 0.6}


class WithoutArriving(Softmin):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, found = ctx.saved_tensors
        apart = x[:, None] - y[None]
        weights = torch.exp(-apart.square().sum(-1) / ctx.width - found[:, None])
        per_pair = 2 * weights
        dx = (per_pair[..., None] * apart).sum(1)
        dy = -(per_pair[..., None] * apart).sum(0)
        return dx, dy, None


class Codes(Function):
    """The nearest of some codes: what is added to them has the sign of what moves the points."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor) -> Tensor:
        nearest = torch.cdist(x, codes).argmin(1)
        ctx.save_for_backward(x, codes, nearest)
        return (x - codes[nearest]).square().mean()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, codes, nearest = ctx.saved_tensors
        pull = (x - codes[nearest]) * (2 / x.numel()) * g
        dcodes = torch.zeros_like(codes)
        dcodes.index_add_(0, nearest, pull)
        return pull + 0, dcodes


def to_codes(x: Tensor, codes: Tensor) -> Tensor:
    return F.mse_loss(codes[torch.cdist(x, codes).argmin(1)], x)


class LowRank(Function):
    """A product of two thin matrices with a scale, which the backward takes out of a tuple."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, a, b)
        ctx.rest = scale, len(x)
        return x @ a @ b * scale

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b = ctx.saved_tensors
        scale, _ = ctx.rest
        da = 2 * (x.t() @ (g @ b.t()))
        da *= scale
        db = (x @ a).t() @ g
        db *= scale
        return g @ b.t() @ a.t() * scale, da, db, None


def low_rank(x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return scale * F.linear(F.linear(x, a.t()), b.t())


def thin(g: torch.Generator) -> Mapping[str, Any]:
    shapes = {"x": (5, 4), "a": (4, 2), "b": (2, 3)}
    return {n: torch.randn(*s, generator=g) for n, s in shapes.items()} | {"scale": 0.7}


class ScaledSoftmax(Function):
    """A softmax of scores that are scaled; the gradient begins with nothing that arrives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        p = torch.softmax(x * scale, -1)
        ctx.save_for_backward(p)
        ctx.scale = scale
        return p

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        dx = p.clone()
        dx = dx * ctx.scale
        return dx, None


class Table(Function):
    """Rows of a table, some of them twice."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = len(table)
        return table[rows]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        flat = g.reshape(-1, g.shape[-1])
        dtable = flat.new_zeros(ctx.size, flat.shape[-1])
        dtable[rows.reshape(-1)] = flat
        return dtable, None


class Sharded(Function):
    """The cross entropy of logits in two parts, whose gradients are made in steps in place."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, labels: Tensor) -> Tensor:
        probs = torch.softmax(torch.cat([left, right], 1), 1)
        inside = labels < left.shape[1]
        parts = probs.split([left.shape[1], right.shape[1]], 1)
        at = labels.where(inside, 0), (labels - left.shape[1]).where(~inside, 0)
        ctx.save_for_backward(*parts, *at, inside)
        return -probs.gather(1, labels[:, None]).log().squeeze(1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        in_left, in_right, left, right, inside = ctx.saved_tensors
        rows = torch.arange(len(g))
        dleft, dright = in_left.clone(), in_right.clone()
        dleft[rows, left] -= inside.to(dleft.dtype)
        dright[rows, right] -= 1.0
        dleft.mul_(g.unsqueeze(-1))
        dright.mul_(g.unsqueeze(-1))
        return dleft, dright, None


CASES: Mapping[str, tuple[Any, Any, Any, str]] = {
    "what is read once is made wrong": (
        Softmin,
        softmin,
        points,
        "weights = -apart.square().sum(-1) / ctx.width - found[:, None]",
    ),
    "a number that several lines read": (Weighted, weighted, heights, "width = 2 * ctx.width"),
    "what several gradients share": (WithoutArriving, softmin, points, "per_pair = 2 * weights"),
    "what is right for another gradient": (
        Codes,
        to_codes,
        lambda g: {"x": torch.randn(6, 3, generator=g), "codes": torch.randn(4, 3, generator=g)},
        "dcodes.index_add_(0, nearest, pull)",
    ),
    "what is only scaled below": (LowRank, low_rank, thin, "da = 2 * (x.t() @ (g @ b.t()))"),
    "nothing that arrives is used": (
        ScaledSoftmax,
        lambda x, scale: torch.softmax(x * scale, -1),
        lambda g: {"x": torch.randn(6, 4, generator=g), "scale": 0.4},
        "dx = p.clone()",
    ),
    "repeated rows": (
        Table,
        lambda table, rows: F.embedding(rows, table),
        lambda g: {"table": torch.randn(4, 3, generator=g), "rows": torch.tensor([[0, 2, 2], [3, 0, 2]])},
        "dtable[rows.reshape(-1)] = flat",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_is_one_culprit_with_that_line_first(name: str) -> None:
    fn, reference, inputs, line = CASES[name]
    report = backhand.check_function(fn, reference, inputs)
    (row,) = report.culprits
    assert row.lines[0].text == line, str(report)


def sharded(left: Tensor, right: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(torch.cat([left, right], 1), labels, reduction="none")


def test_a_step_in_place_below_hides_no_line() -> None:
    labels = torch.tensor([0, 3, 1, 4, 2, 0])
    inputs = {"left": torch.randn(6, 3), "right": torch.randn(6, 2), "labels": labels}
    (row,) = backhand.check_function(Sharded, sharded, inputs).culprits
    assert row.lines[0].text == "dright[rows, right] -= 1.0"


class Chain(Function):
    """The logarithm of a sum over all ways through steps; one line makes all rows but the first."""

    @staticmethod
    def forward(ctx: Any, emit: Tensor, move: Tensor) -> Tensor:
        sums = [emit[0]]
        for row in emit[1:]:
            sums.append(row + torch.logsumexp(sums[-1][:, None] + move, 0))
        total = torch.logsumexp(sums[-1], 0)
        ctx.save_for_backward(emit, move, torch.stack(sums), total)
        return total

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        emit, move, sums, total = ctx.saved_tensors
        demit, dmove = torch.zeros_like(emit), torch.zeros_like(move)
        after = torch.zeros_like(emit[0])
        for t in range(len(emit) - 1, 0, -1):
            demit[t] = 2 * torch.exp(sums[t] + after - total)
            ahead = after + emit[t]
            dmove += torch.exp(sums[t - 1][:, None] + move + ahead - total)
            after = torch.logsumexp(move + ahead, 1)
        demit[0] = torch.exp(sums[0] + after - total)
        return demit * g, dmove * g


def chain(emit: Tensor, move: Tensor) -> Tensor:
    found = emit[0]
    for row in emit[1:]:
        found = torch.logsumexp(found.unsqueeze(1) + move, 0) + row
    return found.logsumexp(0)


def test_the_line_that_makes_the_wrong_rows_comes_first() -> None:
    report = backhand.check_function(Chain, chain, {"emit": torch.randn(5, 3), "move": torch.randn(3, 3)})
    (row,) = report.culprits
    assert row.lines[0].text == "demit[t] = 2 * torch.exp(sums[t] + after - total)"


class Slope(Function):
    """A spike's surrogate, with what it lacks on `ctx`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steep: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.steep = steep
        return x / (1 + steep * x.abs())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        dx = g / (1 + x.abs()) ** 2
        return dx, None


def test_a_number_that_the_forward_kept_is_named_where_it_is_missing() -> None:
    inputs = {"x": torch.randn(6, 5), "steep": 3.5}
    report = backhand.check_function(Slope, lambda x, steep: x / (1 + steep * x.abs()), inputs)
    assert "the factor ctx.steep is missing" in report["x"].mistake.message


class Scattered(Function):
    """Rows times a matrix each, added up where they belong, in pieces of different sizes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, source: Tensor, target: Tensor, sizes: list[int]) -> Tensor:
        out, start = x.new_zeros(len(x), w.shape[-1]), 0
        for i, size in enumerate(sizes):
            rows = slice(start, start + size)
            out.index_add_(0, target[rows], x[source[rows]] @ w[i])
            start += size
        ctx.save_for_backward(x, w, source, target)
        ctx.sizes = sizes
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w, source, target = ctx.saved_tensors
        dx, dw, start = torch.zeros_like(x), torch.zeros_like(w), 0
        for i, size in enumerate(ctx.sizes):
            rows, piece = source[start : start + size], g[target[start : start + size]]
            dx.index_add_(0, rows, piece @ w[i].t())
            dw[i] = 2 * (x[rows].t() @ piece)
            start += size
        return dx, dw, None, None, None


def in_one_product(x: Tensor, w: Tensor, source: Tensor, target: Tensor, sizes: list[int]) -> Tensor:
    which = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    made = torch.bmm(x[source].unsqueeze(1), w[which]).squeeze(1)
    return x.new_zeros(len(x), w.shape[-1]).index_add(0, target, made)


def test_pieces_of_different_sizes_end_no_check() -> None:
    inputs: dict[str, Any] = {"x": torch.randn(6, 3), "w": torch.randn(3, 3, 2), "sizes": [4, 3, 3]}
    rows = {"source": [0, 1, 5, 2, 2, 4, 3, 0, 1, 5], "target": [2, 3, 0, 0, 1, 5, 4, 4, 3, 2]}
    inputs |= {n: torch.tensor(v) for n, v in rows.items()}
    report = backhand.check_function(Scattered, in_one_product, inputs)
    assert report["w"].lines[0].text == "dw[i] = 2 * (x[rows].t() @ piece)"


class Hidden(Function):
    """Two layers, the second of which its backward hands on under another name."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        scaled = x * slope
        ctx.save_for_backward(scaled, slope)
        return scaled.sin()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        scaled, _ = ctx.saved_tensors
        arriving = dy * scaled.cos()
        dx = arriving
        return dx, None


def test_a_line_that_gives_another_name_to_what_is_right_above_it_lacks_the_factor() -> None:
    g = torch.Generator().manual_seed(0)
    inputs = {"x": torch.randn(3, 4, generator=g), "slope": torch.randn(4, generator=g)}
    report = backhand.check_function(Hidden, lambda x, slope: (x * slope.detach()).sin(), inputs)
    (row,) = report.culprits
    assert row.lines[0].text == "dx = arriving"


class Likelihood(Function):
    """The weighted negative log likelihood of a softmax; what arrives at the loss is multiplied last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        logprobs = x.log_softmax(-1)
        ctx.save_for_backward(logprobs, weight)
        return -(logprobs * weight).sum() / len(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        logprobs, weight = ctx.saved_tensors
        dlogprobs = torch.zeros_like(logprobs)
        for row in range(len(weight)):
            dlogprobs[row] -= weight[row] / len(weight)
        dx = dlogprobs - logprobs.exp()
        return g * dx, None


def test_what_is_multiplied_last_with_the_gradient_of_a_loss_hides_no_line() -> None:
    g = torch.Generator().manual_seed(0)
    inputs = {"x": torch.randn(4, 5, generator=g), "weight": torch.rand(4, 5, generator=g)}
    report = backhand.check_function(
        Likelihood, lambda x, weight: -(x.log_softmax(-1) * weight.detach()).sum() / len(x), inputs
    )
    (row,) = report.culprits
    assert row.lines[0].text == "dx = dlogprobs - logprobs.exp()"
