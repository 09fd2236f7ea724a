"""Which statements of a backward ask for less precision, and which gradients are made less precise by each.

The backward runs in float64 with every request for less overruled, and once more for each statement that
makes one, with that statement's requests granted: the gradients that change are those that it spoils. So one
line is one culprit, however often it runs and whatever it feeds.
"""

import ast
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from backhand.checking.running.precision import Promoting, unit
from backhand.checking.running.program import Namespace
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.repairing import Observed, Repairer, at_return, variables_of, watched
from backhand.checking.verdicts.shadowing import Shadow

# A backward in which more lines than this ask for less is written to compute in less: no line stands out.
MOST_LINES = 12


class Granting(Promoting):
    """Grants the requests of some steps, overrules the others, and notes who asks for less than `own`."""

    def __init__(self, own: torch.dtype, granted: frozenset[int] = frozenset()):
        super().__init__()
        self.own: torch.dtype = own
        self.granted: frozenset[int] = granted
        self.step: int = 0
        self.asked: set[int] = set()

    def overrules(self, dtype: torch.dtype) -> bool:
        """Overrule it, unless it is for less and one of the steps whose requests are granted."""
        if unit(dtype) <= unit(self.own):
            return True
        self.asked.add(self.step)
        return self.step not in self.granted


class _InStep(Shadow):
    """Tells the mode which step comes next, and which statement each step was."""

    def __init__(self, repairer: Repairer, mode: Granting):
        super().__init__(repairer)
        self.mode = mode
        self.statements: list[ast.stmt] = []

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, object]) -> Namespace:
        """Count the step."""
        self.statements.append(statement)
        new = super().ran(step, statement, variables)
        self.mode.step = step + 1
        return new


def spoilt_by(chosen: Pass, draw: Draw, own: torch.dtype, lives: Lives) -> dict[ast.stmt, tuple[str, ...]]:
    """Return the statements that ask for less, each with the gradients that it spoils, in order of time.

    Args:
        chosen: the pass, with the source of its backward.
        draw: a run in float64, in which requests for less are overruled.
        own: the dtype of the user's inputs; a request for this one is no request for less.
        lives: recorded of the backward.
    """
    mode = Granting(own)
    exact, statements = _run(chosen, draw, lives, mode)
    steps: dict[ast.stmt, set[int]] = {}
    for step in sorted(mode.asked):
        if step < len(statements):
            steps.setdefault(statements[step], set()).add(step)
    if len(steps) > MOST_LINES:
        return {}
    found = {}
    for statement, its in steps.items():
        seen, _ = _run(chosen, draw, lives, Granting(own, frozenset(its)))
        changed = [n for n in seen if not _same(seen[n].value, exact[n].value if n in exact else None)]
        found[statement] = tuple(sorted(changed, key=lambda n: seen[n].step))
    return found


def _run(
    chosen: Pass, draw: Draw, lives: Lives, mode: Granting
) -> tuple[dict[str, Observed], list[ast.stmt]]:
    watcher = _InStep(Repairer(variables_of(chosen, draw), lives, {}, lambda name, value: None), mode)
    with mode:
        run = watched(chosen, replace(draw, promote=False), watcher)
    repairer = watcher.repairer
    return repairer.observed | at_return(draw, chosen.backward_source, run, repairer), watcher.statements


def _same(value: Tensor | None, exact: Tensor | None) -> bool:
    if value is None or exact is None:
        return value is exact
    return value.dtype == exact.dtype and close(value, exact)
