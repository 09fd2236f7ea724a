"""Modules beside modules, what a reference closes over, and what a function may refuse."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import backhand


class Scaled(torch.autograd.Function):
    """x * weight; its backward is off by `factor` in weight, and may refuse what does not lie contiguous."""

    @staticmethod
    def forward(ctx, x, weight, factor, strict):
        ctx.save_for_backward(x, weight)
        ctx.factor, ctx.strict = factor, strict
        return x * weight

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        if ctx.strict and not dy.is_contiguous():
            raise ValueError("dy must be contiguous")
        return dy * weight, ctx.factor * (dy * x).sum(0), None, None


class Scale(nn.Module):
    """A layer of one parameter, and a buffer in float32 that it counts its calls in."""

    def __init__(self, factor=1.0, strict=False, custom=True):
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 1.5))
        self.register_buffer("calls", torch.zeros(()))
        self.factor, self.strict, self.custom = factor, strict, custom

    def forward(self, x):
        self.calls += 1
        return Scaled.apply(x, self.weight, self.factor, self.strict) if self.custom else x * self.weight


X = torch.linspace(-1, 1, 12).view(3, 4)


def test_a_module_is_judged_by_its_parameters_too() -> None:
    module = Scale(factor=1.5)
    report = backhand.check_function(module, Scale(custom=False), {"x": X})
    assert {row.name: row.verdict for row in report.rows} == {"x": "right", "weight": "wrong"}
    assert report["weight"].mistake.kind == "scale"
    assert report.precision == "float64"
    assert module.calls == 0  # its own state is as it was
    assert backhand.check_function(Scale(), Scale(custom=False), [X]).ok


class Halves(torch.autograd.Function):
    """(a + f(b), b + g(a + f(b))): what lies between is computed again in the backward, by the layers."""

    @staticmethod
    def forward(ctx, x, f, g, *weights):
        ctx.layers = f, g
        ctx.save_for_backward(x)
        with torch.no_grad():
            return halves(x, f, g)

    @staticmethod
    def backward(ctx, dy):
        f, g = ctx.layers
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = halves(x, f, g)
        weights = [w for w in (*f.parameters(), *g.parameters()) if w.requires_grad]
        dx, *found = torch.autograd.grad(y, [x, *weights], dy)
        each = iter(found)
        given = [next(each) if w.requires_grad else None for w in (*f.parameters(), *g.parameters())]
        return dx, None, None, *given


def halves(x, f, g):
    """Both halves, each moved by a layer of the other."""
    a, b = x.chunk(2, 1)
    a = a + f(b)
    return torch.cat([a, b + g(a)], 1)


class Adding(torch.autograd.Function):
    """A layer that is run again in the backward, which adds the layer's own gradients to their `.grad`."""

    @staticmethod
    def forward(ctx, x, layer, factor):
        ctx.layer, ctx.factor = layer, factor
        ctx.save_for_backward(x)
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx, dy):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.layer(x)
        torch.autograd.backward(y, ctx.factor * dy)
        return x.grad / ctx.factor, None, None


class Recomputed(nn.Module):
    """One layer."""

    def __init__(self, factor=None):
        super().__init__()
        self.layer, self.factor = nn.Linear(3, 2), factor

    def forward(self, x):
        return self.layer(x) if self.factor is None else Adding.apply(x, self.layer, self.factor)


def test_what_a_backward_adds_to_the_parameters_by_itself_is_their_gradient() -> None:
    x = torch.randn(4, 3)
    module = Recomputed(factor=1.0)
    right = backhand.check_function(module, Recomputed(), {"x": x}, allow=("frozen_input",))
    assert right.ok, str(right)
    assert all(p.grad is None for p in module.parameters())
    (frozen,) = backhand.check_function(Recomputed(factor=1.0), Recomputed(), {"x": x}).stress
    assert frozen.kind == "frozen_input"
    assert "if x needs no gradient, Recomputed gives no output that needs a gradient" in frozen.message
    wrong = backhand.check_function(Recomputed(factor=2.0), Recomputed(), {"x": x}, allow=("frozen_input",))
    assert {row.name: row.verdict for row in wrong.rows} == {
        "x": "right",
        "layer.weight": "wrong",
        "layer.bias": "wrong",
    }


