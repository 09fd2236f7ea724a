"""Which statements to try first: how likely each is to be at fault, by what it gives and may have to give."""

import ast
import bisect
from collections.abc import Callable, Container, Mapping, Sequence
from enum import IntEnum

import torch

from backhand.checking.running.known import Known
from backhand.checking.running.statements import kept_as, writes_surely
from backhand.checking.verdicts.recognising import Recogniser
from backhand.checking.verdicts.shadowing import Event, Target, is_carried


class Rank(IntEnum):
    """The lower, the sooner a statement is tried."""

    NOTHING = 0  # zeros in a loop, or a variable that no turn changes
    UNKNOWN = 1  # nothing that autograd or the forward has made, or a near miss of what belongs there
    ELSEWHERE = 2  # right, but far from here
    OF_THE_FORWARD = 3  # one of the forward's values
    OTHERWISE = 4  # of another shape, or what a sum begins with
    RIGHT_BY_NAME = 5  # what its variable is called for


def rank(
    recogniser: Recogniser,
    target: Target,
    events: Sequence[Event],
    event: Event,
    known: Known,
    begun: Container[str],
    made: Callable[[], Container[Known]],
) -> Rank:
    """Return how unlikely a statement is to be at fault.

    One whose value is known as something else may have left out one operation, or a part of a sum.

    Args:
        recogniser: tells what a value is known as.
        target: the statement.
        events: what it gives in all turns.
        event: what it gives in the first turn in which that is not what may belong there.
        known: what may belong there.
        begun: the variables that several statements write.
        made: what the turns of a loop make, whatever it is called.
    """
    if is_carried(target) and len({each.sign for each in events}) == 1:
        # what is a gradient itself, and made anew each turn under another name, is only read for that one
        return Rank.OTHERWISE if recogniser.is_known(event) and known in made() else Rank.NOTHING
    if known.label.kind == "number":  # any tensor that all of these are made of may lack the factor as well
        return Rank.OTHERWISE
    if event.shape == () and () not in known.shapes:
        # one that each turn makes anew is no scale, nor is what is called a gradient
        return Rank.UNKNOWN if len(events) > 1 or target[1].startswith("d") else Rank.OTHERWISE
    if known.is_value:
        return Rank.OF_THE_FORWARD if recogniser.is_known(event) else Rank.UNKNOWN
    if event.sign == 0 and event.shape is not None:  # what is added up, or carried on, begins with zeros
        return Rank.OTHERWISE if target[1] in begun and len(events) == 1 else Rank.NOTHING
    return _of_a_gradient(recogniser, target, event, known)


def _of_a_gradient(recogniser: Recogniser, target: Target, event: Event, known: Known) -> Rank:
    """Return the rank of a statement that gives another gradient than the one that may belong there."""
    taken_for = recogniser.taken_for(event)
    is_near = any(known.is_near(other) for other in taken_for)
    if is_carried(target):
        return Rank.UNKNOWN if is_near else Rank.OTHERWISE
    by_name = frozenset[ast.stmt]().union(*(_named_for(target, one) for one in taken_for))
    # of a variable that several statements of the forward assign, each has a gradient of that name
    if by_name and _named_for(target, known) <= by_name:
        return Rank.RIGHT_BY_NAME
    is_named = bool(_named_for(target, known))
    if not is_named:
        if event.shape is not None and not any(_has_its_shape(target, event.shape, s) for s in known.shapes):
            return Rank.OTHERWISE
        if recogniser.is_of_the_forward(event):
            return Rank.OF_THE_FORWARD
    # what belongs somewhere else is right nowhere in what is called this gradient
    return Rank.ELSEWHERE if taken_for and not is_near and not is_named else Rank.UNKNOWN


class Ages:
    """When in the forward the operations ran whose gradients a backward makes, by its own steps.

    It goes through them in the opposite order: what belongs in a step is not far from what comes before it.
    """

    def __init__(self, recogniser: Recogniser, events: Mapping[Target, Sequence[Event]]):
        found: dict[int, set[int]] = {}
        for event in (event for its in events.values() for event in its if event.sign != 0):
            ages = recogniser.ages(event)
            if ages:
                found.setdefault(event.step, set()).update(ages)
        self._steps = sorted(found)
        self._ages = [found[step] for step in self._steps]

    def distance(self, step: int, age: int) -> int:
        """Return how many operations lie between one and that of the last known gradient before a step."""
        before = bisect.bisect_left(self._steps, step)
        return min((abs(age - known) for known in self._ages[before - 1]), default=0) if before else 0


def begun_elsewhere(events: Mapping[Target, Sequence[Event]]) -> frozenset[str]:
    """Return the variables that several statements write: one begins them, others go on."""
    written = [n for target in events for n in ((target[1],) if target[1] else writes_surely(target[0]))]
    return frozenset(name for name in written if written.count(name) > 1)


def _has_its_shape(target: Target, shape: torch.Size, expected: torch.Size) -> bool:
    """Tell whether a statement gives a tensor of the shape that belongs there: what is added is broadcast."""
    if target[1] or len(shape) > len(expected):
        return shape == expected
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(expected), strict=False))


def _named_for(target: Target, known: Known) -> frozenset[ast.stmt]:
    """Return the statements of the forward that make what a variable is called as the gradient of."""
    if not target[1].startswith("d"):
        return frozenset()
    made = target[1].removeprefix("d").removeprefix("_")
    places = (place for label in known.labels if label.kind == "result" for place in label.operations)
    return frozenset(s for s, _ in places if s is not None and made in kept_as(s))
