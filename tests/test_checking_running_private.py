"""Without one of PyTorch's private parts, or without all of them, every verdict is what it is with them."""

import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd import Function

import backhand
from altered import altered, from_text
from backhand.checking.report import Report
from backhand.checking.running import private
from backhand.passes import batch_norm, embedding, gru, mlp_chunked, rnn

PARTS = ("ENGINE", "NUMBERED", "RESULTS", "CALLED", "APPLIED", "SAVED", "FLATTENED")
# Who does not know the results of an operation does not call it either.
TOGETHER = {"RESULTS": ("RESULTS", "CALLED", "APPLIED"), "all": PARTS}
MISSING = (*(pytest.param(part, marks=pytest.mark.slow) for part in PARTS), "all")

INSIDE = """
import torch

class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x)
        return x**3, 2 * w
    @staticmethod
    def backward(ctx, dcube, dtwice):
        return 3 * ctx.saved_tensors[0] ** 2 * dcube, 2 * dtwice

def forward(x, w):
    u = x * w
    a, b = Cube.apply(u, w)
    y = a.sin() + b
    loss = (y * y).sum() + u.mean()
    return locals()

def backward(x, w, u, a, y):
    dy = 2 * y
    da = dy * a.cos()
    db = dy.sum(0)
    du = 3 * u**2 * da + 1 / u.numel()
    dx = du * w
    dw = (du * x).sum(0) + 2 * db
    return locals()

def inputs(generator):
    return {"x": torch.randn(5, 3, generator=generator), "w": torch.randn(3, generator=generator)}
"""
RUNNING = """
import torch

def forward(x, Wx, Wh, b):
    h = torch.zeros(x.shape[1], Wh.shape[0], dtype=x.dtype)
    hs = {-1: h}
    for t in range(len(x)):
        hs[t] = torch.tanh(x[t] @ Wx + hs[t - 1] @ Wh + b)
    loss = (hs[len(x) - 1] ** 2).sum() + hs[0].sum()
    return locals()

def backward(x, Wx, Wh, b, hs):
    dWx, dWh, db, dx = (torch.zeros_like(t) for t in (Wx, Wh, b, x))
    dhnext = 2 * hs[len(x) - 1]
    for t in reversed(range(len(x))):
        dh = dhnext + (1 if t == 0 else 0)
        dpre = (1 - hs[t] ** 2) * dh
        dWx += x[t].T @ dpre
        dWh += hs[t - 1].T @ dpre
        db += dpre.sum(0)
        dx[t] = dpre @ Wx.T
        dhnext = dpre @ Wh.T
    return {"dWx": dWx, "dWh": dWh, "db": db, "dx": dx}

def inputs(generator):
    sizes = {"x": (4, 5, 3), "Wx": (3, 6), "Wh": (6, 6), "b": (6,)}
    return {name: torch.randn(size, generator=generator) * 0.5 for name, size in sizes.items()}
"""


