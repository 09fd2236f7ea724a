"""What a GPU changes: tensors that live there, its random states, its steps. Skipped where there is none."""

import dataclasses
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import backhand
from backhand import passes
from backhand.engines.native_words import Moments, Settings
from backhand.engines.word_engines import WORD_ENGINES
from backhand.language.recipes import CONFIGS
from kernels import OneIsKept, first, operation, product
from word_batches import random_batches

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

TEXTBOOK = [module.name for module in pkgutil.iter_modules(passes.__path__) if not module.ispkg]


def moved(value: Any) -> Any:
    """A tensor, or what holds tensors, on the GPU."""
    if isinstance(value, dict):
        return {name: moved(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(moved, value))
    return value.cuda() if isinstance(value, Tensor) else value


def leaf(value: Any) -> Any:
    needs = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().clone().requires_grad_() if needs else value


@pytest.mark.parametrize("name", TEXTBOOK)
def test_a_pass_of_the_textbook_is_right_on_the_device_of_its_inputs(name: str) -> None:
    textbook = import_module(f"backhand.passes.{name}")
    drawing = (
        textbook
        if hasattr(textbook, "inputs")
        else import_module(f"backhand.passes.{name.removesuffix('_fused')}_model")
    )
    report = backhand.check(textbook, inputs=lambda generator: moved(drawing.inputs(generator)))
    assert report.ok, str(report)


@pytest.mark.parametrize("name", ["layer_norm", "attention", "mlp_fused", "rnn", "linear_cross_entropy"])
def test_autograd_calls_the_hand_written_backward_there(name: str) -> None:
    textbook = import_module(f"backhand.passes.{name}")
    drawn = moved(textbook.inputs(torch.Generator().manual_seed(1)))
    by_hand, by_autograd = ({k: leaf(v) for k, v in drawn.items()} for _ in range(2))
    y = backhand.differentiable(textbook)(**by_hand)
    expected = textbook.forward(**by_autograd)[getattr(textbook, "out", "loss")]
    y.sum().backward()
    expected.sum().backward()
    assert y.is_cuda
    for k, value in by_hand.items():
        if isinstance(value, Tensor) and value.requires_grad:
            torch.testing.assert_close(value.grad, by_autograd[k].grad, msg=k)


def softmax_forward(x: Tensor) -> dict[str, Tensor]:
    counts = x.exp()
    total = counts.sum(1, keepdim=True)
    p = counts / total
    return locals()


def softmax_backward(dp: Tensor, p: Tensor, total: Tensor, counts: Tensor) -> dict[str, Tensor]:
    dcounts = dp / total
    dtotal = (-dp * counts / total).sum(1, keepdim=True)
    dcounts = dcounts + dtotal
    dx = dcounts * counts
    return locals()


def test_a_wrong_line_is_told_there_as_on_a_cpu() -> None:
    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.randn(4, 5, generator=generator)}

    told = []
    for inputs in (draw, lambda generator: moved(draw(generator))):
        report = backhand.check(softmax_forward, softmax_backward, inputs=inputs, out="p")
        told.append([(row.name, row.lines, row.mistake.kind) for row in report.culprits])
    assert told[0] == told[1]
    assert [name for name, _, _ in told[0]] == ["dtotal"] or [name for name, _, _ in told[0]] == ["total"]


def test_a_function_is_judged_there_in_each_dtype() -> None:
    def inputs(dtype: torch.dtype) -> Any:
        return lambda generator: {
            name: torch.randn(64, 5, generator=generator).to("cuda", dtype) for name in ("x", "w")
        }

    right, wrong = operation(lambda g, x, w: (g * w, g * x)), operation(first)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        report = backhand.check_function(right.apply, product, inputs(dtype))
        assert report.ok, str(report)
        report = backhand.check_function(wrong.apply, product, inputs(dtype))
        assert {row.mistake.kind for row in report.culprits} == {"ignores_upstream"}, str(report)