class Reversible(nn.Module):
    """Two layers that move one half by the other."""

    def __init__(self, f, g, how):
        super().__init__()
        self.f, self.g, self.how = f, g, how

    def forward(self, x):
        if self.how == "custom":
            return Halves.apply(x, self.f, self.g, *self.f.parameters(), *self.g.parameters())
        if self.how == "checkpoint":
            return checkpoint(halves, x, self.f, self.g, use_reentrant=False)
        return halves(x, self.f, self.g)


@pytest.mark.parametrize(("how", "reference"), [("custom", "plain"), ("plain", "checkpoint")])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_backward_that_runs_its_layers_again_finds_the_parameters_of_its_forward(
    how: str, reference: str, is_shared: bool
) -> None:
    f, g = nn.Linear(2, 2), nn.Linear(2, 2)
    others = (f, g) if is_shared else (nn.Linear(2, 2), nn.Linear(2, 2))
    module = Reversible(f, g, how)
    before = [(name, id(p)) for name, p in module.named_parameters()]
    report = backhand.check_function(module, Reversible(*others, reference), {"x": torch.randn(3, 4)})
    assert report.ok, str(report)
    assert report.precision == "float64"
    assert [(name, id(p)) for name, p in module.named_parameters()] == before


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_a_scripted_module_is_refused_in_one_line() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(backhand.CheckError, match="before it is scripted"):
        backhand.check_function(torch.jit.script(layer), layer, {"x": torch.randn(3, 2)})


def test_modules_with_other_parameters_are_refused_in_one_line() -> None:
    with pytest.raises(backhand.CheckError, match="only the reference has bias"):
        backhand.check_function(Scale(), nn.Linear(4, 4), {"x": X})
    with pytest.raises(backhand.CheckError, match="the parameter weight has the shapes"):
        backhand.check_function(Scale(), nn.Linear(4, 4, bias=False), {"x": X})


@pytest.mark.parametrize("held", [torch.linspace(1, 2, 4), nn.Linear(4, 4)])
def test_what_a_reference_holds_does_not_lower_the_verdict(held) -> None:
    def reference(x):
        return held(x) if isinstance(held, nn.Module) else x * held

    def own(x):
        if isinstance(held, nn.Module):
            return nn.functional.linear(x, held.weight.to(x.dtype), held.bias.to(x.dtype))
        return x * held.to(x.dtype)

    report = backhand.check_function(own, reference, {"x": X})
    assert report.ok
    assert report.precision == "float64"
    bare = backhand.check_function(own, held, {"x": X}) if isinstance(held, nn.Module) else report
    assert bare.precision == "float64"


def test_an_exception_can_be_allowed_and_is_said_to_be_untried() -> None:
    modules = Scale(strict=True), Scale(custom=False)
    refused = backhand.check_function(*modules, {"x": X})
    assert [failure.kind for failure in refused.stress] == ["layout"]
    allowed = backhand.check_function(*modules, {"x": X}, allow=("layout",))
    assert allowed.ok
    assert "dy must be contiguous" in allowed.notes[-1]
    with pytest.raises(backhand.CheckError, match="'layuot'"):
        backhand.check_function(*modules, {"x": X}, allow=("layuot",))


class AsItLies(torch.autograd.Function):
    """2 * x, by a backward that reads its upstream gradient as if it lay contiguous, and refuses offsets."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, dy):
        if dy.storage_offset():
            raise ValueError("no offsets")
        return 2 * torch.as_strided(dy, dy.shape, (dy.shape[1], 1))


def test_wrong_numbers_are_never_allowed() -> None:
    report = backhand.check_function(AsItLies, lambda x: 2 * x, {"x": X}, allow=("layout",))
    assert not report.ok
    assert all("wrong" in failure.message for failure in report.stress)


def test_what_has_no_elements_is_not_right() -> None:
    report = backhand.check_function(AsItLies, lambda x: 2 * x, {"x": torch.randn(0, 4)})
    assert report["x"].verdict == "vacuous"
    assert "right" not in str(report).splitlines()[0]


def test_a_report_on_a_function_says_what_was_not_tried() -> None:
    report = backhand.check_function(Scale(), Scale(custom=False), {"x": X})
    assert "second derivatives" in report.notes[-1]
