"""Large inputs: a part of them is tried in full, all of them once, and nothing wrong escapes."""

import weakref
from typing import Any

import pytest
import torch
from torch.autograd import Function

import backhand
from backhand.checking.running.cropping import parts_of


class Gate(Function):
    """SiLU, whose backward may be told to be wrong in one way or another."""

    slip = ""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        if Gate.slip == "in place":
            x.add_(1)
            x = x - 1
        if Gate.slip == "strides":
            dy = torch.as_strided(dy, dy.shape, (dy.shape[1], 1))
        dx = dy * s * (1 + x * (1 - s))
        if Gate.slip == "outside of the part":
            dx[100:] = 0
        if Gate.slip == "unseen":  # as a compiled kernel writes: no version tells of it
            x.data.copy_(dx)
            return x
        return dx


def gate(x: torch.Tensor) -> dict[str, Any]:
    s = torch.sigmoid(x)
    return {"s": s, "y": x * s}


def gate_backward(dy: torch.Tensor, x: torch.Tensor, s: torch.Tensor) -> dict[str, Any]:
    ds = dy * x
    dx = dy * s + ds * s * (1 - s)
    return {"ds": ds, "dx": dx}


def gate_with_a_slip(dy: torch.Tensor, x: torch.Tensor, s: torch.Tensor) -> dict[str, Any]:
    ds = dy * x
    dx = dy * s - ds * s * (1 - s)
    return {"ds": ds, "dx": dx}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Return inputs that are taken to be large, more than one piece of a comparison long."""
    for name, value in {"LARGE": 2**12, "FEW": 2**9, "ENOUGH": 2**12}.items():
        monkeypatch.setattr(f"backhand.checking.running.cropping.{name}", value)
    return torch.randn(210, 170, generator=torch.Generator().manual_seed(5))


UNTRIED = "Tried besides: second derivatives. Not tried: forward mode, vmap, other shapes, other devices."
NOTE = (
    "Large inputs (35,700 elements): tried on a part, (14, 11) of (210, 170); "
    "compared once on all of them, in float32."
)


@pytest.mark.parametrize(
    ("slip", "kinds"),
    [
        ("", set()),
        ("in place", {"modifies_input"}),
        ("unseen", {"modifies_input"}),
        ("strides", {"layout"}),
    ],
)
def test_a_large_function_is_tried_in_full_on_a_part(
    large: torch.Tensor, monkeypatch: pytest.MonkeyPatch, slip: str, kinds: set[str]
) -> None:
    monkeypatch.setattr(Gate, "slip", slip)
    before = large.clone()
    report = backhand.check_function(Gate, torch.nn.functional.silu, {"x": large})
    assert {m.kind for m in report.stress} == kinds
    assert (report.draws, report.precision, report["x"].shape) == (3, "float64", (210, 170))
    assert torch.equal(large, before)
    assert report["x"].verdict == "right"
    assert NOTE in report.notes
    if not slip:
        assert report.ok, str(report)
        assert report.notes == (NOTE, UNTRIED)
        assert 0 < report["x"].maxdiff < 1e-5
        assert 0 < report["x"].multiple < 20


def test_a_large_pass_has_its_rows_lines_and_mistakes(large: torch.Tensor) -> None:
    right = backhand.check(gate, gate_backward, inputs={"x": large}, out="y")
    assert right.ok, str(right)
    assert {row.name: row.verdict for row in right.rows} == {"s": "right", "x": "right"}
    assert right["x"].lines[0].text == "dx = dy * s + ds * s * (1 - s)"
    assert right.notes == (NOTE,)
    wrong = backhand.check(gate, gate_with_a_slip, inputs={"x": large}, out="y")
    assert [(row.name, row.mistake.kind, row.got) for row in wrong.culprits] == [("x", "sign", (210, 170))]
    assert wrong.notes == (NOTE,)


def test_what_shows_only_outside_of_the_part_is_wrong(
    large: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gate, "slip", "outside of the part")
    report = backhand.check_function(Gate, torch.nn.functional.silu, {"x": large[:150, :80]})
    assert report["x"].verdict == "wrong"
    assert report.notes == (
        "Not tried: second derivatives, forward mode, vmap, other shapes, other devices.",
    )


def test_a_size_that_stands_in_the_code_is_no_mistake(large: torch.Tensor) -> None:
    report = backhand.check(
        lambda x: {"y": x - x.mean(0, keepdim=True)},
        lambda dy: {"dx": dy - dy.sum(0, keepdim=True) / 210},
        inputs={"x": large},
        out="y",
    )
    assert report["x"].verdict == "right"
    assert report.notes == ()


def test_what_takes_no_part_is_tried_on_all(large: torch.Tensor) -> None:
    mask = torch.rand(210, 170) < 0.5
    report = backhand.check_function(lambda x: x * mask, lambda x: x * mask, {"x": large})
    assert report.ok
    assert report.notes == (UNTRIED,)


def test_only_the_rows_are_cut_where_indices_count_an_axis(large: torch.Tensor) -> None:
    targets = torch.randint(170, (210,), generator=torch.Generator().manual_seed(1))
    targets[3] = 169
    parts = list(parts_of({"logits": large, "targets": targets}))
    assert [part["logits"].shape for part in parts] == [(14, 11), (14, 170)]
    report = backhand.check_function(
        torch.nn.functional.cross_entropy,
        torch.nn.functional.cross_entropy,
        {"logits": large, "targets": targets},
    )
    assert report.ok
    assert "(14, 170) of (210, 170)" in report.notes[0]


def test_a_part_keeps_lengths_apart_and_what_needs_a_gradient(large: torch.Tensor) -> None:
    inputs = {"xs": [large.T.requires_grad_(), torch.zeros(170, 1)], "w": torch.zeros(210, 3, 5), "n": 170}
    part = next(parts_of(inputs))
    assert [t.shape for t in (*part["xs"], part["w"])] == [(11, 14), (11, 1), (14, 3, 5)]
    assert [t.requires_grad for t in part["xs"]] == [True, False]
    assert part["n"] == 170
    assert list(parts_of({"x": torch.zeros(170, 11), "y": torch.zeros(11, 170)})) == []  # small
    assert [t["x"].shape for t in parts_of({"x": torch.zeros(170, 169)})] == [(11, 169)]  # else they were one


def test_small_inputs_are_tried_as_they_are() -> None:
    report = backhand.check_function(Gate, torch.nn.functional.silu, {"x": torch.randn(21, 17)})
    assert (report.draws, report.notes) == (3, (UNTRIED,))


def test_what_the_backward_does_not_ask_for_does_not_lie_beside_it(large: torch.Tensor) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    beside: list[int] = []

    def forward(x: torch.Tensor) -> dict[str, Any]:
        y = x * torch.sigmoid(x)
        made.append(weakref.ref(y))
        return {"y": y}

    def backward(dy: torch.Tensor, x: torch.Tensor) -> dict[str, Any]:
        if x.shape == large.shape:
            beside.append(sum(y() is not None and y().shape == x.shape for y in made))  # type: ignore[union-attr]
        s = torch.sigmoid(x)
        return {"dx": dy * s * (1 + x * (1 - s))}

    assert backhand.check(forward, backward, inputs={"x": large}, out="y").ok
    assert beside == [0]
