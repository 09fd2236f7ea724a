"""The statements of a function as they ran, without the blocks in which they stood."""

import ast
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.instrumenting import Watcher, run_function
from backhand.checking.running.program import source_of
from backhand.checking.running.straight import straight


class Last(Watcher):
    def __init__(self) -> None:
        self.statements: set[ast.stmt] = set()
        self.variables: dict[str, Any] = {}

    def ran(self, step: int, statement: ast.stmt, variables: Any) -> None:
        self.statements.add(statement)
        self.variables = dict(variables)


def text_of(function: Callable[..., Any], *given: Any) -> list[str]:
    source, last = source_of(function), Last()
    assert source is not None
    run_function(function, source, {}, last, given)
    return [ast.unparse(s) for s in straight(source, last.statements, last.variables).statements]


def guarded(dy: Tensor, needs: tuple[bool, ...], bias: Tensor | None) -> Any:
    if bias is None and dy.dim() > 9:
        return None
    dx = db = None
    with torch.no_grad():
        if needs[0]:
            dx = 2 * dy
    if bias is not None:
        db = dy.sum(0)
    else:
        db = dy
        dx = 0 * dy
    return dx, db


def test_the_blocks_that_were_entered_stand_in_the_place_of_what_decides_on_them() -> None:
    assert text_of(guarded, torch.ones(2), (True,), torch.ones(2)) == [
        "dx = db = None",
        "dx = 2 * dy",
        "db = dy.sum(0)",
        "return (dx, db)",
    ]
    assert text_of(guarded, torch.ones(2), (False,), None) == [
        "dx = db = None",
        "db = dy",
        "dx = 0 * dy",
        "return (dx, db)",
    ]


def decided(dy: Tensor) -> Tensor:
    if dy > 0:
        dy = 2 * dy
    if dy.max() > 0:
        dy = 3 * dy
    if dy.sum().item() > 0:
        return dy
    return -dy


def in_a_loop(dy: Tensor, n: int) -> Tensor:
    for i in range(n):
        if i > 0:
            dy = dy + i
    with torch.enable_grad():
        dy = dy * 2
    return dy


def test_what_numbers_or_the_turn_of_a_loop_decide_stays_as_it_is() -> None:
    left = text_of(decided, torch.ones(()))
    assert [s.splitlines()[0] for s in left[:3]] == [
        "if dy > 0:",
        "if dy.max() > 0:",
        "if dy.sum().item() > 0:",
    ]
    assert len(text_of(in_a_loop, torch.ones(2), 2)) == 3
