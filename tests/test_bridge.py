"""Every pass of the textbook through `differentiable`, beside autograd, in all that torch does with it."""

import importlib
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import backhand
from backhand import differentiating, passes
from backhand.differentiating import FOLLOWS_LOCALS
from backhand.errors import CheckError
from backhand.passes import rms_norm

BRIDGING = Path(__file__).with_name("bridging.py")
TEXTBOOK = sorted(file.stem for file in Path(passes.__file__).parent.glob("[a-z]*.py"))


@pytest.fixture(params=TEXTBOOK)
def textbook(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"backhand.passes.{request.param}")


def drawn(textbook: ModuleType) -> dict[str, Any]:
    """Inputs of a pass; a fused model takes those of the model."""
    name = textbook.__name__
    source = textbook if hasattr(textbook, "inputs") else importlib.import_module(name[:-5] + "model")
    asked = inspect.signature(textbook.forward).parameters
    found = source.inputs(torch.Generator().manual_seed(1))
    return {name: value for name, value in found.items() if name in asked}


def floats(inputs: dict[str, Any]) -> list[str]:
    return [k for k, v in inputs.items() if isinstance(v, Tensor) and v.is_floating_point()]


def first_and_last(inputs: dict[str, Any]) -> set[str]:
    return {floats(inputs)[0], floats(inputs)[-1]}


def plain(textbook: ModuleType) -> Callable[..., Tensor]:
    """The forward alone, which autograd follows."""
    return lambda **inputs: textbook.forward(**inputs)[getattr(textbook, "out", "loss")]


def random_like(y: Tensor) -> Tensor:
    return torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))


def gradients(
    function: Callable[..., Tensor], inputs: dict[str, Any], needed: list[str], factor: float | None = None
) -> dict[str, Tensor]:
    """The gradients of some inputs, for a random upstream gradient, or one of a factor everywhere."""
    leaves = {k: v.clone().requires_grad_() if k in needed else v for k, v in inputs.items()}
    y = function(**leaves)
    upstream = random_like(y) if factor is None else torch.full_like(y, factor)
    found = torch.autograd.grad(y, [leaves[name] for name in needed], upstream)
    return dict(zip(needed, found, strict=True))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], times: float = 1) -> None:
    """Compare at torch's own tolerance of float32, or some times it."""
    rtol, atol = 1.3e-6 * times, 1e-5 * times
    for name, gradient in expected.items():
        told = {"msg": lambda m, name=name: f"{name}: {m}"}
        torch.testing.assert_close(found[name], gradient, rtol=rtol, atol=atol, **told)


def test_each_input_has_autograds_gradient_alone_and_with_all_others(textbook: ModuleType) -> None:
    wired, inputs = backhand.differentiable(textbook), drawn(textbook)
    for needed in [floats(inputs), *([name] for name in floats(inputs))]:
        assert_same(gradients(wired, inputs, needed), gradients(plain(textbook), inputs, needed))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.func.hessian's own
def test_a_second_derivative_is_an_error(textbook: ModuleType) -> None:
    wired, inputs = backhand.differentiable(textbook), drawn(textbook)
    for name in first_and_last(inputs):

        def scalar(x: Tensor, name: str = name) -> Tensor:
            return wired(**{**inputs, name: x}).sum()

        def penalty(x: Tensor) -> Tensor:
            return torch.func.grad(scalar)(x).square().sum()

        with pytest.raises(CheckError, match="cannot be differentiated again"):
            torch.autograd.grad(scalar(x := inputs[name].clone().requires_grad_()), x, create_graph=True)
        with pytest.raises(CheckError, match="cannot be differentiated again"):
            torch.func.grad(penalty)(inputs[name])
        with pytest.raises(NotImplementedError, match="forward mode"):
            torch.func.hessian(scalar)(inputs[name])
    with pytest.raises(CheckError, match="cannot be differentiated again"):
        torch.autograd.functional.hessian(scalar, inputs[name])


def test_func_grad_gives_autograds_gradients(textbook: ModuleType) -> None:
    wired, inputs = backhand.differentiable(textbook), drawn(textbook)

    def of_all(function: Callable[..., Tensor]) -> dict[str, Tensor]:
        of_floats = {name: inputs[name] for name in floats(inputs)}
        return torch.func.grad(lambda tensors: function(**{**inputs, **tensors}).sum())(of_floats)

    assert_same(of_all(wired), of_all(plain(textbook)))


def per_example(function: Callable[..., Tensor], inputs: dict[str, Any], batch: dict[str, Tensor]) -> Any:
    """The value and the gradients for each of a batch of some inputs."""
    of_one = torch.func.grad_and_value(lambda tensors: function(**{**inputs, **tensors}).sum())
    return torch.func.vmap(of_one)(batch)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_is_a_loop_or_an_error(textbook: ModuleType) -> None:
    wired, inputs = backhand.differentiable(textbook), drawn(textbook)
    batches = {k: torch.stack([inputs[k] * factor for factor in (1, 0.5, -2)]) for k in floats(inputs)}
    refused = []
    for needed in [floats(inputs), *([name] for name in first_and_last(inputs))]:
        batch = {name: batches[name] for name in needed}
        try:
            found, values = per_example(wired, inputs, batch)
        except RuntimeError:  # where numbers of the batch go into a tensor that has none
            refused.append(needed)
            continue
        for i, value in enumerate(values):
            one = {**inputs, **{name: tensor[i] for name, tensor in batch.items()}}
            torch.testing.assert_close(value, plain(textbook)(**one).sum())
            expected = gradients(lambda **tensors: plain(textbook)(**tensors).sum(), one, needed, 1.0)
            # products of a whole batch round elsewhere
            assert_same({name: found[name][i] for name in needed}, expected, times=10)
    looks_at_numbers = "one_hot" in inspect.getsource(textbook.backward)
    assert looks_at_numbers or floats(inputs) not in refused


