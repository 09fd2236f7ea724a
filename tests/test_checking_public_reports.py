"""Faults that libraries have shipped, made anew: caught, on the right input and line, most of them named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import Function

import backhand
from backhand import Report


class WeightTwice(Function):
    """Layer norm: the term of the variance has the weight twice."""

    @staticmethod
    def forward(ctx, x, weight):
        mean = x.mean(-1, keepdim=True)
        rstd = ((x - mean).square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        ctx.save_for_backward(x, weight, mean, rstd)
        return (x - mean) * rstd * weight

    @staticmethod
    def backward(ctx, dy):
        x, weight, mean, rstd = ctx.saved_tensors
        xhat = (x - mean) * rstd
        g = dy * weight
        c1 = (g * weight * xhat).mean(-1, keepdim=True)
        c2 = g.mean(-1, keepdim=True)
        return (g - xhat * c1 - c2) * rstd, (dy * xhat).sum(0)


def layer_norm(x, weight):
    return F.layer_norm(x, x.shape[-1:], weight)


class ResidualThroughNorm(Function):
    """The residual's gradient goes through the norm, where it goes beside it."""

    @staticmethod
    def forward(ctx, x, weight):
        rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
        ctx.save_for_backward(x, weight, rstd)
        return x * rstd * weight, x.clone()

    @staticmethod
    def backward(ctx, dout, dres):
        x, weight, rstd = ctx.saved_tensors
        xhat = x * rstd
        dy = dout + dres
        g = dy * weight
        dx = rstd * (g - xhat * (g * xhat).mean(-1, keepdim=True))
        return dx, (dout * xhat).sum(0)


def norm_and_residual(x, weight):
    return F.rms_norm(x, x.shape[-1:], weight, 1e-5), x * 1


class ForgottenExponential(Function):
    """A decay of `exp(-exp(w))`: the inner derivative is not there."""

    @staticmethod
    def forward(ctx, x, w):
        log_decay = -torch.exp(w)
        decay = torch.exp(log_decay)
        ctx.save_for_backward(x, decay, log_decay)
        return x * decay

    @staticmethod
    def backward(ctx, dy):
        x, decay, _ = ctx.saved_tensors
        dx = dy * decay
        ddecay = (dy * x).sum(0)
        dw = ddecay * decay
        return dx, dw


def decayed(x, w):
    return x * torch.exp(-torch.exp(w))


def rotate_half(x):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([-b, a], dim=-1)


class RotatedTooEarly(Function):
    """`rotate_half(dy) * sin` for `rotate_half(dy * sin)`: they differ where the halves of `sin` do."""

    @staticmethod
    def forward(ctx, q, cos, sin):
        ctx.save_for_backward(cos, sin)
        return q * cos + rotate_half(q) * sin

    @staticmethod
    def backward(ctx, dy):
        cos, sin = ctx.saved_tensors
        dq = dy * cos - rotate_half(dy) * sin
        return dq, None, None


def rotary(q, cos, sin):
    a, b = q.chunk(2, dim=-1)
    return q * cos.detach() + torch.cat([-b, a], dim=-1) * sin.detach()


class SummedByAutograd(Function):
    """A gradient of the whole batch for a bias; autograd sums it, and the bias is used twice as much."""

    @staticmethod
    def forward(ctx, x, bias):
        return x + 2 * bias

    @staticmethod
    def backward(ctx, dy):
        dbias = dy * torch.ones_like(dy)
        return dy, dbias


def twice_the_bias(x, bias):
    return x + bias + bias


class FinalState(Function):
    """A moving sum over three steps; the final window is given back to the wrong places."""

    @staticmethod
    def forward(ctx, x, window):
        padded = torch.cat([window, x])
        ctx.sizes = window.shape[0], x.shape[0]
        return padded.unfold(0, 3, 1).sum(-1), padded[-window.shape[0] :].clone()

    @staticmethod
    def backward(ctx, dy, dlast):
        n, length = ctx.sizes
        dpadded = dy.new_zeros(n + length, dy.shape[1])
        for i in range(3):
            dpadded[i : i + dy.shape[0]] += dy
        dpadded[:n] += dlast
        return dpadded[n:], dpadded[:n]


