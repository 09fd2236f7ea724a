"""`differentiable` never lies: second derivatives, containers, torch.func, compile, checkpoint, processes."""

import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import backhand
from backhand import passes
from backhand.errors import CheckError
from backhand.passes import layer_norm, rms_norm

TEXTBOOK = sorted(f"backhand.passes.{file.stem}" for file in Path(passes.__file__).parent.glob("[a-z]*.py"))


@pytest.fixture(params=TEXTBOOK, ids=lambda name: name.rpartition(".")[2])
def textbook(request: pytest.FixtureRequest) -> ModuleType:
    module = __import__(request.param, fromlist=["forward"])
    if not hasattr(module, "inputs"):
        pytest.skip("no inputs of its own")
    return module


def drawn(textbook: ModuleType, dtype: torch.dtype = torch.float32) -> dict:
    found = textbook.inputs(torch.Generator().manual_seed(1))
    return {
        k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in found.items()
    }


def floats(inputs: dict) -> list[str]:
    return [k for k, v in inputs.items() if isinstance(v, Tensor) and v.is_floating_point()]


def plain(textbook: ModuleType, inputs: dict) -> Tensor:
    return textbook.forward(**inputs)[getattr(textbook, "out", "loss")]


def test_each_pass_has_autograds_gradients_for_every_input_alone_and_all_together(
    textbook: ModuleType,
) -> None:
    wired = backhand.differentiable(textbook)
    inputs = drawn(textbook)
    names = floats(inputs)
    for needed in [names, *([name] for name in names)]:
        by_hand = {k: v.clone().requires_grad_() if k in needed else v for k, v in inputs.items()}
        by_autograd = {k: v.clone().requires_grad_() if k in needed else v for k, v in inputs.items()}
        y, expected = wired(**by_hand), plain(textbook, by_autograd)
        upstream = torch.randn(y.shape, dtype=y.dtype)
        y.backward(upstream)
        expected.backward(upstream)
        for name in needed:
            torch.testing.assert_close(by_hand[name].grad, by_autograd[name].grad, msg=f"{name} of {needed}")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.func.hessian's own
def test_second_derivatives_of_each_pass_are_refused(textbook: ModuleType) -> None:
    wired = backhand.differentiable(textbook)
    inputs = drawn(textbook)
    name = floats(inputs)[0]

    def scalar(x: Tensor) -> Tensor:
        return wired(**{**inputs, name: x}).sum()

    with pytest.raises(CheckError, match="cannot be differentiated again"):
        torch.autograd.functional.hessian(scalar, inputs[name])
    with pytest.raises((CheckError, RuntimeError, NotImplementedError)):
        torch.func.hessian(scalar)(inputs[name])
    with pytest.raises((CheckError, RuntimeError)):
        torch.func.jacrev(torch.func.jacrev(scalar))(inputs[name])
    x = inputs[name].clone().requires_grad_()
    with pytest.raises(CheckError, match="cannot be differentiated again"):  # a gradient penalty
        torch.autograd.grad(scalar(x), x, create_graph=True)


def test_func_grad_gives_the_gradients_of_each_pass(textbook: ModuleType) -> None:
    wired = backhand.differentiable(textbook)
    inputs = drawn(textbook)
    for name in floats(inputs):
        found = torch.func.grad(lambda x, name=name: wired(**{**inputs, name: x}).sum())(inputs[name])
        expected = torch.func.grad(lambda x, name=name: plain(textbook, {**inputs, name: x}).sum())(
            inputs[name]
        )
        torch.testing.assert_close(found, expected, msg=name)


def test_vmap_goes_through_forward_and_backward() -> None:
    wired = backhand.differentiable(rms_norm)
    x, gain = torch.randn(7, 3, 5), torch.randn(5)
    torch.testing.assert_close(
        torch.func.vmap(wired, (0, None))(x, gain), torch.stack([wired(row, gain) for row in x])
    )
    of_each = torch.func.vmap(
        torch.func.grad(lambda x, gain: wired(x, gain).square().sum(), argnums=(0, 1)), (0, None)
    )
    dx, dgain = of_each(x, gain)
    plainly = torch.func.vmap(
        torch.func.grad(lambda x, gain: rms_norm.forward(x, gain)["y"].square().sum(), argnums=(0, 1)),
        (0, None),
    )
    expected = plainly(x, gain)
    torch.testing.assert_close(dx, expected[0])
    torch.testing.assert_close(dgain, expected[1])


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


def test_it_can_be_pickled() -> None:
    norm = pickle.loads(pickle.dumps(backhand.differentiable(layer_norm)))
    x = torch.randn(2, 3, 5, requires_grad=True)
    norm(x, torch.ones(5), torch.zeros(5)).sum().backward()
    assert x.grad is not None


def test_what_nobody_needs_is_neither_saved_nor_computed() -> None:
    computed: list[str] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            computed.append(str(func))
            return func(*args, **(kwargs or {}))

    def saved_by(*needed: str) -> tuple[list[tuple[int, ...]], int]:
        saved: list[tuple[int, ...]] = []
        inputs = {k: v.clone().requires_grad_(k in needed) for k, v in drawn(layer_norm).items()}

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


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    wired = backhand.differentiable(layer_norm)
    x, gain, bias = (torch.randn(s, requires_grad=True) for s in ((2, 3, 5), (5,), (5,)))
    wired(x, gain, bias).square().sum().backward()
    expected = [t.grad.clone() for t in (x, gain, bias)]
    for t in (x, gain, bias):
        t.grad = None
    checkpoint(wired, x, gain, bias, use_reentrant=reentrant).square().sum().backward()
    assert all(torch.equal(t.grad, e) for t, e in zip((x, gain, bias), expected, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torch_compile_gives_the_same_gradients() -> None:
    wired = backhand.differentiable(rms_norm)

    def model(x: Tensor, gain: Tensor) -> Tensor:
        return (2 * wired(x.sin(), gain)).square().sum()

    x, gain = torch.randn(4, 6, requires_grad=True), torch.randn(6, requires_grad=True)
    expected = torch.autograd.grad(model(x, gain), (x, gain))
    found = torch.autograd.grad(torch.compile(model, backend="aot_eager")(x, gain), (x, gain))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


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


PARALLEL = """
import os, sys, torch, torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
import backhand
from backhand.passes import rms_norm

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.gain = nn.Linear(6, 6), nn.Parameter(torch.ones(6))
        self.norm = backhand.differentiable(rms_norm)
    def forward(self, x):
        return self.norm(self.a(x), self.gain)

def work(rank, kind, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    net = Net()
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    alone = Net(); alone(x).square().mean().backward()
    if kind == "ddp":
        whole = nn.parallel.DistributedDataParallel(net)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        whole = fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
    whole(x.chunk(2)[rank]).square().mean().backward()
    for p, q in zip(net.parameters(), alone.parameters()):
        g = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
        torch.testing.assert_close(g, q.grad)
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1], sys.argv[2]), nprocs=2)
    print("same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_as_one_does(tmp_path: Path, kind: str) -> None:
    (tmp_path / "parallel.py").write_text(PARALLEL)
    command = [sys.executable, str(tmp_path / "parallel.py"), kind, str(tmp_path / "meet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("same"), done.stderr[-2000:]
