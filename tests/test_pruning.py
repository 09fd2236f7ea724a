"""A backward cut down to some of its gradients gives the same ones, or stays whole."""

import inspect
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from backhand.pruning import prune


def two_names_of_one_tensor(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    dx = dy.clone()
    same = dx
    same += x
    dw = dy * w
    return {"dx": dx, "dw": dw}


def a_view_of_it(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    dx = dy * 2
    row = dx[0]
    row += x[1]
    dw = w.sum() + dy
    return {"dx": dx, "dw": dw}


def a_view_that_einsum_makes(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    dx = dy * 2
    same = torch.einsum("ij->ji", dx)
    same += x.T
    dw = w.sum() + dy
    return {"dx": dx, "dw": dw}


def a_name_for_one_of_two(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    dx = dy * w
    dw = dy * x
    for gradient in (dx, dw):
        gradient *= 3
    return {"dx": dx, "dw": dw}


def a_list_that_grows(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    parts = []
    parts.append(dy * w)
    parts.append(x)
    dx = torch.stack(parts).sum(0)
    dw = dy * x
    return {"dx": dx, "dw": dw}


def written_into(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    dx = torch.empty_like(x)
    unused = torch.mul(dy, w, out=dx)
    dw = torch.zeros_like(w)
    dw[0] = (dy * x)[0]
    dw.mul_(2)
    return {"dx": dx, "dw": dw}


def assigned_in_a_branch_that_is_not_taken(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    dx = dy * w
    if dy.numel() > 1000:
        dx = torch.zeros_like(dy)
    dw = torch.ones_like(w)
    for _ in range(0):
        dw = dy
    return {"dx": dx, "dw": dw}


def assigned_twice(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    h = dy * w
    dx = h * x
    h = dy * x
    dw = h * 2
    return {"dx": dx, "dw": dw}


def returned_as_expressions(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    both = dy * w * x
    return {"dx": both / x, "dw": dy * x}


def returned_with_locals(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    half = dy / 2
    dx = half * w
    dw = half * x
    return locals()


def seen_by_eval(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    dx = eval("dy * w")
    dw = dy * x
    return {"dx": dx, "dw": dw}


def returned_early(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    dx, dw = dy * w, dy * x
    if dy.numel():
        return {"dx": dx, "dw": 2 * dw}
    return {"dx": dx, "dw": dw}


def asserted(dy: Tensor, x: Tensor, w: Tensor) -> dict[str, Any]:
    assert x.shape == dy.shape
    return {"dx": dy * w, "dw": dy * x}


CUT = [
    two_names_of_one_tensor,
    a_view_of_it,
    a_view_that_einsum_makes,
    a_name_for_one_of_two,
    a_list_that_grows,
    written_into,
    assigned_in_a_branch_that_is_not_taken,
    assigned_twice,
    returned_as_expressions,
    returned_with_locals,
]
WHOLE = [seen_by_eval, returned_early, asserted]


@pytest.mark.parametrize("backward", [*CUT, *WHOLE], ids=lambda f: f.__name__)
def test_what_is_left_gives_the_gradients_that_the_whole_gives(backward: Callable) -> None:
    given = dict(zip(("dy", "x", "w"), torch.randn(3, 4, 5), strict=True))

    def called(function: Callable) -> dict[str, Any]:
        asked = inspect.signature(function).parameters
        return function(**{name: given[name].clone() for name in asked})

    whole = called(backward)
    for count in (1, 2):
        for names in combinations(("dx", "dw"), count):
            found = called(prune(backward, names))
            for name in names:
                assert torch.equal(found[name], whole[name]), (names, name)


@pytest.mark.parametrize("backward", WHOLE, ids=lambda f: f.__name__)
def test_what_cannot_be_read_stays_whole(backward: Callable) -> None:
    assert prune(backward, ["dx"]) is backward


@pytest.mark.parametrize(
    ("backward", "gradient", "asked"),
    [
        (two_names_of_one_tensor, "dw", ["dy", "w"]),
        (two_names_of_one_tensor, "dx", ["dy", "x"]),
        (a_view_of_it, "dw", ["dy", "w"]),
        (a_list_that_grows, "dw", ["dy", "x"]),
        (written_into, "dw", ["dy", "x", "w"]),
        (assigned_in_a_branch_that_is_not_taken, "dw", ["dy", "w"]),
        (assigned_twice, "dw", ["dy", "x"]),
        (returned_as_expressions, "dw", ["dy", "x"]),
        (returned_with_locals, "dx", ["dy", "w"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_not_needed_is_not_asked_for(backward: Callable, gradient: str, asked: list[str]) -> None:
    assert list(inspect.signature(prune(backward, [gradient])).parameters) == asked
