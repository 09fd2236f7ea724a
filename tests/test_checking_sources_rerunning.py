"""Functions whose backward runs modules again that were kept on `ctx`, and differentiates them there."""

import re

import pytest
import torch
from torch import nn

import backhand
from backhand.checking.report import Report


class Turns(torch.autograd.Function):
    """u = a + f(b), v = b + g(u); a and b are computed again from u and v, which alone are kept."""

    @staticmethod
    def forward(ctx, a, b, f, g, slip):
        with torch.no_grad():
            u = a + f(b)
            v = b + g(u)
        ctx.f, ctx.g, ctx.slip = f, g, slip
        ctx.save_for_backward(u, v)
        return u, v

    @staticmethod
    def backward(ctx, du, dv):
        u, v = (kept.detach() for kept in ctx.saved_tensors)
        u.requires_grad_()
        with torch.enable_grad():
            moved = ctx.g(u)
        moved.backward(dv)
        da = du - u.grad if ctx.slip == "sign" else du + u.grad
        b = (v + moved if ctx.slip == "inverse" else v - moved).detach().requires_grad_()
        with torch.enable_grad():
            turned = ctx.f(b)
        turned.backward(du if ctx.slip == "upstream" else da)
        db = b.grad if ctx.slip == "lost" else dv + b.grad
        return da, db, None, None, None


class Turned(nn.Module):
    """Two layers that move two streams, each by the other."""

    def __init__(self, slip=None, is_custom=True):
        super().__init__()
        self.f, self.g = (nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in "fg")
        self.slip, self.is_custom = slip, is_custom

    def forward(self, a, b):
        if self.is_custom:
            return Turns.apply(a, b, self.f, self.g, self.slip)
        u = a + self.f(b)
        return u, b + self.g(u)


def check_turned(slip: str | None) -> Report:
    torch.manual_seed(4)
    inputs = {"a": torch.randn(5, 3), "b": torch.randn(5, 3)}
    return backhand.check_function(Turned(slip), Turned(is_custom=False), inputs, allow=("frozen_input",))


def first_line(report: Report, name: str) -> str:
    """The text of the line that is told first of a gradient."""
    return report[name].lines[0].text


def test_a_right_reversible_block_has_no_wrong_gradient() -> None:
    assert not check_turned(None).culprits


@pytest.mark.parametrize(
    ("slip", "name", "kind"),
    [
        ("sign", "a", "sign"),
        ("inverse", "b", "sign"),
        ("upstream", "b", "missing_branch"),
        ("lost", "b", "missing_branch"),
    ],
)
def test_a_backward_that_differentiates_what_it_kept_has_its_line(slip: str, name: str, kind: str) -> None:
    report = check_turned(slip)
    assert [row.name for row in report.culprits] == [name], str(report)  # the layers' parameters follow
    mistake = report[name].mistake
    assert mistake is not None
    assert mistake.kind == kind
    assert re.search(rf'ctx\.slip == "{slip}"', first_line(report, name)), str(report)


class Gated(torch.autograd.Function):
    """x + scale * layer(x), the layer run again in the backward."""

    @staticmethod
    def forward(ctx, x, scale, layer, slip, *weights):
        ctx.layer, ctx.slip = layer, slip
        with torch.no_grad():
            moved = layer(x)
        ctx.save_for_backward(x, scale)
        return x + scale * moved

    @staticmethod
    def backward(ctx, dy):
        x, scale = ctx.saved_tensors
        x = x.detach().requires_grad_()
        weights = list(ctx.layer.parameters())
        with torch.enable_grad():
            moved = ctx.layer(x)
        if ctx.slip == "upstream":
            dx, *dweights = torch.autograd.grad(moved, [x, *weights], dy)
        elif ctx.slip == "sign":
            dx, *dweights = torch.autograd.grad([moved], [x, *weights], grad_outputs=[-scale * dy])
        else:
            dx, *dweights = torch.autograd.grad(moved, [x, *weights], scale * dy)
        return dy + dx, moved * dy, None, None, *dweights


class Gate(nn.Module):
    """A layer beside its input."""

    def __init__(self, slip=None, is_custom=True):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.slip, self.is_custom = slip, is_custom

    def forward(self, x, scale):
        if self.is_custom:
            return Gated.apply(x, scale, self.layer, self.slip, *self.layer.parameters())
        return x + scale * self.layer(x)