class Scaled(Function):
    """x * w, whose backward is right."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        x, w = ctx.saved_tensors
        return dy * w, (dy * x).sum(0)


class Doubled(Scaled):
    """One of its gradients is twice as large as it should be."""

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        dx, dw = Scaled.backward(ctx, dy)
        return 2 * dx, dw


class Misshapen(Scaled):
    """One of its gradients has a shape that autograd refuses."""

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        dx, dw = Scaled.backward(ctx, dy)
        return dx.T, dw


def of_function(function: type[Function]) -> Report:
    inputs = {"x": torch.randn(5, 3), "w": torch.randn(3)}
    return backhand.check_function(function, lambda x, w: x * w, inputs)


def of_text(text: str, *change: str) -> Report:
    assert not change or change[0] in text
    return backhand.check(from_text(text.replace(*change) if change else text))


def of_pass(module: Any, *changes: tuple[str, str]) -> Report:
    return backhand.check(altered(module, *changes))


SIGN = "-(counts_sum**-2) * dcounts_sum_inv", "counts_sum**-2 * dcounts_sum_inv"
POINT = "(bnraw * dhpreact).sum(0", "(bndiff * dhpreact).sum(0"
SCALE = "dembcat = dhprebn @ W1.T", "dembcat = 2 * dhprebn @ W1.T"
CANCELS = "dlogits += F.one_hot(logits.argmax(1), logits.shape[1]) * dlogit_maxes", "pass"
KEPT = "dtable.index_add_(0, tokens.flatten(), dword.flatten(0, 1))", "dtable[tokens] = dword"

# Each with the number of its culprits, and how it is checked.
CASES: dict[str, tuple[Any, ...]] = {
    "26 gradients": (0, of_pass, mlp_chunked),
    "26 gradients, three lines wrong": (3, of_pass, mlp_chunked, SIGN, POINT, SCALE),
    "a bias before batch norm": (1, of_pass, mlp_chunked, ("= dhprebn.sum(0)", "= 3 * dhprebn.sum(0)")),
    "a branch that cancels": (1, of_pass, mlp_chunked, CANCELS),
    "batch norm": (0, of_pass, batch_norm),
    "batch norm, a branch missing": (
        1,
        of_pass,
        batch_norm,
        ("dcentered += 2 * centered * dsquares", "pass"),
    ),
    "an embedding, overwritten": (1, of_pass, embedding, KEPT),
    "a GRU": (0, of_pass, gru),
    "a GRU, a factor missing": (1, of_pass, gru, ("z * (1 - z) * dz", "z * dz")),
    "a loop": (0, of_pass, rnn),
    "a loop, its line wrong": (1, of_pass, rnn, ("dhs[t - 1] += dpre @ Whh.T", "dhs[t - 1] += dpre @ Whh")),
    "a running variable": (0, of_text, RUNNING),
    "a running variable, its line wrong": (1, of_text, RUNNING, "(1 - hs[t] ** 2)", "(1 - hs[t])"),
    "a Function inside": (0, of_text, INSIDE),
    "a Function inside, wrong above": (1, of_text, INSIDE, "dy * a.cos()", "dy * a.sin()"),
    "a Function inside, wrong there": (1, of_text, INSIDE, "du = 3 * u**2 * da", "du = 3 * u * da"),
    "a Function": (0, of_function, Scaled),
    "a Function, wrong": (1, of_function, Doubled),
    "a Function of a wrong shape": (1, of_function, Misshapen),
}
# What an index reads is known from what autograd has saved.
NAMED_BY_WHAT_IS_SAVED = {"an embedding, overwritten"}


@cache
def with_all(case: str) -> tuple[Any, ...]:
    return seen(case)


def seen(case: str) -> tuple[Any, ...]:
    """Return what the private parts must not change, and the kinds of the mistakes."""
    torch.manual_seed(0)
    _, check, *arguments = CASES[case]
    report = check(*arguments)
    rows = [(row.name, row.verdict, row.lines) for row in report.rows]
    kinds = [row.mistake.kind for row in report.culprits if row.mistake is not None]
    return report.ok, [row.name for row in report.culprits], rows, [m.kind for m in report.stress], kinds


def take_away(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in TOGETHER.get(missing, (missing,)):
        monkeypatch.setattr(private, part, False)


def forbidden(*_: object) -> Any:
    raise AssertionError("a private part is used that is not there")


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("case", CASES)
def test_the_verdicts_are_the_same_without(case: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    *verdicts, kinds = with_all(case)
    assert len(verdicts[1]) == CASES[case][0]
    take_away(missing, monkeypatch)
    if missing == "all":
        for used in ("_by_the_engine", "_number", "_count", "_flatten"):
            monkeypatch.setattr(private, used, forbidden)
    *found, own_kinds = seen(case)
    assert found == verdicts
    if case not in NAMED_BY_WHAT_IS_SAVED or missing not in ("SAVED", "all"):
        assert own_kinds == kinds


def test_all_are_there_in_the_release_that_this_is_tried_with() -> None:
    assert {part: getattr(private, part) for part in PARTS} == dict.fromkeys(PARTS, True)


def test_what_is_gone_is_noticed_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch._utils._flatten_dense_tensors")
    monkeypatch.delattr("torch._C._autograd._get_sequence_nr")
    monkeypatch.delattr("torch.autograd.Variable._execution_engine")
    found = runpy.run_path(str(private.__file__))
    gone = [part for part in PARTS if not found[part]]
    assert gone == ["ENGINE", "NUMBERED", "FLATTENED"]


def test_what_does_something_else_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._utils._flatten_dense_tensors", lambda tensors: torch.cat(tensors[::-1]))
    assert not runpy.run_path(str(private.__file__))["FLATTENED"]
    assert not private._works(lambda x, y, node: node._moved_elsewhere)


def test_it_is_looked_for_whatever_the_grad_mode_at_import() -> None:
    with torch.no_grad():
        assert runpy.run_path(str(private.__file__))["CALLED"]
    with torch.inference_mode():
        assert runpy.run_path(str(private.__file__))["CALLED"]


def test_no_other_module_touches_a_private_part() -> None:
    root = Path(backhand.__file__).parent
    parts = (
        r"torch\._[a-zA-Z]|_execution_engine|_sequence_nr|_input_metadata|_saved_[a-z\"']|BackwardCFunction"
        r"|\._parameters\b|_backward_fn"
    )
    users = {
        str(path.relative_to(root)) for path in root.rglob("*.py") if re.search(parts, path.read_text("utf8"))
    }
    assert users == {"checking/running/private.py"}


def test_without_numbers_an_operation_stands_after_its_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, requires_grad=True)
    a = x.exp()
    b = torch.stack([a, x.sin(), a * a])
    nodes = [t.grad_fn for t in (a, b)] + [n for n, _ in b.grad_fn.next_functions]  # type: ignore[union-attr]
    monkeypatch.setattr(private, "NUMBERED", False)
    ordered = private.in_order({n for n in nodes if n is not None})
    assert ordered[-1] is b.grad_fn
    assert ordered.index(a.grad_fn) < ordered.index(nodes[-1])  # type: ignore[arg-type]
    clock = private.Clock()
    assert 0 == clock.now({}) < clock.now({"kept": [a]}) < clock.now({"b": b})
    assert clock.of(a.grad_fn) < clock.of(b.grad_fn)  # type: ignore[arg-type]
