"""`differentiable` never lies: second derivatives, containers, starred arguments, what nobody needs."""

import pytest
import torch
from torch import Tensor, nn

import backhand
from backhand.errors import CheckError
from backhand.passes import layer_norm, rms_norm


def test_the_hessian_of_a_cube_is_no_zero() -> None:
    cube = backhand.differentiable(lambda x: {"y": x**3}, lambda dy, x: {"dx": 3 * x**2 * dy}, out="y")
    with pytest.raises(CheckError, match="differentiated again"):
        torch.autograd.functional.hessian(cube, torch.tensor(2.0))


def scale(*xs: Tensor, by: float = 2.0, **more: Tensor) -> dict:
    y = by * sum(xs) + sum(more.values())
    return {"y": y, "by": by, "xs": xs, "more": more}


def scale_backward(dy: Tensor, by: float, xs: tuple[Tensor, ...], more: dict[str, Tensor]) -> dict:
    return {"dxs": [by * dy for _ in xs], **{f"d{name}": dy for name in more}}


def test_starred_arguments_keywords_and_defaults() -> None:
    wired = backhand.differentiable(scale, scale_backward, out="y")
    a, b, c = (torch.randn(3, requires_grad=True) for _ in range(3))
    wired(a, b, by=5.0, c=c).sum().backward()
    assert [t.grad.tolist() for t in (a, b, c)] == [[5.0] * 3, [5.0] * 3, [1.0] * 3]
    wired(a).sum().backward()
    assert a.grad.tolist() == [7.0] * 3
    with pytest.raises(TypeError, match="missing a required"):
        backhand.differentiable(rms_norm)()
    with pytest.raises(TypeError, match="unexpected keyword"):
        backhand.differentiable(rms_norm)(a, a, bias=a)


def test_tensors_in_containers_get_their_gradients_or_raise() -> None:
    def forward(ws, more):
        y = ws[0] * ws[1] + more["b"]
        return locals()

    def backward(dy, ws, more):
        return {"dws": [dy * ws[1], dy * ws[0]], "dmore": {"b": dy}}

    u, v, b = (torch.randn(3, requires_grad=True) for _ in range(3))
    backhand.differentiable(forward, backward, out="y")([u, v], {"b": b}).sum().backward()
    assert torch.equal(u.grad, v)
    assert torch.equal(v.grad, u)
    assert torch.equal(b.grad, torch.ones(3))
    lacking = backhand.differentiable(forward, lambda dy, ws: {"dws": [dy * ws[1], dy * ws[0]]}, out="y")
    with pytest.raises(CheckError, match="needs a gradient"):
        lacking([u, v], {"b": b}).sum().backward()


@pytest.mark.seconds
def test_what_nobody_needs_is_neither_saved_nor_computed() -> None:
    computed: list[str] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            computed.append(str(func))
            return func(*args, **(kwargs or {}))

    def saved_by(*needed: str) -> tuple[list[tuple[int, ...]], int]:
        saved: list[tuple[int, ...]] = []
        inputs = {
            k: v.clone().requires_grad_(k in needed) for k, v in layer_norm.inputs(torch.Generator()).items()
        }

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tuple(tensor.shape))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = backhand.differentiable(layer_norm)(**inputs)
        computed.clear()
        with Spy():
            y.sum().backward()
        return saved, len(computed)

    everything = saved_by("x", "gain", "bias")
    assert everything[0] == [(5,), (2, 3, 5), (2, 3, 1)]
    assert saved_by("bias")[0] == []
    assert saved_by("gain")[0] == [(2, 3, 5)]
    assert saved_by("bias")[1] < saved_by("gain")[1] < everything[1]


def test_inference_saves_nothing() -> None:
    x = torch.randn(2, 3, 5)
    with torch.no_grad():
        y = backhand.differentiable(layer_norm)(x, torch.ones(5), torch.zeros(5))
    torch.testing.assert_close(y, nn.functional.layer_norm(x, (5,)))


def test_a_call_like_one_before_is_wired_by_what_its_own_forward_returns() -> None:
    def forward(x: Tensor, w: Tensor) -> dict:
        power = 2 if x.sum() > 0 else torch.tensor(3.0)  # a number, or a tensor
        found = {"y": w * x**power, "power": power}
        return found if len(x) < 5 else found | {"dy": torch.full_like(x, 7.0)}  # its own, not the upstream

    def backward(power, dy, x, w):
        return {"dx": w * power * x ** (power - 1) * dy, "d_w": x**power * dy}

    wired = backhand.differentiable(forward, backward, out="y")
    for sign, n in ((1, 3), (-1, 3), (1, 4), (1, 6)):
        x, w = (sign * (torch.rand(n) + 0.1)).requires_grad_(), torch.rand(n).requires_grad_()
        dx, dw = torch.autograd.grad(wired(x, w).sum(), (x, w))
        expected = torch.autograd.grad(forward(x, w)["y"].sum(), (x, w))
        factor = 7 if n > 5 else 1
        torch.testing.assert_close(dx, factor * expected[0])
        torch.testing.assert_close(dw, factor * expected[1])
        (alone,) = torch.autograd.grad(wired(x.detach(), w).sum(), w)
        torch.testing.assert_close(alone, dw)


def test_a_call_like_one_before_is_refused_what_it_was_refused() -> None:
    shapes = iter([(3,), (1, 3)])
    wired = backhand.differentiable(
        lambda x: {"y": 2 * x}, lambda dy, x: {"dx": 2 * dy.reshape(next(shapes))}, out="y"
    )
    x = torch.randn(3, requires_grad=True)
    for _ in range(2):
        y = wired(x)  # the second is wired as the first was
    y.sum().backward()
    with pytest.raises(CheckError, match=r"'dx' in shape \(1, 3\); 'x' has \(3,\)"):
        wired(x).sum().backward()
    with pytest.raises(CheckError, match="differentiated again"):
        torch.autograd.grad(wired(x).sum(), x, create_graph=True)
