"""Kernels in Triton, whose own lines nobody opens: right ones are right, wrong ones told by their numbers."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import backhand

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    """Triton; where there is no GPU by its interpreter, which is asked for while a kernel runs, too."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        pytest.importorskip("triton")
        import triton_kernels

        yield triton_kernels


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def draws(**shapes: tuple[int, ...]) -> object:
    def inputs(generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {name: torch.randn(shape, generator=generator).to(DEVICE) for name, shape in shapes.items()}

    return inputs


def tables(generator: torch.Generator) -> dict[str, torch.Tensor]:
    angle = torch.randn(5, 3, generator=generator).to(DEVICE)
    x = torch.randn(5, 6, generator=generator).to(DEVICE).requires_grad_()
    return {"x": x, "cos": angle.cos(), "sin": angle.sin()}


def words(generator: torch.Generator) -> dict[str, torch.Tensor]:
    logits = torch.randn(4, 7, generator=generator)
    return {"logits": logits.to(DEVICE), "target": torch.tensor([6, 0, 3, 3], device=DEVICE)}


# each with its reference, its inputs, and the input whose gradient its fault makes wrong, with what that is
KERNELS: dict[str, tuple[Callable[..., Any], Any, str, str]] = {
    "swiglu": (lambda a, b: F.silu(a) * b, draws(a=(3, 7), b=(3, 7)), "a", "unexplained"),
    "rms_norm": (rms_norm, draws(x=(4, 7), weight=(7,)), "x", "scale"),
    "softmax": (lambda x: x.softmax(-1), draws(x=(5, 6)), "x", "ignores_upstream"),
    "rotary": (rotary, tables, "x", "unexplained"),
    "cross_entropy": (F.cross_entropy, words, "logits", "scale"),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_right_triton_kernel_is_right(kernels: ModuleType, name: str) -> None:
    reference, inputs, _, _ = KERNELS[name]
    report = backhand.check_function(getattr(kernels, f"{name}_function")(False), reference, inputs)
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_a_wrong_triton_kernel_is_told_at_its_input(kernels: ModuleType, name: str) -> None:
    reference, inputs, wrong, kind = KERNELS[name]
    report = backhand.check_function(getattr(kernels, f"{name}_function")(True), reference, inputs)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [(wrong, kind)]


def test_a_kernel_that_fills_its_gradients_is_not_opened_and_says_so(kernels: ModuleType) -> None:
    report = backhand.check_function(kernels.rms_norm_function(True), rms_norm, draws(x=(4, 7), weight=(7,)))
    assert report["x"].lines == ()  # `empty_like` has the numbers of whoever used that memory before
    assert report["x"].mistake.detail["guess"] == "7"
    (note,) = [note for note in report.notes if note.startswith("No line is shown")]
    assert "rms_norm_backward" in note