def moving_sum(x, window):
    padded = torch.cat([window, x])
    return padded[:-2] + padded[1:-1] + padded[2:], padded[-window.shape[0] :] * 1


class CausalMaskLeftIn(Function):
    """Attention that looks at all keys; the backward still leaves out the later ones."""

    @staticmethod
    def forward(ctx, q, k, v):
        s = q @ k.mT
        p = torch.softmax(s, -1)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    @staticmethod
    def backward(ctx, do):
        q, k, v, p = ctx.saved_tensors
        keep = torch.ones(p.shape[-2:], dtype=torch.bool).tril()
        dv = p.mT @ do
        dp = do @ v.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True))
        ds = ds.masked_fill(~keep, 0.0)
        return ds @ k, ds.mT @ q, dv


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


class SubtractedTwice(Function):
    """`mean(dy * gamma)` is taken off once in a term of its own, and once more in the end."""

    @staticmethod
    def forward(ctx, x, gamma):
        mean = x.mean(-1, keepdim=True)
        rstd = ((x - mean).square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        xhat = (x - mean) * rstd
        ctx.save_for_backward(xhat, rstd, gamma)
        return xhat * gamma

    @staticmethod
    def backward(ctx, dy):
        xhat, rstd, gamma = ctx.saved_tensors
        g = dy * gamma
        m = g.mean(-1, keepdim=True)
        centred = g - m
        dx = rstd * (centred - m - xhat * (g * xhat).mean(-1, keepdim=True))
        return dx, (dy * xhat).sum(0)


class DroppedAccumulation(Function):
    """Two products share a weight; only the gradient of the second is kept."""

    @staticmethod
    def forward(ctx, a, b, weight):
        ctx.save_for_backward(a, b, weight)
        return a @ weight, b @ weight

    @staticmethod
    def backward(ctx, dya, dyb):
        a, b, weight = ctx.saved_tensors
        dweight = a.t() @ dya
        dweight = b.t() @ dyb
        return dya @ weight.t(), dyb @ weight.t(), dweight


def two_products(a, b, weight):
    return a @ weight, b @ weight


class OneElementOfTheUpstream(Function):
    """A loss for every row, of whose upstream gradients the first is read."""

    @staticmethod
    def forward(ctx, logits, target):
        p = torch.softmax(logits, -1)
        ctx.save_for_backward(p, target)
        return F.cross_entropy(logits, target, reduction="none")

    @staticmethod
    def backward(ctx, dloss):
        p, target = ctx.saved_tensors
        onehot = F.one_hot(target, p.shape[-1])
        scale = dloss.flatten()[0]
        return (p - onehot) * scale, None


def losses(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


class RepeatedRows(Function):
    """An embedding: rows that occur twice are written, and not added."""

    @staticmethod
    def forward(ctx, table, index):
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]
        return table[index]

    @staticmethod
    def backward(ctx, dy):
        (index,) = ctx.saved_tensors
        dtable = dy.new_zeros(ctx.rows, dy.shape[1])
        dtable[index] = dy
        return dtable, None


def rows(table, index):
    return F.embedding(index, table)


class OtherGelu(Function):
    """The forward has the exact gelu, the backward that of the approximation by a sigmoid."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(1.702 * x)
        return dy * s * (1 + 1.702 * x * (1 - s))


class KeptProbability(Function):
    """A dropout whose gradient is divided by p, where what is kept is 1 - p."""

    @staticmethod
    def forward(ctx, x, mask, p):
        ctx.save_for_backward(mask)
        ctx.p = p
        return x * mask / (1 - p)

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors
        return dy * mask / ctx.p, None, None


def dropped(x, mask, p):
    return x * mask.detach() / (1 - p)


def drawn(**shapes: Any) -> Callable[[torch.Generator], dict[str, Any]]:
    """Return a function that draws such inputs; what is no tuple is given as it is."""
    return lambda g: {
        n: torch.randn(s, generator=g) if isinstance(s, tuple) else s for n, s in shapes.items()
    }


INDEX = torch.tensor([1, 3, 1, 0, 2])
MASK = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
# the Function, its reference, its inputs; the wrong gradients, the line, and the kinds that are true of it
REPORTS: list[tuple[Any, Any, Any, set[str], str, set[str]]] = [
    (
        WeightTwice,
        layer_norm,
        drawn(x=(4, 6), weight=(6,)),
        {"x"},
        "c1 = (g * weight * xhat)",
        {"wrong_point"},
    ),
    (
        ResidualThroughNorm,
        norm_and_residual,
        drawn(x=(4, 6), weight=(6,)),
        {"x"},
        "dy = dout + dres",
        {"wrong_upstream"},
    ),
    (ForgottenExponential, decayed, drawn(x=(5, 3), w=(3,)), {"w"}, "dw = ddecay * decay", {"wrong_point"}),
    (
        RotatedTooEarly,
        rotary,
        drawn(q=(2, 5, 6), cos=(5, 6), sin=(5, 6)),
        {"q"},
        "dq = dy * cos - rotate_half(dy) * sin",
        {"wrong_point"},
    ),
    (SummedByAutograd, twice_the_bias, drawn(x=(4, 3), bias=(3,)), {"bias"}, "dbias = dy", {"scale"}),
    (
        FinalState,
        moving_sum,
        drawn(x=(5, 3), window=(2, 3)),
        {"x", "window"},
        "dpadded[:n] += dlast",
        {"partial", "missing_branch", "wrong_upstream"},
    ),
    (
        CausalMaskLeftIn,
        attention,
        drawn(q=(2, 4, 3), k=(2, 4, 3), v=(2, 4, 5)),
        {"q", "k"},
        "ds = ds.masked_fill(~keep, 0.0)",
        {"wrong_point"},
    ),
    (
        SubtractedTwice,
        layer_norm,
        drawn(x=(4, 6), gamma=(6,)),
        {"x"},
        "centred",  # the one line or the other
        {"repeated_branch"},
    ),
    (
        DroppedAccumulation,
        two_products,
        drawn(a=(4, 3), b=(6, 3), weight=(3, 5)),
        {"weight"},
        "dweight = b.t() @ dyb",
        {"overwritten", "missing_branch"},
    ),
    (
        OneElementOfTheUpstream,
        losses,
        lambda g: {"logits": torch.randn(5, 4, generator=g), "target": INDEX % 4},
        {"logits"},
        "scale = dloss.flatten()[0]",
        {"ignores_upstream", "wrong_upstream"},
    ),
    (
        RepeatedRows,
        rows,
        lambda g: {"table": torch.randn(4, 3, generator=g), "index": INDEX},
        {"table"},
        "dtable[index] = dy",
        {"overwritten"},
    ),
    (
        OtherGelu,
        F.gelu,
        lambda g: [torch.randn(6, 5, generator=g)],
        {"input0"},
        "return dy * s * (1",
        {"unexplained"},  # another function altogether
    ),
    (
        KeptProbability,
        dropped,
        drawn(x=(2, 3), mask=MASK, p=0.3),
        {"x"},
        "return dy * mask / ctx.p",
        {"scale"},
    ),
]
IDS = [fn.__name__ for fn, *_ in REPORTS]


def reported(fn: Any, reference: Any, inputs: Any) -> Report:
    if reference is layer_norm and fn is SubtractedTwice:
        return backhand.check_function(fn, lambda x, gamma: layer_norm(x, gamma), inputs)
    return backhand.check_function(fn, reference, inputs)


@pytest.mark.seconds
@pytest.mark.parametrize(("fn", "reference", "inputs", "wrong", "line", "kinds"), REPORTS, ids=IDS)
def test_a_fault_of_a_public_report_is_found_on_its_input_and_line(
    fn: Any, reference: Any, inputs: Any, wrong: set[str], line: str, kinds: set[str]
) -> None:
    report = reported(fn, reference, inputs)
    assert {row.name for row in report.rows if row.verdict in ("wrong", "follows", "shape")} == wrong
    assert any(line in at.text for row in report.culprits for at in row.lines[:3]), report
    told = [row.mistake for row in report.culprits if row.mistake is not None]
    assert any(mistake.kind in kinds for mistake in told), told
