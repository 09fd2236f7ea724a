"""Which name is the gradient of which tensor, within containers too."""

from typing import Any

import pytest
import torch
from torch import Tensor

import backhand
from backhand.checking.running.names import operation_called


def dw(dy: Tensor, x: Tensor) -> Tensor:
    return (dy * x).sum(0, keepdim=True)


def test_a_function_may_have_the_name_of_the_gradient_that_it_makes() -> None:
    def dx(dy: Tensor, w: Tensor) -> Tensor:
        return -dy * w

    def backward(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
        return {"dx": dx(dy, w), "dw": dw(dy, x)}

    inputs = {"x": torch.randn(4, 3), "w": torch.randn(3)}
    report = backhand.check(lambda x, w: {"y": x * w}, backward, inputs=inputs, out="y", stress=False)
    assert {row.name: row.verdict for row in report.rows} == {"x": "wrong", "w": "shape"}
    assert report["x"].mistake.kind == "sign"


def test_gradients_are_found_within_containers_of_containers() -> None:
    def forward(x: Tensor) -> dict[str, Any]:
        h, z = 2 * x, 3 * x
        return {"cache": {"layers": [{"h": h}, {"z": (z,)}]}, "y": h * z}

    def backward(dy: Tensor, cache: dict[str, Any]) -> dict[str, Any]:
        h, (z,) = cache["layers"][0]["h"], cache["layers"][1]["z"]
        dh, dz = dy * z, -dy * h
        return {"dcache": {"layers": [{"h": dh}, {"z": (dz,)}]}, "dx": 2 * dh + 3 * dz}

    report = backhand.check(forward, backward, inputs={"x": torch.randn(4)}, out="y")
    verdicts = {row.name: row.verdict for row in report.rows}
    assert verdicts['cache["layers"][0]["h"]'] == "right"
    assert verdicts['cache["layers"][1]["z"][0]'] == "wrong"
    assert verdicts["x"] == "follows"


def test_a_flag_is_no_gradient_though_its_name_is_that_of_one() -> None:
    """`done` is d + `one`; it is True, which is no number to be compared."""

    def forward(x: Tensor) -> dict[str, Any]:
        one = x / x
        y = 2 * x * one
        return {"one": one, "y": y}

    def backward(dy: Tensor, one: Tensor) -> dict[str, Any]:
        done = False
        while not done:
            dx = 2 * dy
            done = True
        return locals()

    report = backhand.check(forward, backward, inputs={"x": torch.rand(4) + 1}, out="y")
    assert report.ok, str(report)
    assert report["one"].verdict == "skipped"


def test_what_a_backward_has_a_default_for_need_not_be_a_name_of_the_forward() -> None:
    def backward(dy: Tensor, factor: float = 2.0, *, other: Tensor | None = None) -> dict[str, Any]:
        assert other is None
        return {"dx": factor * dy}

    report = backhand.check(lambda x: {"y": 2 * x}, backward, inputs={"x": torch.randn(4)}, out="y")
    assert report.ok
    with_factor = backhand.check(
        lambda x: {"y": 3 * x, "factor": 3.0}, backward, inputs={"x": torch.randn(4)}, out="y"
    )
    assert with_factor.ok


def test_names_with_an_underscore_in_front_are_no_tensors_of_a_namespace() -> None:
    x = torch.randn(4, requires_grad=True)
    _h = 2 * x
    loss = _h.square().sum()
    space = {"x": x, "_h": _h, "loss": loss, "dx": 8 * x.detach(), "d_h": torch.zeros(4)}
    report = backhand.check_namespace(space)
    assert [(row.name, row.verdict) for row in report.rows] == [("x", "right")]
    named = backhand.check_namespace({**space, "h": _h})
    assert named["h"].verdict == "wrong"  # then d_h is its gradient


@pytest.mark.parametrize(
    ("node", "called"),
    [
        ("MulBackward0", "mul"),
        ("torch::autograd::CopySlices", "assignment"),
        ("ByDifferencesBackward", "forward"),  # one that autograd does not follow, as a whole
    ],
)
def test_an_operation_of_the_graph_is_called_as_people_call_it(node: str, called: str) -> None:
    assert operation_called(node) == called
