"""Right gradients that a backward makes and returns for no tensor, or for another: a slip of the `return`."""

import ast
import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.names import root
from backhand.checking.running.program import Source
from backhand.checking.running.statements import writes, writes_surely
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.repairing import watched


def unreturned(
    chosen: Pass,
    draw: Draw,
    right: Mapping[str, bool],
    is_right: Callable[[str, Tensor | None], bool],
) -> dict[str, str]:
    """Return the tensors whose gradient is wrong, but right in another variable, with that.

    Nothing reads it; or it is called for this gradient, and returned as another one.

    Args:
        chosen: the pass.
        draw: one run of it.
        right: whether each gradient that it returned is right.
        is_right: tells whether a value is a tensor's right gradient.
    """
    gradients, source = draw.trace.gradients, chosen.backward_source
    if draw.error is not None or source is None:
        return {}
    if chosen.contract == "named":
        told = [n for n in draw.user if not right.get(n, True)]
        return _returned_as_another(source, draw, told, is_right)
    wrong = [n for n in draw.trace.wanted if n in draw.matched and n in gradients and not right.get(n, False)]
    idle = unread(source) if wrong else frozenset()
    if not idle:
        return {}
    seen = _Last(idle)
    with contextlib.suppress(Exception):  # the user's code may raise anything
        watched(chosen, draw, seen)
    found = {}
    for name in wrong:
        alike = (v for v, value in seen.values.items() if value.shape == gradients[name].shape)
        made = next((v for v in alike if is_right(name, seen.values[v])), None)
        if made is not None:
            found[name] = made
    return found


def _returned_as_another(
    source: Source, draw: Draw, wrong: Iterable[str], is_right: Callable[[str, Tensor | None], bool]
) -> dict[str, str]:
    """Return the wrong gradients whose own variable stands at another name in the returned dictionary."""
    found = {}
    for name in wrong:
        variable = root(draw.matched[name])
        at = {entry for entry, behind in source.returned.items() if behind == variable != entry}
        others = (n for n, gradient in draw.matched.items() if root(gradient) in at and n in draw.user)
        if variable in source.returned and any(is_right(name, draw.user[n]) for n in others):
            found[name] = variable
    return found


@lru_cache(maxsize=64)
def unread(source: Source) -> frozenset[str]:
    """Return the variables that are read nowhere but where they are written."""
    # what a bare call is handed may be written there, but not by PyTorch's own: `x.add_(y)` reads y
    own = {s: writes_surely(s) or writes(s) for s in source.simple}
    nodes = [(n, names) for s, names in own.items() for n in ast.walk(s)]
    elsewhere = {id(n) for n, names in nodes if isinstance(n, ast.Name) and n.id in names}
    every = [n for s in source.statements for n in ast.walk(s) if isinstance(n, ast.Name)]
    read = {n.id for n in every if isinstance(n.ctx, ast.Load) and id(n) not in elsewhere}
    return frozenset[str]().union(*own.values()) - read


class _Last(Watcher):
    """Notes what some variables hold at last."""

    def __init__(self, names: frozenset[str]):
        self.names: frozenset[str] = names
        self.values: dict[str, Tensor] = {}

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Take note of those that a statement wrote."""
        for name in self.names & writes(statement):
            value = variables.get(name)
            if isinstance(value, Tensor):
                self.values[name] = value.clone()
