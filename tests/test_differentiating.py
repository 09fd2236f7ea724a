"""`differentiable`: autograd calls the hand-written backward of a pass."""

import re

import pytest
import torch
from torch import Tensor, nn

import backhand
from backhand.passes import layer_norm


def test_torchs_own_gradcheck_and_check_function_accept_it() -> None:
    norm = backhand.differentiable(layer_norm)
    drawn = layer_norm.inputs(torch.Generator().manual_seed(1))
    leaves = [v.double().requires_grad_() for v in drawn.values()]
    assert torch.autograd.gradcheck(norm, leaves)
    report = backhand.check_function(
        norm, lambda x, gain, bias: nn.functional.layer_norm(x, (5,), gain, bias), inputs=drawn
    )
    assert report.ok, report


def test_only_what_the_backward_asks_for_is_saved() -> None:
    saved: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    drawn = {k: _leaf(v) for k, v in layer_norm.inputs(torch.Generator().manual_seed(1)).items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        backhand.differentiable(layer_norm)(**drawn)
    assert saved == [(5,), (2, 3, 5), (2, 3, 1)]  # gain, xhat, inv_std


def test_several_outputs_come_in_the_order_of_out() -> None:
    def forward(x):
        double, square = 2 * x, x * x
        return locals()

    def backward(ddouble, dsquare, x):
        return {"dx": 2 * ddouble + 2 * x * dsquare}

    x = torch.randn(4, requires_grad=True)
    square, double = backhand.differentiable(forward, backward, out=("square", "double"))(x)
    assert torch.equal(square, x * x)
    assert torch.equal(double, 2 * x)
    double.sum().backward()  # square has no upstream gradient: zeros arrive
    assert torch.equal(x.grad, torch.full((4,), 2.0))


def test_the_upstream_gradient_of_a_loss_counts_once() -> None:
    def backward(dloss, x):
        return {"dx": 2 * x * dloss}

    x = torch.randn(4, requires_grad=True)
    loss = backhand.differentiable(lambda x: {"loss": x.square().sum()}, backward)(x)
    (3 * loss).backward()
    torch.testing.assert_close(x.grad, 6 * x.detach())


def test_defaults_and_plain_numbers_pass_through() -> None:
    norm = backhand.differentiable(layer_norm)
    x = torch.randn(2, 3, 5, requires_grad=True)
    loose = norm(x, torch.ones(5), torch.zeros(5), eps=10.0)
    assert not torch.allclose(loose, norm(x, torch.ones(5), torch.zeros(5)))
    loose.sum().backward()  # gain and bias need no gradient
    assert x.grad is not None


def test_a_gradient_that_is_needed_and_not_there_is_named() -> None:
    y = backhand.differentiable(lambda x, w: {"y": x * w}, lambda dy, w: {"dx": dy * w}, out="y")(
        torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    )
    with pytest.raises(backhand.BackhandError, match="backward returns no 'dw', though 'w' needs a gradient"):
        y.sum().backward()


def test_a_gradient_in_another_shape_is_never_reduced_silently() -> None:
    def backward(dy, x, bias):
        return {"dx": dy, "dbias": dy}

    y = backhand.differentiable(lambda x, bias: {"y": x + bias}, backward, out="y")(
        torch.randn(3, 4, requires_grad=True), torch.randn(4, requires_grad=True)
    )
    with pytest.raises(backhand.BackhandError, match=re.escape("'dbias' in shape (3, 4); 'bias' has (4,)")):
        y.sum().backward()


def test_an_output_that_is_not_there_is_told() -> None:
    wired = backhand.differentiable(lambda x: {"result": 2 * x}, lambda dy: {"dx": 2 * dy}, out="results")
    with pytest.raises(backhand.BackhandError, match="no tensor 'results'; did you mean result"):
        wired(torch.randn(3, requires_grad=True))


def test_a_second_derivative_is_refused_for_it_would_be_wrong() -> None:
    def forward(x):
        h = x.tanh()
        y = h * x
        return {"h": h, "y": y}

    def backward(dy, x, h):  # autograd could follow x through it, but not h, which is no input
        return {"dx": (h + (1 - h**2) * x) * dy}

    x = torch.randn(4, requires_grad=True)
    y = backhand.differentiable(forward, backward, out="y")(x)
    with pytest.raises(backhand.BackhandError, match="a second one would be wrong"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_the_gradient_of_a_name_is_d_and_the_name_before_any_other() -> None:
    def backward(dy):
        return {"d_x": 17 * dy, "dx": 2 * dy}

    x = torch.randn(3, requires_grad=True)
    backhand.differentiable(lambda x: {"y": 2 * x}, backward, out="y")(x).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def _leaf(value: Tensor) -> Tensor:
    return value.clone().requires_grad_(value.is_floating_point())