@pytest.mark.parametrize(("slip", "text"), [("upstream", "*weights], dy)"), ("sign", "[-scale * dy]")])
def test_what_is_handed_to_autograd_is_looked_at_by_itself(slip: str, text: str) -> None:
    torch.manual_seed(4)
    inputs = {"x": torch.randn(5, 3), "scale": torch.randn(5, 3)}
    report = backhand.check_function(Gate(slip), Gate(is_custom=False), inputs, allow=("frozen_input",))
    assert len(report.culprits) == 1, str(report)  # what else comes from that call follows
    assert text in report.culprits[0].lines[0].text
    assert {row.verdict for row in report.rows if row.name.startswith("layer")} == {"follows"}


class Tiles(torch.autograd.Function):
    """A layer over chunks of the rows, one after the other; what it adds to the weights is theirs."""

    @staticmethod
    def forward(ctx, x, layer, count, slip):
        ctx.layer, ctx.count, ctx.slip = layer, count, slip
        ctx.save_for_backward(x)
        with torch.no_grad():
            return torch.cat([layer(piece) for piece in x.chunk(count)])

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        arrived, made, start = dy.chunk(ctx.count), [], 0
        for i, piece in enumerate(x.chunk(ctx.count)):
            piece = piece.detach().requires_grad_()
            with torch.enable_grad():
                y = ctx.layer(piece)
            if ctx.slip == "ones":
                torch.autograd.backward(y, torch.ones_like(y))
            elif ctx.slip == "sign":
                torch.autograd.backward(y, -arrived[i])
            elif ctx.slip == "start":
                d = dy.narrow(0, 0, len(piece))
                torch.autograd.backward(y, d)
            else:
                torch.autograd.backward(y, arrived[0 if ctx.slip == "first" else i])
            made.append(piece.grad)
            start += len(piece)
        return torch.cat(made[::-1] if ctx.slip == "order" else made), None, None, None


class Tiled(nn.Module):
    """A layer, in so many chunks."""

    def __init__(self, slip=None, count=3):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.slip, self.count = slip, count

    def forward(self, x):
        return Tiles.apply(x, self.layer, self.count, self.slip) if self.count else self.layer(x)


@pytest.mark.parametrize(
    ("slip", "text"), [("ones", "ones_like(y)"), ("sign", "-arrived[i]"), ("first", "arrived[0 if")]
)
def test_each_chunk_of_a_layer_that_is_run_again_has_what_arrives_at_it(slip: str, text: str) -> None:
    torch.manual_seed(4)
    right, inputs = Tiled(count=0), {"x": torch.randn(6, 4)}
    report = backhand.check_function(Tiled(slip), right, inputs, allow=("frozen_input",))
    assert [row.name for row in report.culprits] == ["x"], str(report)  # the weights follow
    assert text in first_line(report, "x"), str(report)


def test_where_a_chunk_begins_is_no_axis() -> None:
    torch.manual_seed(4)
    inputs = {"x": torch.randn(6, 4)}
    report = backhand.check_function(Tiled("start"), Tiled(count=0), inputs, allow=("frozen_input",))
    assert first_line(report, "x") == "d = dy.narrow(0, 0, len(piece))"
    mistake = report["x"].mistake
    assert mistake is not None
    assert "`0` stands where `start` belongs" in mistake.message


class Copied(nn.Module):
    """tanh of a copy, which hands on what arrives as it is."""

    def forward(self, x):
        return x.clone().tanh()


def test_of_what_hands_on_what_arrives_no_derivative_is_missing() -> None:
    torch.manual_seed(4)
    module, right = Tiled("order"), Tiled(count=0)
    module.layer = right.layer = Copied()
    report = backhand.check_function(module, right, {"x": torch.randn(6, 4)}, allow=("frozen_input",))
    mistake = report["x"].mistake
    assert mistake is not None
    assert "derivative" not in mistake.message, str(report)


def test_a_right_layer_in_chunks_has_no_wrong_gradient() -> None:
    report = backhand.check_function(Tiled(), Tiled(count=0), {"x": torch.randn(6, 4)})
    assert not report.culprits