def test_a_check_leaves_the_random_states_of_the_gpu_as_they_were() -> None:
    torch.cuda.manual_seed(7)
    torch.rand(3, device="cuda")
    before = torch.cuda.get_rng_state()
    dropped = operation(lambda g, x, w: (g * w, g * x))

    def forward(x: Tensor, w: Tensor) -> Tensor:
        torch.rand(5, device="cuda")
        return dropped.apply(x, w)

    inputs = {name: torch.randn(3, 4, device="cuda") for name in ("x", "w")}
    before = torch.cuda.get_rng_state()
    assert backhand.check_function(forward, product, inputs).ok
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_dropout_there_is_the_same_in_every_run_that_is_compared() -> None:
    def forward(x: Tensor) -> dict[str, Tensor]:
        mask = (torch.rand(x.shape, device=x.device) > 0.5).to(x.dtype)
        y = x * mask
        return locals()

    def backward(dy: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"dx": dy * mask}

    report = backhand.check(forward, backward, inputs={"x": torch.randn(6, 7, device="cuda")}, out="y")
    assert report.ok, str(report)


class Distance(torch.autograd.Function):
    """Half of the mean distance, a scalar that autograd makes with a number of the CPU."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor) -> Tensor:
        ctx.save_for_backward(p, q)
        return 0.5 * (p - q).abs().sum() / len(p)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        p, q = ctx.saved_tensors
        return dy * (p - q).sign() / len(p), None


def test_a_number_of_the_cpu_beside_a_scalar_of_the_gpu_is_no_obstacle() -> None:
    inputs = {name: torch.randn(5, 33, device="cuda") for name in "pq"}
    report = backhand.check_function(
        Distance, lambda p, q: 0.5 * (p - q).abs().sum() / len(p), inputs, no_gradient=("q",)
    )
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("p", "scale")], str(report)


def test_a_gradient_on_the_cpu_is_told_and_a_number_is_none() -> None:
    def forward(x: Tensor, w: Tensor) -> dict[str, Tensor]:
        h = x * w
        loss = h.sum()
        return locals()

    def backward(x: Tensor, w: Tensor) -> dict[str, Any]:
        dloss = 1.0
        dh = dloss * torch.ones(x.shape, device=x.device)
        dx = dh * w
        dw = (dh * x).cpu()
        return locals()

    report = backhand.check(
        forward, backward, inputs={name: torch.randn(4, 5, device="cuda") for name in "xw"}
    )
    assert not report.culprits, str(report)
    assert [m.message for m in report.stress] == ["dw has device cpu, but w has cuda:0."]


def test_a_search_leaves_the_gpu_as_usable_as_it_was() -> None:
    index = torch.tensor([40, 1, 1, 90, 7, 40, 2], device="cuda")
    inputs = {"table": torch.randn(100, 4, device="cuda"), "index": index}
    report = backhand.check_function(OneIsKept, lambda table, index: table[index], inputs)
    assert [row.name for row in report.culprits] == ["table"], str(report)
    assert float(torch.ones(3, device="cuda").sum()) == 3  # an index out of range ends all work there


def test_what_several_ways_add_up_to_is_solved_for_there() -> None:
    def forward(x: Tensor, w: Tensor) -> dict[str, Tensor]:
        a = x * w
        b = x.exp()
        c = x.sin()
        y = a * b + c
        return locals()

    def backward(dy: Tensor, x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        da = dy * b
        db = dy * a
        dx = 3 * (da * w) + 0.5 * (db * b) + dy * x.cos()
        dw = da * x
        return locals()

    inputs = {name: torch.randn(4, 5, device="cuda") for name in "xw"}
    report = backhand.check(forward, backward, inputs=inputs, out="y")
    assert [row.name for row in report.culprits] == ["x"], str(report)


def test_what_the_matrix_cores_leave_out_is_no_mistake() -> None:
    pytest.importorskip("triton")  # whose products of matrices are in TF32
    import triton_kernels

    def inputs(generator: torch.Generator) -> dict[str, Tensor]:
        return {name: torch.randn(64, 64, generator=generator).cuda() for name in ("a", "b")}

    report = backhand.check_function(triton_kernels.matmul_function(False), torch.matmul, inputs)
    assert not report.culprits, str(report)
    assert any("computes in less than float32" in note for note in report.notes)
    (culprit,) = backhand.check_function(triton_kernels.matmul_function(True), torch.matmul, inputs).culprits
    assert culprit.name == "a"


KINDS: dict[str, dict[str, int]] = {"rnn": {}, "gru": {}, "transformer": {"heads": 2}}


@pytest.mark.parametrize("engine", ["autograd", "chunked", "fused", "native"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_whole_words_takes_the_same_steps_there(kind: str, engine: str, tmp_path: Path) -> None:
    from backhand.benching import word_peers

    torch.manual_seed(3)
    initial = word_peers.draw(word_peers.shapes_of(kind, V=9, e=8, m=8, T=7))
    Xs, Ys = random_batches(30, 12, 7, 9)
    settings = Settings(weight_decay=0.1, **KINDS[kind])
    curves = []
    for device in ("cpu", "cuda"):
        parameters = {name: p.clone().to(device) for name, p in initial.items()}
        moments = Moments(*({n: torch.zeros_like(p) for n, p in parameters.items()} for _ in range(2)))
        losses = WORD_ENGINES[engine](
            kind, parameters, Xs.to(device), Ys.to(device), [3e-3] * 30, moments, settings
        )
        assert losses.device.type == device
        curves.append(losses.cpu())
    assert (curves[0] - curves[1]).abs().max() < 1e-5
    assert curves[0][-5:].mean() < curves[0][:5].mean()


@pytest.mark.parametrize("kind", ["mlp", "bigram", *KINDS])
def test_a_run_is_trained_there_goes_on_there_and_is_used_on_a_cpu(kind: str, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text(
        "\n".join(a + b for a in ("ana", "bel", "cora", "dan") for b in ("ana", "bel", "cora", "dan"))
    )
    config = CONFIGS[kind](words=str(words), device="cuda", batch_size=5, steps=40, checkpoint_every=20)
    on_gpu = backhand.train(config, out=tmp_path / "gpu")
    on_cpu = backhand.train(dataclasses.replace(config, device="cpu"), out=tmp_path / "cpu")
    assert on_gpu.results == pytest.approx(on_cpu.results, abs=1e-4)
    again = backhand.Run.load(tmp_path / "gpu")
    assert backhand.sample(again, n=3, seed=1)
    assert {s.words: s.loss for s in backhand.evaluate(again)} == pytest.approx(on_gpu.results, abs=1e-5)


def test_a_file_that_computes_on_the_gpu_is_checked_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "norm.py"
    path.write_text(
        "import torch\n"
        "g = torch.Generator(device='cuda').manual_seed(1)\n"
        "x = torch.randn(4, 5, device='cuda', generator=g, requires_grad=True)\n"
        "w = torch.randn(5, 3, device='cuda', generator=g, requires_grad=True)\n"
        "h = x @ w\n"
        "loss = h.tanh().sum()\n"
        "dh = 1 - h.tanh() ** 2\n"
        "dx = dh @ w.T\n"
        "dw = x.T @ dh\n"
    )
    command = [sys.executable, "-m", "backhand", "check", str(path)]
    right = subprocess.run(command, capture_output=True, text=True, check=False)
    assert right.returncode == 0, right.stdout + right.stderr
    path.write_text(path.read_text().replace("dw = x.T @ dh", "dw = x.T @ dh / 4"))
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1, wrong.stdout + wrong.stderr
    assert "9" in wrong.stdout
    assert "dw" in wrong.stdout
