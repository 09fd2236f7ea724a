"""Backwards in tiles, as flash-attention's: gradients are filled block by block, by slices or by views."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import backhand

FORWARD = """
import torch

TILE = 2


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        scale = q.shape[-1] ** -0.5
        o, logs = torch.zeros_like(q), torch.zeros_like(q[..., :1])
        for i in range(0, q.shape[-2], TILE):
            rows = slice(i, i + TILE)
            top = torch.full_like(q[..., rows, :1], -1e30)
            total, mixed = torch.zeros_like(top), torch.zeros_like(q[..., rows, :])
            for j in range(0, k.shape[-2], TILE):
                s = q[..., rows, :] @ k[..., j : j + TILE, :].mT * scale
                new = torch.maximum(top, s.amax(-1, keepdim=True))
                p, shrunk = (s - new).exp(), (top - new).exp()
                total = shrunk * total + p.sum(-1, keepdim=True)
                mixed = shrunk * mixed + p @ v[..., j : j + TILE, :]
                top = new
            o[..., rows, :] = mixed / total
            logs[..., rows, :] = top + (total + EPSILON).log()
        ctx.save_for_backward(q, k, v, o, logs)
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, o, logs = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        D = (do * o).sum(-1, keepdim=True)
"""
BY_SLICES = (
    FORWARD
    + """
        for j in range(0, k.shape[-2], TILE):
            kj, vj = k[..., j : j + TILE, :], v[..., j : j + TILE, :]
            for i in range(0, q.shape[-2], TILE):
                qi, doi = q[..., i : i + TILE, :], do[..., i : i + TILE, :]
                p = (qi @ kj.mT * scale - logs[..., i : i + TILE, :]).exp()
                dp = doi @ vj.mT
                ds = p * (dp - D[..., i : i + TILE, :]) * scale
                dq[..., i : i + TILE, :] += ds @ kj
                dk[..., j : j + TILE, :] += ds.mT @ qi
                dv[..., j : j + TILE, :] += p.mT @ doi
        return dq, dk, dv
"""
)
BY_VIEWS = (
    FORWARD
    + """
        columns = zip(*(x.split(TILE, -2) for x in (k, v, dk, dv)))
        for kj, vj, dkj, dvj in columns:
            rows = zip(*(x.split(TILE, -2) for x in (q, do, logs, D, dq)))
            for qi, doi, logi, Di, dqi in rows:
                p = (qi @ kj.mT * scale - logi).exp()
                dp = doi @ vj.mT
                ds = p * (dp - Di) * scale
                dqi.add_(ds @ kj)
                dkj.add_(ds.mT @ qi)
                dvj += p.mT @ doi
        return dq, dk, dv
"""
)

# an iterator that stands above the loops, and can be used up once
OVER_ROWS = (
    FORWARD
    + """
        rows = zip(*(x.split(TILE, -2) for x in (q, do, logs, D, dq)))
        for qi, doi, logi, Di, dqi in rows:
            for kj, vj, dkj, dvj in zip(*(x.split(TILE, -2) for x in (k, v, dk, dv))):
                p = (qi @ kj.mT * scale - logi).exp()
                dp = doi @ vj.mT
                ds = p * (dp - Di) * scale
                dqi += ds @ kj
                dkj += ds.mT @ qi
                dvj += p.mT @ doi
        return dq, dk, dv
"""
)


def reference(q, k, v):
    """Attention as it is written down."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def module_of(text: str, tmp_path: Path) -> ModuleType:
    path = tmp_path / "tiles.py"
    path.write_text(text, "utf8")
    spec = importlib.util.spec_from_file_location("tiles", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def judged(text: str, tmp_path: Path, epsilon: float = 0.0) -> backhand.Report:
    module = module_of(text.replace("EPSILON", str(epsilon)), tmp_path)
    g = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(2, 4, 3, generator=g) for name in ("q", "k", "v")}
    return backhand.check_function(module.Attention, reference, inputs)


@pytest.mark.parametrize("text", [BY_SLICES, BY_VIEWS, OVER_ROWS], ids=["slices", "views", "rows"])
def test_tiles_are_right(text: str, tmp_path: Path) -> None:
    assert judged(text, tmp_path).ok


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("text", "right", "wrong", "kind"),
    [
        (BY_SLICES, "ds @ kj", "ds @ vj", "wrong_point"),
        (BY_SLICES, "dk[..., j : j + TILE", "dk[..., i : i + TILE", "partial"),
        (BY_SLICES, "logs[..., i : i + TILE, :]).exp", "logs[..., j : j + TILE, :]).exp", "partial"),
        (BY_SLICES, "dv[..., j : j + TILE, :] +=", "dv[..., j : j + TILE, :] =", "overwritten"),
        (BY_VIEWS, "(dp - Di) * scale", "(dp + Di) * scale", "sign"),
        (OVER_ROWS, "(dp - Di) * scale", "(dp - Di)", "scale"),
        (OVER_ROWS, "dp = doi @ vj.mT", "dp = doi @ kj.mT", "wrong_point"),
        (BY_VIEWS, "dqi.add_(ds @ kj)", "dqi.copy_(ds @ kj)", "overwritten"),
        (BY_VIEWS, "dkj.add_(ds.mT @ qi)", "dkj.add_(ds.mT @ doi)", "wrong_point"),
        (BY_SLICES, "(do * o).sum(", "(do * o).mean(", "scale"),
    ],
)
def test_one_slip_in_a_tile_is_one_culprit_with_its_line_and_name(
    text: str, right: str, wrong: str, kind: str, tmp_path: Path
) -> None:
    assert text.count(right) == 1
    changed = text.replace(right, wrong)
    report = judged(changed, tmp_path)
    (culprit,) = report.culprits
    assert culprit.mistake.kind == kind
    at_fault = changed[: changed.index(wrong)].count("\n") + 1
    assert at_fault in [line.number for line in culprit.lines[:2]], str(report)


@pytest.mark.seconds
def test_code_with_an_epsilon_of_its_own_has_no_second_culprit(tmp_path: Path) -> None:
    """Off by 1e-8 in float64, its other gradients are right, and a slip is found by what is nearly right."""
    assert judged(BY_VIEWS, tmp_path, epsilon=1e-7).ok
    report = judged(BY_VIEWS.replace("dkj.add_(ds.mT @ qi)", "dkj.add_(2 * ds.mT @ qi)"), tmp_path, 1e-7)
    assert [row.name for row in report.culprits] == ["k"]
    assert report["k"].mistake.kind == "scale"
    assert report["q"].verdict == "right"


@pytest.mark.seconds
def test_what_is_right_until_another_name_changes_it_is_still_aliased(tmp_path: Path) -> None:
    text = BY_VIEWS.replace(
        "return dq, dk, dv", "other = dq.view(-1)\n        other.mul_(2)\n        return dq, dk, dv"
    )
    (culprit,) = judged(text, tmp_path).culprits
    assert (culprit.name, culprit.mistake.kind) == ("q", "aliased")
