"""Operators of `torch.library.custom_op`, whose backward is registered."""

from pathlib import Path

import torch

import backhand

TEXT = """
import torch

@torch.library.custom_op("NAMESPACE::unit_rms", mutates_args=())
def unit_rms(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * w

def keep(ctx, inputs, output):
    x, w, ctx.eps = inputs
    ctx.save_for_backward(x, w)

def gradients(ctx, dy):
    x, w = ctx.saved_tensors
    scale = (x.square().mean(-1, keepdim=True) + ctx.eps).rsqrt()
    hat = x * scale
    dw = (dy * hat).sum(0)
    dhat = dy * w
    dx = scale * (dhat - hat * (dhat * hat).mean(-1, keepdim=True))
    return dx, dw, None

unit_rms.register_autograd(gradients, setup_context=keep)

def reference(x, w, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w

def inputs(generator):
    return {
        "x": torch.randn(3, 4, generator=generator),
        "w": torch.randn(4, generator=generator),
        "eps": 1e-6,
    }
"""


def file_of(tmp_path: Path, namespace: str, right: str = "", wrong: str = "") -> Path:
    path = tmp_path / f"{namespace}.py"
    path.write_text(TEXT.replace("NAMESPACE", namespace).replace(right, wrong), "utf8")
    return path


def test_an_operator_is_checked_in_a_file_beside_its_reference(tmp_path: Path) -> None:
    assert backhand.check_file(file_of(tmp_path, "backhand_right")).ok


def test_the_line_of_its_registered_backward_is_shown(tmp_path: Path) -> None:
    path = file_of(tmp_path, "backhand_wrong", "(dhat * hat).mean(", "(dhat * hat).sum(")
    report = backhand.check_file(path)
    (culprit,) = report.culprits
    assert (culprit.name, culprit.mistake.kind) == ("x", "scale")
    assert culprit.lines[0].text.startswith("dx = scale * (dhat")
    assert str(report).startswith("unit_rms: wrong")


def test_an_operator_that_no_line_can_be_shown_of_is_judged_all_the_same() -> None:
    @torch.library.custom_op("backhand_keywords::times", mutates_args=())
    def times(x: torch.Tensor, *, factor: float) -> torch.Tensor:
        return x * factor

    def keep(ctx, inputs, keyword_only_inputs, output):
        ctx.factor = keyword_only_inputs["factor"]

    times.register_autograd(lambda ctx, dy: dy, setup_context=keep)
    x = {"x": torch.randn(4)}
    report = backhand.check_function(lambda x: times(x, factor=3.0), lambda x: 3 * x, x)
    assert report["x"].mistake.kind == "scale"


def test_an_operator_without_a_backward_is_told_to_lack_it() -> None:
    @torch.library.custom_op("backhand_bare::double", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    report = backhand.check_function(double, lambda x: 2 * x, {"x": torch.randn(4)})
    assert report["x"].verdict == "todo"
    assert "no autograd formula was registered" in str(report)
