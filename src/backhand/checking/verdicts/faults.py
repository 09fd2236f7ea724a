"""Find the statement at fault by the values that autograd knows, in loops and temporaries, under any name.

A statement's results, turn by turn, are replaced by one sequence that autograd knows. If a wrong gradient
is then right, and nothing else is wrong that was not, that statement is a candidate; of several, the one
that deviates first in time is at fault. It needs no names, so that it holds for running variables and
temporaries.
"""

import ast
import bisect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.knowledge import Known, Label, alike, knowledge, signature
from backhand.checking.running.names import flatten
from backhand.checking.running.program import Namespace
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.repairing import Repair, Repairer, around, snapshot, variables_of, watched

# Processor time for one report, in seconds. A loop of twenty steps with one line wrong takes a few tenths.
MOST_SECONDS = 2.0
# So many turns are enough to tell what a line does; all others are alike.
BENCHES = 2

IsRight = Callable[[str, Tensor | None], bool]
# A statement, and the variable that it assigns; empty for what it adds to something, or puts into it.
Target = tuple[ast.stmt, str]


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
    search = _Search(chosen, draw, is_right, lives)
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

    def __init__(self, chosen: Pass, draw: Draw, is_right: IsRight, lives: Lives):
        self.chosen, self.draw, self.is_right, self.lives = chosen, draw, is_right, lives
        self._began = time.process_time()
        self.known = knowledge(chosen, draw)
        self._signs = _sorted_signs(
            (value.shape, sign)
            for known in self.known
            for value, sign in zip(known.values, known.signatures, strict=True)
        )
        forward = flatten(draw.trace.values).values()
        self._forward = _sorted_signs(
            (v.shape, signature(v)) for v in forward if isinstance(v, Tensor) and v.is_floating_point()
        )
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
        for target, known, turn in self._candidates(name):
            if self.is_over():
                return None
            left = self._left(target, known, name)
            if left is not None and left < culprits:
                benches = self._benches(target, known, turn)
                taken_for = self._label(self.events[target][turn])
                own = tuple(sorted(culprits - left, key=lambda n: self.lives[n][-1].last))
                return Fault(*target, known.label, taken_for, own, benches)
        return None

    def _candidates(self, name: str) -> Iterator[tuple[Target, Known, int]]:
        """Yield statements with what may belong there and the turn in which they deviate, the first first."""
        complete = self.lives[name][-1].last
        found: list[tuple[int, int, Target, Known, int]] = []
        for target, events in self.events.items():
            if events[0].step > complete or any(self._is_of_the_forward(event) for event in events):
                continue
            for known in self._belonging(events):
                turn = _deviation(events, known)
                fits = _fits(events[0].shape, known.shape)
                if turn is not None and events[turn].step <= complete and fits is not None:
                    found.append((events[turn].step, fits, target, known, turn))
        found.sort(key=lambda f: f[:2])
        for _, _, target, known, turn in found:
            yield target, known, turn

    def _belonging(self, events: Sequence[_Event]) -> list[Known]:
        """Return what may belong in the place of a statement's values.

        If they are known themselves, such as what one consumer sends back, then it is more or less of the
        same tensor's gradient. If they are known up to some turn only, it is what goes on from there.
        """
        turn = next((i for i, event in enumerate(events) if not self._is_known(event)), len(events))
        first = [known for known in self.known if _agree(known, events[:1])] if turn else []
        of = frozenset(tensor for known in first for tensor in known.of)
        if turn == len(events):
            return [known for known in self.known if not of.isdisjoint(known.of)]
        return [known for known in self.known if _agree(known, events[:turn]) or not of.isdisjoint(known.of)]

    def _is_known(self, event: _Event) -> bool:
        return event.shape is not None and _has_alike(self._signs.get(event.shape, ()), event)

    def _is_of_the_forward(self, event: _Event) -> bool:
        """Tell whether a value is one of the forward's tensors, or zeros: no gradient is made there."""
        if event.shape is None:
            return False
        return event.sign == 0 or _has_alike(self._forward.get(event.shape, ()), event)

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

        try:
            run = watched(self.chosen, self.draw, _Putting(self._repairer(replace), target, known))
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


def _sorted_signs(values: Iterable[tuple[torch.Size, float]]) -> dict[torch.Size, list[float]]:
    found: dict[torch.Size, list[float]] = {}
    for shape, sign in values:
        found.setdefault(shape, []).append(sign)
    return {shape: sorted(signs) for shape, signs in found.items()}


def _agree(known: Known, events: Sequence[_Event]) -> bool:
    """Tell whether these turns have the values of a sequence."""
    return all(e.shape is not None and known.agrees(i, e.shape, e.sign) for i, e in enumerate(events))


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


def _has_alike(signs: Sequence[float], event: _Event) -> bool:
    assert event.shape is not None
    at = bisect.bisect_left(signs, event.sign)
    near = signs[max(0, at - 1) : at + 1]
    return any(alike(sign, event.sign, event.shape.numel()) for sign in near)


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
    """Puts known tensors in a statement's place."""

    def __init__(self, repairer: Repairer, target: Target, known: Known):
        super().__init__(repairer)
        self.target, self.known, self.turn = target, known, 0

    def _next(self, value: Any) -> Any:
        turn, self.turn = self.turn, self.turn + 1
        return self.known.values[turn].clone() if turn < len(self.known.values) else value

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
