"""Find the statement at fault by the values that autograd knows, in loops and temporaries, under any name.

A statement's results, turn by turn, are replaced by one sequence that autograd knows. If a wrong gradient
is then right, and nothing else is wrong that was not, that statement is a candidate; of several, the one
that deviates first in time is at fault. It needs no names, so that it holds for running variables and
temporaries.
"""

import ast
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.knowledge import Known, Label, knowledge, signature
from backhand.checking.running.program import Namespace
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.repairing import Repair, Repairer, around, snapshot, variables_of, watched

# Processor time for one report, in seconds. A loop of twenty steps with one line wrong takes a few tenths.
MOST_SECONDS = 2.0
# So many turns are enough to tell what a line does; all others are alike.
BENCHES = 2

IsRight = Callable[[str, Tensor | None], bool]
# A statement, and the variable that it assigns; empty for what it adds to something, or puts into it.
Target = tuple[ast.stmt, str]
# What is put in the place of a value, by the turn.
Give = Callable[[int, Any], Any]


@dataclass(frozen=True)
class Bench:
    """One turn of a statement.

    Attributes:
        namespace: the variables before it.
        value: what it made; None where it raised.
        expected: what belongs there.
    """

    namespace: Namespace
    value: Tensor | None
    expected: Tensor


@dataclass(frozen=True)
class Fault:
    """A statement that is wrong, given right upstream gradients.

    Attributes:
        statement: it.
        variable: the one that it assigns; empty where it adds to something, or puts into a container.
        belongs: what autograd knows to belong there.
        taken_for: what its own value is known as, if it is known.
        gradients: the tensors whose gradients it makes wrong, in the order in which these are complete.
        benches: some of its turns.
    """

    statement: ast.stmt
    variable: str
    belongs: Label
    taken_for: Label | None
    gradients: tuple[str, ...]
    benches: tuple[Bench, ...]


def faults(chosen: Pass, draw: Draw, is_right: IsRight, lives: Lives, repair: Repair) -> list[Fault]:
    """Return the statements at fault for the culprits of a repaired run, as far as they can be known.

    Args:
        chosen, draw: the backward, and what it was run on.
        is_right: tells whether a value is the right one of a tensor.
        lives: recorded of the backward.
        repair: the run whose culprits are to be explained.
    """
    looked_for = [n for n in repair.culprits if n in repair.observed and n not in repair.aliased]
    search = _Search(chosen, draw, is_right, lives, repair)
    if not looked_for or not search.known:
        return []
    found: list[Fault] = []
    while looked_for and not search.is_over():
        looked_for.sort(key=lambda n: repair.observed[n].step)
        fault = search.fault(looked_for[0], frozenset(looked_for))
        if fault is not None:
            found.append(fault)
        explained = fault.gradients if fault is not None else looked_for[:1]
        looked_for = [n for n in looked_for if n not in explained]
    return found


@dataclass(frozen=True)
class _Event:
    """One turn of a target, in the repaired run."""

    step: int
    shape: torch.Size | None
    sign: float


