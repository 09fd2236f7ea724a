"""A number where a gradient belongs is a statement's value as any tensor is: its line is told."""

from typing import Any

import pytest

import backhand
from altered import from_text

FUNCTIONS = '''
import torch
from torch.autograd import Function


class Apart(Function):
    """The mean square of a difference, whose factor is a number in both gradients."""

    @staticmethod
    def forward(ctx, x, y):
        d = x - y
        ctx.save_for_backward(d)
        return d.square().mean()

    @staticmethod
    def backward(ctx, dloss):
        (d,) = ctx.saved_tensors
        each = 2 / d.numel() * dloss
        dx = each * d
        dy = -each * d
        return dx, dy


def apart(x, y):
    return (x - y).square().mean()


def apart_inputs():
    g = torch.Generator().manual_seed(0)
    return {"x": torch.randn(4, 3, generator=g), "y": torch.randn(4, 3, generator=g)}


class Pulled(Function):
    """A difference beside its mean square: what arrives at the one is added to what the other sends."""

    @staticmethod
    def forward(ctx, x, y):
        d = x - y
        ctx.save_for_backward(d)
        return 3 * x, d.square().mean()

    @staticmethod
    def backward(ctx, dtripled, dloss):
        (d,) = ctx.saved_tensors
        scale = 2 / d.numel()
        dx = 3 * dtripled + dloss * scale * d
        dy = -dloss * scale * d
        return dx, dy


def pulled(x, y):
    return 3 * x, (x - y).square().mean()


pulled_inputs = apart_inputs


class Averaged(Function):
    """A running average, divided by a running weight."""

    @staticmethod
    def forward(ctx, k, v):
        a = torch.zeros_like(k[0])
        b = torch.ones_like(k[0])
        ys = []
        for t in range(k.shape[0]):
            a = a + k[t].exp() * v[t]
            b = b + k[t].exp()
            ys.append(a / b)
        y = torch.stack(ys)
        ctx.save_for_backward(k, v, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        k, v, y = ctx.saved_tensors
        b = 1 + k.exp().cumsum(0)
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        da = torch.zeros_like(k[0])
        db = torch.zeros_like(k[0])
        for t in reversed(range(k.shape[0])):
            share = dy[t] / b[t]
            da = da + share
            db = db - share * y[t]
            dv[t] = da * k[t].exp()
            dk[t] = (da * v[t] + db) * k[t].exp()
        return dk, dv


def averaged(k, v):
    e = k.exp()
    return (e * v).cumsum(0) / (1 + e.cumsum(0))


def averaged_inputs():
    g = torch.Generator().manual_seed(0)
    return {"k": torch.randn(4, 3, generator=g), "v": torch.randn(4, 3, generator=g)}
'''


def checked(name: str, *changes: tuple[str, str]) -> backhand.Report:
    text = FUNCTIONS
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    module: Any = from_text(text)
    fn, reference, inputs = (getattr(module, n) for n in (name, name.lower(), f"{name.lower()}_inputs"))
    return backhand.check_function(fn, reference, inputs())


@pytest.mark.parametrize("name", ["Apart", "Pulled", "Averaged"])
def test_the_right_functions_are_right(name: str) -> None:
    assert checked(name).ok


def test_a_number_that_lacks_the_upstream_gradient_is_one_culprit() -> None:
    (row,) = checked("Apart", ("2 / d.numel() * dloss", "2 / d.numel()")).culprits
    assert row.lines[0].text == "each = 2 / d.numel()"
    assert row.mistake is not None
    assert "dloss" in row.mistake.message


def test_a_number_by_which_all_gradients_are_off_is_one_culprit() -> None:
    (row,) = checked("Apart", ("2 / d.numel() * dloss", "1.0")).culprits
    assert row.lines[0].text == "each = 1.0"


def test_a_number_in_a_loop_where_a_gradient_belongs_is_told_as_one() -> None:
    (row,) = checked("Averaged", ("dy[t] / b[t]", "1")).culprits
    assert row.lines[0].text == "share = 1"
    assert row.mistake is not None
    assert "it is a number, where a gradient of shape (3,) belongs" in row.mistake.message


def test_a_number_that_is_off_in_a_part_of_two_gradients_is_one_culprit() -> None:
    (row,) = checked("Pulled", ("scale = 2 / d.numel()", "scale = 2 / len(d)")).culprits
    assert row.lines[0].text == "scale = 2 / len(d)"
    assert row.mistake is not None
    assert "`2 / len(d)` is off by a constant factor: it is 3 times" in row.mistake.message
