"""Functions that work piece by piece, with what lies on their context: their lines are told, too."""

from typing import Any

import pytest

import backhand
from altered import from_text
from backhand.checking.report import Row

FUNCTIONS = '''
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function


class Layer(nn.Module):
    """A layer whose Function calls its methods and reads its weight, piece by piece; the last is smaller."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(4, 3, generator=g))

    def product(self, part):
        return part @ self.weight.t()

    def slope(self, a):
        t = torch.tanh(a)
        return 1 - t * t

    def forward(self, x):
        return Pieces.apply(x, self.weight, self, 3)


class Whole(Layer):
    def forward(self, x):
        return torch.tanh(self.product(x))


class Pieces(Function):
    @staticmethod
    def forward(ctx, x, weight, layer, length):
        ctx.save_for_backward(x)
        ctx.layer, ctx.length = layer, length
        return torch.cat([torch.tanh(layer.product(part)) for part in x.split(length)])

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        layer = ctx.layer
        dx = torch.empty_like(x)
        dweight = torch.zeros_like(layer.weight)
        for i in range(0, len(x), ctx.length):
            part, arriving = x[i : i + ctx.length], dy[i : i + ctx.length]
            a = layer.product(part)
            da = arriving * layer.slope(a)
            dx[i : i + ctx.length] = da @ layer.weight
            dweight += da.t() @ part
        return dx, dweight, None, None


def silu_slope(a):
    s = torch.sigmoid(a)
    return s * (1 + a * (1 - s))


SLOPES = {"silu": silu_slope, "tanh": lambda a: 1 - torch.tanh(a) ** 2}


class Chosen(Function):
    @staticmethod
    def forward(ctx, x, kind):
        ctx.save_for_backward(x)
        ctx.kind = kind
        return F.silu(x) if kind == "silu" else torch.tanh(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        slope = SLOPES[ctx.kind](x)
        return dy * slope, None
'''


def culprit_of_pieces(old: str, new: str) -> Row:
    assert FUNCTIONS.count(old) == 1, old
    module: Any = from_text(FUNCTIONS.replace(old, new))
    x = module.torch.randn(8, 3, generator=module.torch.Generator().manual_seed(0))
    (row,) = backhand.check_function(module.Layer(), module.Whole(), {"x": x}).culprits
    assert row.mistake is not None
    return row


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("dweight += da.t() @ part", "dweight = da.t() @ part", "overwritten"),
        ("dx[i : i + ctx.length] = da @", "dx[i : i + ctx.length] = arriving @", "wrong_upstream"),
        ("da = arriving * layer.slope(a)", "da = arriving", "wrong_point"),
        ("return 1 - t * t", "return 1 - t", "wrong_point"),
    ],
)
def test_a_line_that_works_piece_by_piece_on_a_module_is_named(old: str, new: str, kind: str) -> None:
    row = culprit_of_pieces(old, new)
    assert row.lines[0].text.startswith(new)
    assert row.mistake is not None
    assert row.mistake.kind == kind


def test_a_helper_that_is_looked_up_in_a_table_has_its_line() -> None:
    module: Any = from_text(FUNCTIONS.replace("1 + a * (1 - s)", "1 + s * (1 - s)"))
    x = module.torch.randn(4, 3, generator=module.torch.Generator().manual_seed(0))
    report = backhand.check_function(
        module.Chosen, lambda x, kind: module.F.silu(x), {"x": x, "kind": "silu"}
    )
    (row,) = report.culprits
    assert row.lines[0].text == "return s * (1 + s * (1 - s))"