class _Search:
    """All that is tried on one draw."""

    def __init__(self, chosen: Pass, draw: Draw, is_right: IsRight, lives: Lives, repair: Repair):
        self.chosen, self.draw, self.is_right, self.lives = chosen, draw, is_right, lives
        self.repair = repair
        self._began = time.process_time()
        self.known = knowledge(chosen, draw)
        self._moves: dict[Target, frozenset[str]] = {}
        log = _Log(self._repairer(self._mended))
        watched(chosen, draw, log)
        self.events = log.events

    def is_over(self) -> bool:
        """Tell whether the time is up."""
        return time.process_time() - self._began > MOST_SECONDS

    def _mended(self, name: str, value: Tensor | None) -> Tensor | None:
        return None if self.is_right(name, value) else self.draw.trace.gradients[name].clone()

    def _repairer(self, replace: Callable[[str, Tensor | None], Tensor | None]) -> Repairer:
        return Repairer(variables_of(self.chosen, self.draw), self.lives, {}, replace, keeps=False)

    def fault(self, name: str, culprits: frozenset[str]) -> Fault | None:
        """Return the statement at fault for one culprit, the first in time."""
        for target, known, turn in self._candidates(name, culprits):
            if self.is_over():
                return None
            left = self._left(target, known, name)
            if left is not None and left < culprits:
                benches = self._benches(target, known, turn)
                taken_for = self._label(self.events[target][turn])
                own = tuple(sorted(culprits - left, key=lambda n: self.lives[n][-1].last))
                return Fault(*target, known.label, taken_for, own, benches)
        return None

    def _candidates(self, name: str, culprits: frozenset[str]) -> Iterator[tuple[Target, Known, int]]:
        """Yield statements with what may belong there and the turn in which they deviate, the first first."""
        complete = self.lives[name][-1].last
        found: list[tuple[bool, int, int, Target, Known, int]] = []
        for target, events in self.events.items():
            moved = self._moved(target) if events[0].step <= complete else frozenset()
            if name not in moved:
                continue
            cleared = not moved <= culprits  # something that it goes into is right
            for known in self.known:
                turn, fits = _deviation(events, known), _fits(events[0].shape, known.shape)
                if turn is not None and fits is not None and events[turn].step <= complete:
                    found.append((cleared, events[turn].step, fits, target, known, turn))
        found.sort(key=lambda f: f[:3])
        for *_, target, known, turn in found:
            yield target, known, turn

    def _moved(self, target: Target) -> frozenset[str]:
        """Return which gradients are no longer what they were if a statement gives something else."""
        if target not in self._moves:
            generator = torch.Generator().manual_seed(self.draw.seed)

            def shaken(_: int, value: Any) -> Any:
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    return value
                noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
                return value * (1 + 0.5 * noise).to(value)

            self._moves[target] = self._changed(target, shaken)
        return self._moves[target]

    def _changed(self, target: Target, give: Give) -> frozenset[str]:
        """Return which gradients, as their own lines make them, are others than in the repaired run."""
        found: set[str] = set()

        def replace(tensor: str, value: Tensor | None) -> Tensor | None:
            before = self.repair.observed[tensor].value if tensor in self.repair.observed else None
            if value is None or before is None:
                found.update([tensor] if value is not before else [])
            elif not close(value, before):
                found.add(tensor)
            return self._mended(tensor, value)

        try:
            watched(self.chosen, self.draw, _Putting(self._repairer(replace), target, give))
        except Exception:  # the user's code may raise anything
            return frozenset()
        return frozenset(found)

    def _label(self, event: _Event) -> Label | None:
        """Return what the value of a turn is known as."""
        for known in self.known:
            for turn in range(len(known.values)):
                if event.shape is not None and known.agrees(turn, event.shape, event.sign):
                    return known.label
        return None

    def _left(self, target: Target, known: Known, name: str) -> frozenset[str] | None:
        """Put a sequence in a statement's place; return what is wrong then, None if `name` still is."""
        left: set[str] = set()

        def replace(tensor: str, value: Tensor | None) -> Tensor | None:
            right = self._mended(tensor, value)
            if right is not None:
                if tensor == name:
                    raise _StillWrong
                left.add(tensor)
            return right

        def give(turn: int, value: Any) -> Any:
            return known.values[turn].clone() if turn < len(known.values) else value

        try:
            run = watched(self.chosen, self.draw, _Putting(self._repairer(replace), target, give))
        except (_StillWrong, Exception):  # what is put there may not fit
            return None
        return frozenset(left) if not run.errors else None

    def _benches(self, target: Target, known: Known, turn: int) -> tuple[Bench, ...]:
        steps = [event.step for event in self.events[target][turn : turn + BENCHES]]
        looking = _Before(self._repairer(self._mended), steps, target)
        watched(self.chosen, self.draw, looking)
        outside = around(self.chosen)
        found = zip(looking.before, looking.made, known.values[turn:], strict=False)
        return tuple(Bench(outside | before, made, right) for before, made, right in found)


def _deviation(events: Sequence[_Event], known: Known) -> int | None:
    """Return the first turn in which a statement does not give the known value; None if there is none.

    A loop may have a turn more or fewer than the forward's: the first state has no gradient, or nobody
    wants it.
    """
    if abs(len(events) - len(known.values)) > 1:
        return None
    for turn in range(min(len(events), len(known.values))):
        shape = events[turn].shape
        if shape is None or not known.agrees(turn, shape, events[turn].sign):
            return turn
    return None


