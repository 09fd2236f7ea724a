"""What the tensors of a backward are known as: each is looked up among those that autograd knows."""

import bisect
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.complexes import is_differentiable
from backhand.checking.running.containers import flatten
from backhand.checking.running.known import Known, Label, alike, along_time, may_stand_for, parts, signature
from backhand.checking.running.slicing import takes_apart
from backhand.checking.running.statements import begins_anew, writes
from backhand.checking.verdicts.shadowing import Event, Target, is_sum

# Which of some known values belongs in each turn of a statement.
Order = tuple[int | None, ...]


class Recogniser:
    """Tells what a tensor of the backward is known as.

    Attributes:
        known: what autograd knows, and what the forward makes.
        gradients: the variables that are made of upstream gradients; None where none is asked for, so that it
            cannot be told from the text what is a gradient and what a value of the forward.
    """

    def __init__(
        self, known: Sequence[Known], forward: Mapping[str, Any], gradients: frozenset[str] | None = None
    ):
        self.known = known
        self.gradients = gradients
        self._signs = _Signs(
            (value.shape, sign, (one, turn, age))
            for one in known
            for value, sign, turn, age in zip(one.values, one.signatures, one.turns, one.ages, strict=True)
        )
        tensors = [v for v in flatten(forward).values() if isinstance(v, Tensor)]
        self._forward = _Signs((v.shape, signature(v), None) for v in tensors if is_differentiable(v))
        self._parts: dict[torch.Size, list[Known]] = {}
        self._along_time: dict[tuple[torch.Size, int], list[Known]] = {}
        self._turns: dict[int, dict[tuple[int, ...], None]] = {}

    def is_known(self, event: Event) -> bool:
        """Tell whether autograd knows a tensor, whatever it is."""
        return bool(self._signs.alike(event))

    def is_of_the_forward(self, event: Event) -> bool:
        """Tell whether a value is one of the forward's tensors."""
        return event.sign != 0 and bool(self._forward.alike(event))

    def belonging(self, target: Target, events: Sequence[Event]) -> list[Known]:
        """Return what may belong in the place of a statement's values, by its shape and its variable.

        Besides what is known these are parts of it, such as one of gates that lie in one tensor, or the steps
        of one.
        """
        shape = events[0].shape
        found = [
            one for one in self.known if shape is None or any(may_stand_for(shape, s) for s in one.shapes)
        ]
        if shape is not None:
            if shape not in self._parts:
                self._parts[shape] = [part for known in self.known for part in parts(known, shape)]
            found += self._parts[shape]
        if shape is not None and len(events) > 1:
            key = shape, len(events)
            if key not in self._along_time:
                self._along_time[key] = [one for known in self.known for one in along_time(known, *key)]
            found += self._along_time[key]
            found += self._added_up(events)
        if takes_apart(target[0]) and self.is_of_the_forward(events[0]):  # what was saved is no gradient
            return [known for known in found if known.is_value]
        return [known for known in found if self._may_hold(target, known)]

    def _added_up(self, events: Sequence[Event]) -> Iterator[Known]:
        """Yield the running sums of a sequence that a loop gives in whatever order, each turn a new one.

        The sums that autograd knows are of what a backward adds up from the latest on.
        """
        for known in self.taken_for(events[0]):
            places = {turn: i for i, turn in enumerate(known.turns)}
            turns = [turn for e in events for one, turn, _ in self._signs.alike(e) if one is known]
            order = [places[turn] for turn in turns]
            if known.is_value or len(known.values) != len(events) or sorted(order) != [*range(len(events))]:
                continue
            if len(known.shapes) > 1:  # those of layers of different widths, or of unequal pieces
                continue
            sums = tuple(itertools.accumulate(known.values[i] for i in order))
            signs, ages = tuple(map(signature, sums)), tuple(known.ages[i] for i in order)
            label = Label("sum", known.label.operations)
            yield Known((label,), sums, signs, tuple(turns), ages, known.of)

    def _may_hold(self, target: Target, known: Known) -> bool:
        """Tell whether a statement may make a gradient, or a value of the forward, whichever is known.

        What is called a gradient should be one, though by mistake it is made of none.
        """
        if self.gradients is None:
            return True
        variables = {target[1]} if target[1] else writes(target[0])
        if not self.gradients.isdisjoint(variables):
            return not known.is_value
        return known.is_value or any(name.startswith("d") for name in variables)

    def learn_orders(
        self, events: Mapping[Target, Sequence[Event]], counted: Collection[Mapping[int, Any]] = ()
    ) -> None:
        """See from statements whose values are known how a loop goes through the forward's turns.

        Args:
            events: what the statements give.
            counted: of each variable that counts turns what it holds, by step: it tells as well.
        """
        for its in (its for its in events.values() if len(its) > 1):
            for held in counted:
                self._count([held.get(event.step) for event in its])
            found: dict[Known, dict[int, None]] = {}
            for event in its:
                for known, turn, _ in self._signs.alike(event):
                    found.setdefault(known, {})[turn] = None
            for turns in found.values():
                if len(turns) == len(its):
                    self._turns.setdefault(len(its), {})[tuple(turns)] = None

    @property
    def learned(self) -> int:
        """How many ways through the turns have been seen."""
        return sum(map(len, self._turns.values()))

    def _count(self, counts: Sequence[Any]) -> None:
        """Take the order in which a loop counts, from whatever number on and by whatever step."""
        if all(isinstance(count, int) for count in counts) and len(set(counts)) == len(counts):
            step = math.gcd(*(count - min(counts) for count in counts)) or 1
            turns = tuple((count - min(counts)) // step for count in counts)
            self._turns.setdefault(len(turns), {})[turns] = None

    def orders(self, target: Target, events: Sequence[Event], known: Known) -> list[Order]:
        """Return which of the known values may belong in each turn of a statement: the latest in the first.

        A loop may have a turn more than the forward's, whose gradient nobody wants, or go back fewer steps. A
        loop that goes through them in another order shows that by its right statements; where none is known,
        it may go through them as the forward does. A sum is right in any order: it has the one that is known.
        """
        turns, there = len(events), {turn: i for i, turn in enumerate(known.turns)}
        shown: dict[Order, None] = {}
        for order in self._turns.get(turns, {}):
            if len(there) == len(known.turns) and any(turn in there for turn in order):
                shown[tuple(there.get(turn) for turn in order)] = None
        if shown and is_sum(target):
            return list(shown)
        found: dict[Order, None] = {}
        if turns <= len(known.values) + 1:
            found[tuple(range(min(turns, len(known.values))))] = None
        is_handed = events[0].sign == 0 and begins_anew(*target)  # the first turn is handed nothing
        if is_handed and turns == len(known.values) + 1:
            found[(None, *range(turns - 1))] = None
        if turns == len(known.values) and turns not in self._turns:
            found[tuple(reversed(range(turns)))] = None
        return list(found | shown)

    def taken_for(self, event: Event) -> list[Known]:
        """Return what the value of a turn is known as."""
        return list(dict.fromkeys(known for known, *_ in self._signs.alike(event)))

    def ages(self, event: Event) -> list[int]:
        """Return when in the forward the operations ran of which a value is known as the gradient."""
        return [age for known, _, age in self._signs.alike(event) if not known.is_value]


class _Signs:
    """The shapes and signatures of some tensors, to be found again, each with where it comes from."""

    def __init__(self, tensors: Iterable[tuple[torch.Size, float, Any]]):
        self._signs: dict[torch.Size, list[tuple[float, int, Any]]] = {}
        for i, (shape, sign, origin) in enumerate(tensors):
            self._signs.setdefault(shape, []).append((sign, i, origin))
        for signs in self._signs.values():
            signs.sort()

    def alike(self, event: Event) -> list[Any]:
        """Return where the tensors come from that are the same as that of an event."""
        if event.shape is None:
            return []
        signs, elements = self._signs.get(event.shape, []), event.shape.numel()
        at = bisect.bisect_left(signs, (event.sign,))
        found = []
        for side in (reversed(signs[:at]), signs[at:]):
            for sign, _, origin in side:
                if not alike(sign, event.sign, elements):
                    break
                found.append(origin)
        return found
