"""The rows of a report: figures, precision, the lines that are shown."""

import pytest
import torch

import backhand
from altered import from_text


def test_two_dtypes_side_by_side_are_compared_by_the_coarser() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        loss = (x.double() * w).sum()
        return locals()

    def backward(x: torch.Tensor, w: torch.Tensor) -> dict:
        assert x.dtype == torch.float32
        return {"dx": w.float(), "dw": x.double() * (1 + 1e-7)}

    inputs = {"x": torch.randn(40), "w": torch.randn(40, dtype=torch.float64)}
    report = backhand.check(forward, backward, inputs=inputs)
    assert [row.name for row in report.culprits] == ["w"]


@pytest.mark.parametrize(
    ("off", "exact", "approximate"), [(0.0, True, True), (1e-6, False, True), (1e-3, False, False)]
)
def test_the_table_shows_what_the_lectures_comparison_would(
    off: float, exact: bool, approximate: bool
) -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        y = x * w
        return locals()

    def backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> dict:
        return {"dx": dy * w * (1 + off), "dw": dy * x}

    inputs = {"x": torch.randn(8), "w": torch.rand(8) + 1}
    report = backhand.check(forward, backward, inputs=inputs, out="y", stress=False)
    assert (report["x"].exact, report["x"].approximate) == (exact, approximate)
    assert (report["x"].maxdiff == 0) == exact
    assert (report["w"].exact, report["w"].approximate, report["w"].maxdiff) == (True, True, 0)


def test_a_coarse_gradient_is_told_as_many_times_autograds_error() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> dict:
        y = x @ w + b
        return locals()

    def backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> dict:
        rounded = dy.to(torch.bfloat16).to(dy.dtype) if dy.dtype == torch.float32 else dy
        return {"dx": rounded @ w.T, "dw": x.T @ dy, "db": dy.sum(0)}

    inputs = {"x": torch.randn(6, 5), "w": torch.randn(5, 4), "b": torch.zeros(4)}
    report = backhand.check(forward, backward, inputs=inputs, out="y", stress=False)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("x", "dtype")], str(report)
    assert report["x"].multiple > 1000
    assert report["w"].multiple < 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("precision", "culprits"),
    [
        (lambda value: value.bfloat16(), ["h"]),
        (lambda value: value.half().to(value.dtype), ["h"]),
        (lambda value: value.to(value.dtype), []),
    ],
    ids=["returned in bfloat16", "rounded to float16 on the way", "as it is"],
)
def test_a_gradient_of_less_precision_than_its_tensor_is_wrong(dtype, precision, culprits) -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        h = x @ w
        y = h.tanh()
        return locals()

    def backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> dict:
        dh = precision(dy * (1 - y**2))
        dx = dh.to(x.dtype) @ w.T
        dw = x.T @ dh.to(x.dtype)
        return locals()

    inputs = {"x": torch.randn(6, 5, dtype=dtype), "w": torch.randn(5, 4, dtype=dtype)}
    report = backhand.check(forward, backward, inputs=inputs, out="y", stress=False)
    assert [row.name for row in report.culprits] == culprits, str(report)
    assert all(row.mistake is not None and row.mistake.kind == "dtype" for row in report.culprits)


def test_the_lines_of_a_gradient_are_those_that_change_it_not_those_that_look_at_it() -> None:
    def show(*_: object) -> None:
        pass

    def filled(tensor: torch.Tensor, value: torch.Tensor) -> None:
        tensor.copy_(value)

    def forward(x, w):
        y = x * w
        show(y)
        loss = (y * y).sum()
        return locals()

    def backward(x, w, y):
        dy = 2 * y
        show(dy)
        dw = torch.empty_like(w)
        filled(dw, dy * x)
        show(dw)
        dx = dy * w
        return locals()

    def wrong(x, w, y):
        dy = 2 * y
        dw = torch.empty_like(w)
        filled(dw, dy * w)
        show(dw)
        dx = dy * w
        return locals()

    inputs = {"x": torch.randn(3, 4), "w": torch.randn(3, 4)}
    report = backhand.check(forward, backward, inputs=inputs)
    assert report.ok, str(report)
    assert [line.text for line in report["y"].lines] == ["dy = 2 * y"]
    assert [line.text for line in report["w"].lines] == ["dw = torch.empty_like(w)", "filled(dw, dy * x)"]
    assert report["y"].forward_line.text == "y = x * w"
    (row,) = backhand.check(forward, wrong, inputs=inputs).culprits
    # of a wrong one what it begins with comes after what is put into it
    assert [line.text for line in row.lines] == ["filled(dw, dy * w)", "dw = torch.empty_like(w)"]


def test_a_gradient_that_was_left_at_none_is_shown_where_it_is_set():
    module = from_text(
        "def forward(x, w):\n    y = x * w\n    loss = y.square().mean()\n    return locals()\n\n"
        "def backward(x, w, y):\n    dy = 2 * y / y.numel()\n    dx = None\n    dw = None\n    dw = -dy * x\n"
        "    return {'dx': dx, 'dw': dw, 'dy': dy}\n"
    )
    report = backhand.check(module, inputs={"x": torch.randn(4, 3), "w": torch.randn(4, 3)})
    assert [line.text for line in report["x"].lines] == ["dx = None"]
    assert "dw = None" not in [line.text for line in report["w"].lines], "a stub that is filled in later"
