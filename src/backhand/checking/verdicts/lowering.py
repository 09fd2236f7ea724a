"""Which gradients lose precision by a line of their own.

What is right in float64 may be computed in less on the way. The backward runs once more in the dtype of the
given inputs, each gradient replaced by autograd's before anything reads it: what is imprecise even so is by
its own lines, and what was so only because it is made of another gradient is not.

Where the code asks for less, the backward runs in float64 as well, with every such request overruled, and
once more for each statement that makes one, with that statement's requests granted: the gradients that change
are those that it spoils. So one line is one culprit, however often it runs and whatever it feeds.
"""

import ast
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from backhand.checking.running.names import root
from backhand.checking.running.precision import LOWERED, Promoting, lowest, unit
from backhand.checking.running.program import Namespace
from backhand.checking.running.slicing import plain_slice_of
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close, largest_difference
from backhand.checking.verdicts.lives import Lives, later_ways
from backhand.checking.verdicts.repairing import (
    Observed,
    Repairer,
    at_return,
    recorded,
    repair,
    variables_of,
    watched,
)
from backhand.checking.verdicts.rounding import Truth, of_the_same_numbers
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


# Another order of the same operations may lose as much, and is no loss to be told of.
A_DIGIT = 10.0
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Loss:
    """How precise a gradient is.

    Attributes:
        dtype, got: that of the tensor, and that of its gradient.
        times: its error as a multiple of autograd's.
        error: what its line raises in the dtype of the given inputs, if it does.
        statements: those that may be at fault, where they are known.
    """

    dtype: torch.dtype
    got: torch.dtype
    times: float
    error: Exception | None = None
    statements: tuple[ast.stmt, ...] = ()

    @property
    def is_of_dtype(self) -> bool:
        """Whether the gradient itself has a lower dtype than its tensor."""
        return unit(self.got) > unit(self.dtype)

    @property
    def matters(self) -> bool:
        """Whether more is lost than by another order of the same operations."""
        return self.error is not None or self.is_of_dtype or LOWERED < self.times < float("inf")


@dataclass(frozen=True)
class Measure:
    """What a gradient's precision is measured by.

    Attributes:
        shown: the run in the user's dtype.
        truth: the right gradients in float64, as far as they are known.
        beside_autograd: autograd's own gradients in the user's dtype have them as their truth, too.
    """

    shown: Draw
    truth: Mapping[str, Tensor]
    beside_autograd: bool = False

    @staticmethod
    def of(drawn: Draw, shown: Draw, truth: Truth | None) -> "Measure":
        """Return the measure: float64, if the forward runs in it, or if it does where it asks for no less.

        Args:
            drawn: the first run.
            shown: the run in the user's dtype.
            truth: the right gradients in float64, if they measure that run.
        """
        if truth is not None:
            return Measure(shown, truth.trace.gradients, beside_autograd=True)
        known = drawn.promote and of_the_same_numbers(shown.trace, drawn.trace)
        return Measure(shown, drawn.trace.gradients if known else {})

    @cached_property
    def own(self) -> Mapping[str, float]:
        """The error of autograd's own gradients in the user's dtype."""
        its = self.shown.trace.gradients if self.beside_autograd else {}
        return {n: largest_difference(g, self.truth[n]) for n, g in its.items()}

    def loss(self, name: str, value: Tensor | None, error: Exception | None = None) -> Loss | None:
        """Return how precise a gradient is; None where there is nothing to measure it by."""
        tensor = self.shown.trace.tensors.get(name)
        if error is not None and tensor is not None:
            return Loss(tensor.dtype, tensor.dtype, 0.0, error)
        if tensor is None or value is None or not value.dim() or not value.is_floating_point():
            return None
        times, right = 0.0, self.truth.get(name)
        if right is not None and right.shape == value.shape and right.numel():
            rounding = unit(tensor.dtype) * float(right.abs().max())
            times = largest_difference(value, right) / max(self.own.get(name) or rounding, TINY)
        return Loss(tensor.dtype, value.dtype, times)

    def losses(self, names: Iterable[str]) -> dict[str, Loss]:
        """Return the gradients of the run that have lost precision, of these."""
        found = {n: self.loss(n, self.shown.user.get(n)) for n in names}
        return {n: loss for n, loss in found.items() if loss is not None and loss.matters}