def _fits(shape: torch.Size | None, known: torch.Size) -> int | None:
    """Return how well a known tensor fits in the place of another one; None if it cannot belong there."""
    if shape is None or shape == known:
        return 0
    if shape.numel() == known.numel():
        return 1
    small, large = sorted((shape, known), key=lambda s: s.numel())
    pairs = zip(reversed(small), reversed(large), strict=False)
    return 2 if all(a in (1, b) for a, b in pairs) else None


class _StillWrong(BaseException):
    """Leaves a run that has shown enough; not an `Exception`, which the user's code may catch."""


class _Around(Watcher):
    """Does what a repairer does, and something besides."""

    def __init__(self, repairer: Repairer):
        self.repairer = repairer

    def raised(self, statement: ast.stmt, error: Exception) -> None:
        """Hand it on."""
        self.repairer.raised(statement, error)


def _targets(statement: ast.stmt, variables: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    """Return the variables that a plain assignment has given a floating-point tensor."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    for target in targets:
        for node in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
            value = variables.get(node.id) if isinstance(node, ast.Name) else None
            if isinstance(node, ast.Name) and isinstance(value, Tensor) and value.is_floating_point():
                yield node.id, value


class _Log(_Around):
    """Notes what each statement made."""

    def __init__(self, repairer: Repairer):
        super().__init__(repairer)
        self.events: dict[Target, list[_Event]] = {}

    def added(self, step: int, statement: ast.stmt, value: Any) -> Any:
        """Note what is added, or put into a container."""
        if isinstance(value, Tensor) and value.is_floating_point():
            self._note(step, (statement, ""), value)
        return value

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Note what was assigned."""
        for name, value in _targets(statement, variables):
            self._note(step, (statement, name), value)
        return self.repairer.ran(step, statement, variables)

    def raised(self, statement: ast.stmt, error: Exception) -> None:
        """Note that a turn gave nothing."""
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            target = statement, statement.targets[0].id
            self.events.setdefault(target, []).append(_Event(-1, None, 0.0))
        super().raised(statement, error)

    def _note(self, step: int, target: Target, value: Tensor) -> None:
        its = self.events.setdefault(target, [])
        if its and its[-1].step == -1:  # it raised: the variable is an old one
            its[-1] = _Event(step, None, 0.0)
        else:
            its.append(_Event(step, value.shape, signature(value)))


class _Putting(_Around):
    """Puts other tensors in the place of what a statement gives, turn by turn."""

    def __init__(self, repairer: Repairer, target: Target, give: Give):
        super().__init__(repairer)
        self.target, self.give, self.turn = target, give, 0

    def _next(self, value: Any) -> Any:
        self.turn += 1
        return self.give(self.turn - 1, value)

    def added(self, step: int, statement: ast.stmt, value: Any) -> Any:
        """Put one in the place of what is added."""
        return self._next(value) if self.target == (statement, "") else value

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Put one in the place of what was assigned."""
        if statement is not self.target[0] or not self.target[1]:
            return self.repairer.ran(step, statement, variables)
        name = self.target[1]
        put = {name: self._next(variables.get(name))}
        return put | self.repairer.ran(step, statement, {**variables, **put})


class _Before(_Around):
    """Takes the variables before some turns of a statement, and what it makes of them."""

    def __init__(self, repairer: Repairer, steps: Sequence[int], target: Target):
        super().__init__(repairer)
        self.steps, self.target = set(steps), target
        self.before: list[Namespace] = []
        self.made: list[Tensor | None] = []

    def added(self, step: int, statement: ast.stmt, value: Any) -> Any:
        """Take what is added."""
        if step in self.steps and self.target == (statement, ""):
            self.made.append(value.clone())
        return value

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Take the variables, and what was assigned."""
        if step in self.steps and self.target[1]:
            value = variables.get(self.target[1])
            self.made.append(value.clone() if isinstance(value, Tensor) else None)
        new = self.repairer.ran(step, statement, variables)
        if step + 1 in self.steps:
            self.before.append(snapshot({**variables, **new}))
        return new
