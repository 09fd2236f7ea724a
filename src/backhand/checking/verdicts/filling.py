"""Which statement puts what is wrong into a gradient that is filled through other names of its memory."""

import ast
import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.statements import writes_surely
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.repairing import watched


def filled_by(chosen: Pass, draw: Draw, name: str, variable: str) -> ast.stmt | None:
    """Return the one statement that changes the wrong elements of a gradient without naming its variable.

    So it is of `tail += part`, where `tail` is a view of `dx`. None where several do, or the text tells.
    """
    user, right = draw.user.get(name), draw.trace.gradients.get(name)
    if user is None or right is None or user.shape != right.shape:
        return None
    filling = _Filling(variable, ~torch.isclose(user.detach(), right.to(user.dtype), rtol=1e-6))
    with contextlib.suppress(Exception):  # the user's code may raise anything
        watched(chosen, draw, filling)
    found = [s for s in filling.found if variable not in writes_surely(s)]
    return found[0] if len(found) == 1 == len(filling.found) else None


class _Filling(Watcher):
    """Notes which statements change some elements of what a variable holds, once it holds it."""

    def __init__(self, variable: str, wrong: Tensor):
        self.found: dict[ast.stmt, None] = {}
        self._variable, self._wrong = variable, wrong
        self._place, self._before = 0, wrong

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Look at it."""
        value = variables.get(self._variable)
        if not isinstance(value, Tensor) or value.shape != self._wrong.shape:
            return
        now = value.detach().clone()
        if value.data_ptr() == self._place and bool((self._wrong & (now != self._before)).any()):
            self.found[statement] = None
        self._place, self._before = value.data_ptr(), now