def may_have_lost(drawn: Draw, shown: Draw, name: str, multiple: float | None) -> bool:
    """Tell whether a gradient is worth a measure, by its dtype and by the figure that the table has of it."""
    tensor = shown.trace.tensors.get(name)
    if tensor is not None and shown.user[name].dtype != tensor.dtype:
        return True
    return multiple > LOWERED if multiple is not None else drawn.promote


def lost_by_themselves(
    chosen: Pass,
    measure: Measure,
    drawn: Draw,
    losses: Mapping[str, Loss],
    wrong: Container[str],
    *,
    fails: bool,
) -> dict[str, Loss]:
    """Return the gradients that lose precision by their own lines; of those that one line makes, the first.

    Args:
        chosen: the pass, with its source.
        measure: what their precision is measured by.
        drawn: the first run, in float64 if the code runs there.
        losses: all that have lost precision.
        wrong: those that are so in float64 by a line of their own: no question of precision.
        fails: whether one has lost it that is right in float64.
    """
    lives = recorded(chosen, measure.shown)  # in float64, `g.half()` would be `g` itself
    if drawn.promote:
        spoilt = spoilt_by(chosen, drawn, lowest(measure.shown.trace.inputs), lives)
        if asked := _by_asking(spoilt, measure, losses, wrong):
            return asked
    ways = [lives, *later_ways(lives)]  # as where the verdicts are made: the way that leaves fewest to blame
    own, seen = min((_alone(chosen, measure, way) for way in ways), key=lambda found: len(_bad(found[0])))
    by_line: dict[ast.stmt | str, str] = {}
    for name in _bad(own):
        by_line.setdefault(seen[name].statements[-1] if seen[name].statements else name, name)
    # each loses too little by itself, and what is made of it cancels: then it is that which loses most
    most = sorted((n for n in own if own[n].times > A_DIGIT), key=lambda n: -own[n].times)
    chief = list(by_line.values()) or most[:fails]
    found = {n: replace(own[n], statements=_suspects(chosen, measure.shown, n, seen[n])) for n in chief}
    return {n: loss for n, loss in found.items() if n not in wrong}


def _by_asking(
    spoilt: Mapping[ast.stmt, Sequence[str]],
    measure: Measure,
    losses: Mapping[str, Loss],
    wrong: Container[str],
) -> dict[str, Loss]:
    """Return for each line that asks for less the first gradient that it spoils, and no other line does.

    A line that spoils few is asked first: what it spoils follows from one above it as well. The first may
    lose little, and what is made of it all the more. Where it is wrong its line is told of already.
    """
    found: dict[str, Loss] = {}
    for statement, names in sorted(spoilt.items(), key=lambda item: len(item[1])):
        if names and names[0] in wrong:
            continue
        own = {n: measure.loss(n, measure.shown.user.get(n)) for n in names if n not in wrong}
        first = next((n for n, loss in own.items() if loss is not None and n not in found), None)
        if first is not None and any(n in losses for n in own):
            loss = own[first]
            assert loss is not None
            found[first] = replace(loss, statements=(statement,))
    return found


def _alone(chosen: Pass, measure: Measure, lives: Lives) -> tuple[dict[str, Loss], Mapping[str, Observed]]:
    """Return how precise each gradient is if all that it is made of is autograd's, in order of time."""
    right = measure.shown.trace.gradients
    seen = repair(chosen, measure.shown, lambda name, value: name not in right, lives).observed
    in_time = sorted(seen, key=lambda n: seen[n].step)
    losses = {n: measure.loss(n, seen[n].value, seen[n].error) for n in in_time}
    return {n: loss for n, loss in losses.items() if loss is not None}, seen


def _bad(losses: Mapping[str, Loss]) -> list[str]:
    return [name for name, loss in losses.items() if loss.matters]


def _suspects(chosen: Pass, shown: Draw, name: str, seen: Observed) -> tuple[ast.stmt, ...]:
    source, paths = chosen.backward_source, variables_of(chosen, shown).path
    if source is None or name not in paths:
        return ()
    known = {root(path): tensor for tensor, path in paths.items()}
    return plain_slice_of(source, paths[name], seen.statements, known, seen.namespace)