@pytest.mark.slow
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_bit(textbook: ModuleType, reentrant: bool) -> None:
    wired, inputs = backhand.differentiable(textbook), drawn(textbook)
    names = list(inputs)

    def recomputed(**tensors: Any) -> Tensor:
        return checkpoint(
            lambda *values: wired(**dict(zip(names, values, strict=True))),
            *tensors.values(),
            use_reentrant=reentrant,
        )

    if reentrant:  # torch.autograd.grad cannot go through this one
        leaves = {k: v.clone().requires_grad_() if k in floats(inputs) else v for k, v in inputs.items()}
        y = recomputed(**leaves)
        y.backward(random_like(y))
        found = {name: leaves[name].grad for name in floats(inputs)}
    else:
        found = gradients(recomputed, inputs, floats(inputs))
    expected = gradients(wired, inputs, floats(inputs))
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_a_pickle_gives_the_same_gradients(textbook: ModuleType) -> None:
    wired, inputs = backhand.differentiable(textbook), drawn(textbook)
    expected = gradients(wired, inputs, floats(inputs))  # it may have learnt how it is called
    found = gradients(pickle.loads(pickle.dumps(wired)), inputs, floats(inputs))
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def compiled(function: Callable[..., Any], backend: str, whole: bool = False) -> Callable[..., Any]:
    torch._dynamo.reset()
    return torch.compile(function, backend=backend, fullgraph=whole)


def sine_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda **inputs: function(**inputs).sin()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torch_compile_gives_the_same_gradients_in_one_graph(textbook: ModuleType) -> None:
    inputs = drawn(textbook)
    # what a mask picks has no size that a graph could know
    whole = FOLLOWS_LOCALS and "bigram_fused" not in textbook.__name__
    for needed in (floats(inputs), floats(inputs)[-1:]):
        alike = compiled(sine_of(backhand.differentiable(textbook)), "aot_eager", whole)
        expected = gradients(sine_of(plain(textbook)), inputs, needed)
        assert_same(gradients(alike, inputs, needed), expected)


@pytest.mark.seconds
@pytest.mark.filterwarnings("ignore")
def test_a_compiler_that_cannot_follow_locals_calls_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differentiating, "FOLLOWS_LOCALS", False)
    function, x, gain = backhand.differentiable(rms_norm), torch.randn(3, 5), torch.randn(5)
    x.requires_grad_()
    (found,) = torch.autograd.grad(compiled(lambda x: function(x, gain).sin().sum(), "aot_eager")(x), x)
    (expected,) = torch.autograd.grad(rms_norm.forward(x, gain)["y"].sin().sum(), x)
    torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match=r"torch\.compiler\.disable"):
        compiled(lambda x: function(x, gain).sin().sum(), "aot_eager", whole=True)(x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_eager_backend_gives_no_second_derivative(textbook: ModuleType) -> None:
    wired, inputs = backhand.differentiable(textbook), drawn(textbook)
    name = floats(inputs)[-1]
    x = inputs[name].clone().requires_grad_()
    y = compiled(lambda x: wired(**{**inputs, name: x}).sum(), "eager")(x)
    with pytest.raises(CheckError, match="cannot be differentiated again"):
        torch.autograd.grad(y, x, create_graph=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_transform_of_a_transform_is_right_or_an_error(textbook: ModuleType) -> None:
    wired, inputs = backhand.differentiable(textbook), drawn(textbook)
    name = floats(inputs)[-1]

    def penalty(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        slope = torch.func.grad(lambda x: function(**{**inputs, name: x}).sin().sum())
        return torch.func.grad(lambda x: slope(x).square().sum() + x.sum())

    try:
        found = compiled(penalty(wired), "eager")(inputs[name])
    except Exception:
        return
    assert_same({name: found}, {name: penalty(plain(textbook))(inputs[name])}, times=10)


@pytest.mark.seconds
@pytest.mark.filterwarnings("ignore")
def test_no_second_derivative_comes_out_of_what_was_compiled() -> None:
    wired, x, gain = backhand.differentiable(rms_norm), torch.randn(3, 5), torch.randn(5)
    x.requires_grad_()

    def penalty(x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(wired(x, gain).sum(), x, create_graph=True)
        return slope.square().sum()

    with pytest.raises(CheckError, match="cannot be differentiated again"):
        compiled(penalty, "eager")(x)
    if not FOLLOWS_LOCALS:  # what the compiler only calls refuses by itself, whatever compiles the rest
        return
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(compiled(penalty, "aot_eager")(x), x)
    y = compiled(lambda x: wired(x, gain).square().sum(), "aot_eager")(x)
    (slope,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        slope.sum().backward()


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def trained_in_two(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What came of each pass in two processes that share gradients, or parameters too."""
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, str(BRIDGING), request.param, str(folder / "meet"), *TEXTBOOK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_two_processes_train_as_one_does(trained_in_two: dict[str, str], textbook: ModuleType) -> None:
    assert trained_in_two[textbook.__name__.rpartition(".")[2]] == "same"
