"""Where right ends and wrong begins: tolerances, shapes, dtypes, what is not finite, what is no gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import backhand
from backhand.checking.verdicts.comparing import close, largest_difference, worst_element


def scaled(factor: Tensor) -> Callable[[Tensor], dict[str, Any]]:
    return lambda x: {"y": x * factor.to(x.dtype)}


@pytest.mark.parametrize(("off", "verdict"), [(1e-12, "right"), (1e-10, "wrong")])
def test_what_is_added_to_a_small_element_is_measured_by_what_is_added_up(off: float, verdict: str) -> None:
    """An element far below the others may be off by the rounding of the others, and by no more."""
    factor = torch.tensor([1.0, 1e-7, 1.0], dtype=torch.float64)

    def backward(dy: Tensor) -> dict[str, Any]:
        return {"dx": dy * factor + off * torch.tensor([0, 1, 0])}

    inputs = {"x": torch.randn(3, dtype=torch.float64)}
    report = backhand.check(scaled(factor), backward, inputs=inputs, out="y", stress=False)
    assert report["x"].verdict == verdict


@pytest.mark.parametrize(("off", "verdict"), [(3e-9, "right"), (5e-8, "wrong")])
def test_a_gradient_may_be_off_by_a_part_in_a_hundred_million(off: float, verdict: str) -> None:
    report = backhand.check(
        lambda x: {"y": 3 * x},
        lambda dy: {"dx": 3 * (1 + off) * dy},
        inputs={"x": torch.randn(5, dtype=torch.float64)},
        out="y",
        stress=False,
    )
    assert report["x"].verdict == verdict


@pytest.mark.parametrize(
    ("dtype", "relative"),
    [(torch.float64, 1e-7), (torch.float32, 1e-5), (torch.bfloat16, 1.6e-2), (torch.float16, 1e-3)],
)
def test_approximately_equal_is_what_torch_testing_takes_for_it(dtype: torch.dtype, relative: float) -> None:
    def shown(off: float) -> backhand.Row:
        def backward(dy: Tensor) -> dict[str, Any]:
            return {"dx": (4 * dy.double() * (1 + off)).to(dy.dtype)}

        x = torch.randn(50, dtype=dtype)
        report = backhand.check(lambda x: {"y": 4 * x}, backward, inputs={"x": x}, out="y", stress=False)
        return report["x"]

    assert shown(0.2 * relative).approximate is True
    assert shown(5 * relative).approximate is False


def test_a_last_bit_that_differs_is_not_exact() -> None:
    def backward(dy: Tensor) -> dict[str, Any]:
        return {"dx": dy * (1 + torch.finfo(dy.dtype).eps) / 16}

    report = backhand.check(lambda x: {"y": x / 16}, backward, inputs={"x": torch.randn(9)}, out="y")
    assert report["x"].verdict == "right"
    assert report["x"].exact is False
    assert 0 < report["x"].maxdiff < 1e-7
    right = backhand.check(
        lambda x: {"y": x / 16}, lambda dy: {"dx": dy / 16}, inputs={"x": torch.randn(9)}, out="y"
    )
    assert (right["x"].exact, right["x"].maxdiff) == (True, 0)


def test_a_number_where_autograd_has_none_is_infinitely_far_off() -> None:
    def forward(x: Tensor, w: Tensor) -> dict[str, Any]:
        return {"y": x.log() * w}

    def backward(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
        return {"dx": dy * w / x, "dw": (dy * x.log()).nan_to_num(0.5)}

    inputs = {"x": torch.tensor([2.0, -1.0, 3.0]), "w": torch.rand(3) + 1}
    report = backhand.check(forward, backward, inputs=inputs, out="y", stress=False)
    assert {row.name: row.verdict for row in report.rows} == {"x": "right", "w": "wrong"}
    assert report["w"].mistake.kind == "nonfinite"
    assert report["w"].maxdiff == float("inf")
    assert report["w"].approximate is False


@pytest.mark.parametrize(
    ("forward", "dx", "verdict", "got"),
    [
        (lambda x: {"y": x.sum(0)}, lambda dy, x: dy, "shape", (3,)),  # not expanded
        (lambda x: {"y": x.sum(0)}, lambda dy, x: dy[None], "shape", (1, 3)),
        (lambda x: {"y": x.sum(0)}, lambda dy, x: dy.expand(2, 4, 3), "shape", (2, 4, 3)),  # too far
        (lambda x: {"y": 2 * x}, lambda dy, x: 2 * dy.flatten(), "shape", (12,)),
        (lambda x: {"y": x.sum(0)}, lambda dy, x: 2 * dy, "wrong", (3,)),
        (lambda x: {"y": 2 * x}, lambda dy, x: dy.flatten(), "wrong", (12,)),
        (lambda x: {"y": x.sum(0)}, lambda dy, x: dy.expand(4, 3), "right", (4, 3)),
    ],
)
def test_right_values_in_a_wrong_shape_are_told_from_wrong_ones(
    forward: Callable, dx: Callable, verdict: str, got: tuple[int, ...]
) -> None:
    def backward(dy: Tensor, x: Tensor) -> dict[str, Any]:
        return {"dx": dx(dy, x)}

    report = backhand.check(forward, backward, inputs={"x": torch.randn(4, 3)}, out="y", stress=False)
    assert (report["x"].verdict, report["x"].got, report["x"].shape) == (verdict, got, (4, 3))


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_a_gradient_of_another_dtype_than_its_tensor_is_told_whatever_its_shape(
    shape: tuple[int, ...],
) -> None:
    report = backhand.check(
        lambda x: {"y": 2 * x}, lambda dy: {"dx": 2 * dy.double()}, inputs={"x": torch.randn(shape)}, out="y"
    )
    assert [m.kind for m in report.stress] == ["dtype"]
    assert report.stress[0].message == "dx has dtype torch.float64, but x has torch.float32."


def test_a_gradient_cast_to_a_lower_dtype_is_right_but_for_that_beside_a_higher_one() -> None:
    def forward(x: Tensor, w: Tensor) -> dict[str, Any]:
        loss = (x.double() * w).sum()
        return locals()

    def backward(x: Tensor, w: Tensor) -> dict[str, Any]:
        assert x.dtype == torch.float32, "judged in its own dtypes"
        return {"dx": w.float(), "dw": (x.double() * 1.1 / 1.1).half()}

    inputs = {"x": torch.randn(40), "w": torch.randn(40, dtype=torch.float64)}
    (culprit,) = backhand.check(forward, backward, inputs=inputs).culprits
    assert (culprit.name, culprit.mistake.kind) == ("w", "dtype")
    assert culprit.mistake.message == "dw has dtype torch.float16, but w has torch.float64."


def test_stress_is_left_out_where_it_is_not_wanted_and_done_where_it_is() -> None:
    def backward(dy: Tensor) -> dict[str, Any]:
        dy *= 2
        return {"dx": dy}

    def check(**options: Any) -> list[str]:
        inputs = {"x": torch.randn(5)}
        return [
            m.kind
            for m in backhand.check(
                lambda x: {"y": 2 * x}, backward, inputs=inputs, out="y", **options
            ).stress
        ]

    assert check() == check(stress=True) == ["modifies_input"]
    assert check(stress=False) == []


def test_an_infinite_gradient_of_a_finite_forward_is_said() -> None:
    def backward(dy: Tensor, x: Tensor) -> dict[str, Any]:
        return {"dx": 0.5 * x**-0.5 * dy}

    def notes(*values: float) -> str:
        inputs = {"x": torch.tensor(values)}
        return " ".join(backhand.check(lambda x: {"y": x**0.5}, backward, inputs=inputs, out="y").notes)

    assert "not finite" in notes(0.0, 1.0, 2.0)
    assert "not finite" not in notes(0.5, 1.0, 2.0)


def test_the_numbers_of_the_sheet_count_what_differs_at_the_lectures_tolerance() -> None:
    off = torch.tensor([0, 3e-6, 5e-5, 2e-4, 0, -1e-3])

    def backward(dy: Tensor) -> dict[str, Any]:
        return {"dx": 4 * dy * (1 + off)}

    inputs = {"x": torch.rand(6, dtype=torch.float64) + 1}
    report = backhand.check(lambda x: {"y": 4 * x}, backward, inputs=inputs, out="y", stress=False)
    numbers = report.sheet.pictures["x"].numbers
    assert (numbers.differing, numbers.total, numbers.worst) == (3, 6, (5,))
    assert (numbers.rtol, numbers.atol) == (1e-5, 1e-8)


@pytest.mark.parametrize("at", [0, 40_000, 99_999])
@pytest.mark.parametrize(
    ("value", "expected", "is_same"),
    [
        (1.0, 1.0, True),
        (1.0 + 1e-7, 1.0, False),
        (float("nan"), 1.0, False),
        (float("inf"), 1.0, False),
        (1.0, float("inf"), False),
        (-float("inf"), float("inf"), False),
        (float("inf"), float("inf"), True),
        (float("nan"), float("nan"), True),
    ],
)
def test_every_element_of_a_long_tensor_is_compared(
    at: int, value: float, expected: float, is_same: bool
) -> None:
    right = torch.randn(100_000, dtype=torch.float64)
    right[at] = expected
    user = right * (1 + 1e-13)
    user[at] = value
    assert close(user, right) is is_same
    assert (largest_difference(user, right) < 1e-9) is is_same
    if not is_same:
        assert worst_element(user.view(400, 250), right.view(400, 250)) == divmod(at, 250)


def balanced(c: Tensor, b: Tensor) -> Tensor:
    """Logarithms whose exponentials add up to `b` by columns, nearly, and to 1 by rows, after many steps."""
    p, log_b = -2 * c, b.log()
    for _ in range(150):
        p = p - (p.logsumexp(0, keepdim=True) - log_b)
        p = p - p.logsumexp(1, keepdim=True)
    return p.exp()


class Balanced(torch.autograd.Function):
    """Computes everything again, and adds what does not belong there."""

    too_much = 0.0

    @staticmethod
    def forward(ctx: Any, c: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(c, b)
        return balanced(c, b)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        with torch.enable_grad():
            again = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            dc, db = torch.autograd.grad(balanced(*again), again, dy)
        return dc, db + Balanced.too_much


@pytest.mark.seconds
@pytest.mark.parametrize(("too_much", "verdict"), [(0.0, "right"), (0.1, "wrong")])
def test_no_number_of_steps_makes_a_wrong_gradient_pass_for_rounding(
    too_much: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "backhand.checking.mistakes.budget.SECONDS", 0.0
    )  # its name is not what is asked here
    monkeypatch.setattr(Balanced, "too_much", too_much)
    report = backhand.check_function(
        Balanced, balanced, lambda g: {"c": torch.rand(4, 5, generator=g), "b": torch.full((5,), 0.8)}
    )
    assert [row.verdict for row in report.rows] == ["right", verdict]


def test_what_overflows_for_a_wrong_line_above_follows_from_it() -> None:
    def forward(x, w):
        y = x * w
        z = y * y
        return locals()

    def backward(dz, x, w, y):
        dy = dz * y**4  # for 2 * y
        dx = dy * w
        dw = dy * x
        return locals()

    inputs = {"x": torch.full((3,), 5.0).half(), "w": torch.full((3,), 6.0).half()}
    report = backhand.check(forward, backward, inputs=inputs, out="z")
    assert not bool(report["x"].maxdiff < float("inf")), "it overflows in float16"
    assert {row.name: row.verdict for row in report.rows} == {"y": "wrong", "x": "follows", "w": "follows"}


def test_complex_tensors_are_compared_as_pairs() -> None:
    one = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128)
    assert close(one, one * (1 + 1e-12))
    assert not close(one, one.conj())
