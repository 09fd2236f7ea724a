"""Find the statement at fault by the values that autograd knows, in loops and temporaries, under any name.

A statement's results, turn by turn, are replaced by one sequence that autograd knows. If a wrong gradient is
then right, and nothing else is wrong that was not, that statement is a candidate; of several, the one that
deviates first in time is at fault. It needs no names, so that it holds for running variables and temporaries.
"""

import ast
import copy
import itertools
import math
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeGuard

import torch
from torch import Tensor

from backhand.checking.running.alarms import time_left, until
from backhand.checking.running.complexes import as_reals, is_differentiable
from backhand.checking.running.containers import flatten
from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.knowledge import knowledge
from backhand.checking.running.known import Known, nothing, number, signature
from backhand.checking.running.names import root
from backhand.checking.running.program import Source
from backhand.checking.running.slicing import computes, only_reads, sets_a_number
from backhand.checking.running.statements import (
    ONLY_TAKES,
    assigned,
    made_of,
    may_be_wrong,
    reads,
    root_of,
    writes_surely,
)
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close, constant_ratio
from backhand.checking.verdicts.fault import BENCHES, Bench, Explained, Fault, origins
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.ranking import Ages, Rank, begun_elsewhere, rank
from backhand.checking.verdicts.recognising import Order, Recogniser
from backhand.checking.verdicts.repairing import Repair, watched
from backhand.checking.verdicts.reruns import IsRight, Put, Reruns
from backhand.checking.verdicts.shadowing import Event, Target, is_sum
from backhand.checking.verdicts.variables import around

# Processor time for one report, in seconds. A loop of twenty steps with one line wrong takes a few tenths,
# one through the layers of a transformer 1 to 2; on a slow or busy machine it should end the same.
MOST_SECONDS = 5.0
# So many lines at once may be wrong in one loop before what they do can no longer be told apart.
MOST_FAULTS = 2


def explained(
    chosen: Pass, draw: Draw, is_right: IsRight, lives: Lives, repair: Repair, vacuous: Container[str] = ()
) -> list[Explained]:
    """Return the statements at fault for the culprits of a repaired run, as far as they can be known.

    Args:
        chosen, draw: the backward, which has a source, and what it was run on.
        is_right: tells whether a value is the right one of a tensor.
        lives: recorded of the backward.
        repair: the run whose culprits are to be explained.
        vacuous: the tensors whose right gradient is zero.
    """
    source = chosen.backward_source
    assert source is not None
    known, gradients = knowledge(chosen, draw), _gradients(chosen, draw, source)

    def search(recogniser: Recogniser, runs: Reruns, seconds: float) -> list[Explained]:
        return _by_calls(_explained(recogniser, runs, until(seconds)), source)

    recogniser = Recogniser(known, draw.trace.values, gradients)
    runs = Reruns(chosen, draw, is_right, lives, repair, recogniser, vacuous)
    if {*repair.culprits} <= _written_over(runs):  # which is told of the statement without a search
        return []
    # a loss's own gradient may be multiplied last: what is made before is that of a loss alone
    if (alone := _arriving_alone(draw)) and (factor := _held_back(recogniser, runs, [1 / alone])) is not None:
        known += [one.times(factor) for one in known if not one.is_value]
        gradients = None  # the text does not tell what is made of it
        recogniser = Recogniser(known, draw.trace.values)
        runs = Reruns(chosen, draw, is_right, lives, repair, recogniser, vacuous)
    plain = search(recogniser, runs, MOST_SECONDS)
    if time_left() <= 0:  # who waits has what there is
        return plain
    # a line in which the upstream gradient is left out is made of none, and may all the same be to give one
    if gradients is not None and (not _is_one_line(plain) or not _explains(plain, repair.culprits)):
        found = search(Recogniser(known, draw.trace.values), runs, MOST_SECONDS / 2)
        if len(found) == 1 and _explains(found, repair.culprits) and (_is_one_line(found) or len(plain) > 1):
            return found
    # one line that explains all is that, though a division that it lacks may look like one held back
    sizes = sorted({size for one in known for size in one.shape if size > 1})
    if len(plain) > 1 and not chosen.out and (factor := _held_back(recogniser, runs, sizes)) is not None:
        scaled = [one.times(factor) for one in known if not one.is_value]
        recogniser = Recogniser([*known, *scaled], draw.trace.values, gradients)
        runs = Reruns(chosen, draw, is_right, lives, repair, recogniser, vacuous)
        found = search(recogniser, runs, MOST_SECONDS / 2)
        if len(found) < len(plain) and _explains(found, repair.culprits):
            return found
    return plain


def _written_over(runs: Reruns) -> frozenset[str]:
    """Return the gradients into whose elements one statement of a loop puts what it should have added.

    What is known of each of its turns is known of none of the elements, so that a search finds nothing.
    """
    found: set[str] = set()
    wrong = frozenset(runs.repair.culprits)
    turns = {target[0]: len(its) for target, its in runs.logged({}).events.items()}
    for statement in (s for s in runs.source.simple if turns.get(s, 0) > 1 and _puts_into_elements(s)):
        left = runs.added_up(statement)
        found |= wrong - left if left is not None and left < wrong else set()
    return frozenset(found)


def _puts_into_elements(statement: ast.stmt) -> TypeGuard[ast.Assign]:
    """Tell whether a statement assigns one item, and not what it makes of the item itself."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) > 1:
        return False
    item = statement.targets[0]
    names = {n.id for n in ast.walk(statement.value) if isinstance(n, ast.Name)}
    return isinstance(item, ast.Subscript) and root_of(item) not in names


def _is_one_line(found: Sequence[Explained]) -> bool:
    return len(found) == 1 == len(found[0].faults)


def _explains(found: Sequence[Explained], culprits: Iterable[str]) -> bool:
    return {n for one in found for n in one.gradients} >= {*culprits}


def _by_calls(found: Sequence[Explained], source: Source) -> list[Explained]:
    """Return explanations with those in one that only hand on what one call gives, `dW += cell["dW"]`.

    One wrong argument of it makes all of them wrong.
    """
    kept: dict[object, Explained] = {}
    for one in found:
        call = _call_behind(one.faults[0].target[0], source) if len(one.faults) == 1 else None
        key = id(one) if call is None else call
        first = kept.get(key)
        kept[key] = one if first is None else replace(first, gradients=first.gradients + one.gradients)
    return list(kept.values())


def _call_behind(statement: ast.stmt, source: Source) -> ast.stmt | None:
    """Return the call that gives the dictionary of which a statement only hands an item on."""
    item = getattr(statement, "value", None)
    if not isinstance(item, ast.Subscript) or not isinstance(item.value, ast.Name):
        return None
    makers = [s for s in source.simple if item.value.id in writes_surely(s)]
    called = [s for s in makers if isinstance(s, ast.Assign) and isinstance(s.value, ast.Call)]
    return called[0] if len(makers) == 1 == len(called) else None


def _arriving_alone(draw: Draw) -> float:
    """Return the upstream gradient where that is one number, and no 1; zero where there is none."""
    arriving = list(draw.trace.upstream.values())
    is_alone = len(arriving) == 1 == arriving[0].numel() and not arriving[0].is_complex()
    alone = float(arriving[0]) if is_alone else 0.0
    return 0.0 if alone == 1 else alone


def _held_back(recogniser: Recogniser, runs: Reruns, factors: Iterable[float]) -> float | None:
    """Return by which of some numbers a backward divides last, so that it makes more of what is known.

    By the size of the batch, as in `dZ = A - Y`, where only `dW = dZ @ X.T / m` takes the mean.
    """
    events = [event for its in runs.logged({}).events.values() for event in its if event.sign != 0]
    unknown = [event for event in events if event.shape is not None and not recogniser.is_known(event)]
    divided = ((by, replace(event, sign=event.sign / by)) for by in factors for event in unknown)
    return next((float(by) for by, event in divided if recogniser.is_known(event)), None)


def _explained(recogniser: Recogniser, runs: Reruns, ends: float) -> list[Explained]:
    repair = runs.repair
    left = [n for n in repair.culprits if n in repair.observed and n not in repair.aliased]
    left = [n for n in left if not _is_lost(n, repair)]
    left.sort(key=lambda n: repair.observed[n].step)
    found: list[Explained] = []
    search = _Search(recogniser, runs, {}, ends) if left and recogniser.known else None
    while search is not None and left and time.process_time() < ends:
        others = {n for each in found for n in each.gradients}
        one = search.of(left[0], left, others).explained()
        found += [one] if one is not None else []
        gone = one.gradients if one is not None else left[:1]
        left = [n for n in left if n not in gone]
    return found


def _is_lost(name: str, repair: Repair) -> bool:
    """Tell whether a gradient was not made, as one line did not give several variables their values.

    No value that could be put somewhere stands for them all.
    """
    cause = repair.cause(name)
    return cause is not None and len(assigned(cause[0])) > 1


def _gradients(chosen: Pass, draw: Draw, source: Source) -> frozenset[str] | None:
    """Return the variables that are made of the upstream gradients; None where none is asked for.

    Or where they are all ones, for what is made before they arrive.
    """
    if chosen.arrives_as_ones:
        return None
    asked = [n for n in draw.trace.upstream if chosen.wanted is not None and n in chosen.wanted]
    if chosen.contract == "returned":
        watched(chosen, draw, arriving := _Arriving(draw.trace.upstream.values()))
        asked = arriving.names
    made = made_of(source.statements, asked)
    return made if made > {*asked} else None  # where nothing is made of them the text tells nothing


class _Arriving(Watcher):
    """Notes which variables hold upstream gradients before the first statement, under whatever name."""

    def __init__(self, upstream: Iterable[Tensor]):
        self._upstream = [gradient for gradient in upstream if gradient.numel() > 1]
        self.names: list[str] = []

    def looks(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether it is the first."""
        return step == 0

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Look at what they hold, but for what the first statement has given them."""
        there = (
            (n, v) for n, v in variables.items() if isinstance(v, Tensor) and n not in assigned(statement)
        )
        self.names += [n for n, v in there if any(v.shape == g.shape and close(v, g) for g in self._upstream)]


@dataclass(frozen=True)
class _Candidate:
    """A statement with what may belong there.

    Attributes:
        target, known: the two.
        order: which of the known values belongs in each turn; None where none does.
        turns, step: the turns in which the statement deviates from it, and when first.
        rank: how unlikely it is to be at fault.
        far: how far what belongs lies from what stands before it, in operations of the forward.
        reaches: how many of the wrong gradients it goes into, where that is known.
    """

    target: Target
    known: Known
    order: Order
    turns: tuple[int, ...]
    step: int
    rank: Rank
    far: int
    reaches: int = 0

    @property
    def turn(self) -> int:
        """The first turn in which the statement deviates."""
        return self.turns[0]

    def belongs(self, turn: int) -> Tensor | None:
        """Return what belongs there in a turn, if that is known: what sent nothing back adds nothing."""
        if turn >= len(self.order):
            return None
        index = self.order[turn]
        if index is None:
            return torch.zeros_like(self.known.values[0]) if _adds_up(self.target, self.known) else None
        return self.known.values[index]

    @cached_property
    def put(self) -> Put:
        """What is put there."""
        values = [self.belongs(turn) for turn in range(len(self.order))]
        while values and values[-1] is None:
            values.pop()
        return Put(tuple(values), tuple(map(self._sign, values, self.order)))

    def _sign(self, value: Tensor | None, index: int | None) -> tuple[torch.Size, float] | None:
        """Return by what a tensor that is put there is known; one with infinities is like no other."""
        sign = 0.0 if index is None else self.known.signatures[index]
        return None if value is None else (value.shape, sign if math.isfinite(sign) else id(value))


class _Search:
    """The search for what makes gradients wrong, one after the other, with some statements already mended."""

    def __init__(
        self, recogniser: Recogniser, runs: Reruns, mended: Mapping[Target, _Candidate], ends: float
    ):
        self.recogniser, self.runs, self.mended, self.ends = recogniser, runs, mended, ends
        self.name = ""
        self.culprits: frozenset[str] = frozenset()
        self.explained_before: frozenset[str] = frozenset()
        self.puts: dict[Target, Put] = {target: c.put for target, c in mended.items()}
        log = runs.logged(self.puts)
        self.events = log.events
        recogniser.learn_orders(self.events, log.counted.values())
        self._begun = begun_elsewhere(self.events)
        self._ages = Ages(recogniser, self.events)
        self._found: dict[tuple[Target, int], list[_Candidate]] = {}

    def of(self, name: str, culprits: Iterable[str], before: Iterable[str]) -> "_Search":
        """Return the search for what makes one of several gradients wrong, beside those explained before.

        What they are made of may be wrong as well.
        """
        search = copy.copy(self)
        search.name, search.culprits, search.explained_before = name, frozenset(culprits), frozenset(before)
        return search

    @cached_property
    def _made(self) -> frozenset[Known]:
        """What the turns of a loop make, of what is known."""
        anew = (event for its in self.events.values() if len({e.sign for e in its}) > 1 for event in its)
        return frozenset(known for event in anew for known in self.recogniser.taken_for(event))

    def explained(self) -> Explained | None:
        """Return the statements, the first in time; None where none can be known."""
        mends: tuple[_Candidate, frozenset[str]] | None = None
        whole: tuple[_Candidate, frozenset[str]] | None = None
        failing: list[_Candidate] = []
        for candidate in self._in_time(self._candidates(self.events)):
            if whole is not None and candidate.rank > whole[0].rank:
                break
            wrong = self.culprits if mends is None else mends[1]
            if mends is not None and candidate.reaches <= len(self.culprits - wrong):
                continue  # it makes no more wrong than that
            left = self._left(candidate)
            if left is None or not left < wrong:
                failing.append(candidate)
            elif self._gain(candidate) > 0:
                mends = candidate, left
                if not left:
                    break
            elif not left and len(self.culprits) > 1:
                # what follows was known before as well, as made of a part: this is where the whole belongs
                whole = whole or (candidate, left)
        if whole is not None and (mends is None or mends[1]):
            mends = whole
        if mends is not None:
            return self._told(self._source_of(*mends), self.culprits - mends[1])
        best = self._most_telling(failing)
        if best is None:
            return None
        mended = {**self.mended, best.target: best}
        search = _Search(self.recogniser, self.runs, mended, self.ends)
        return search.of(self.name, self.culprits, self.explained_before).explained()

    def _most_telling(self, failing: Iterable[_Candidate]) -> _Candidate | None:
        """Return that by which most becomes known though it is not enough: one of several at fault.

        Not what others fill: what is put in the place of a part of a buffer is no part of it, so that all
        that is done with that vanishes.
        """
        best, most = None, 0
        failing = [c for c in failing if c.target[1] not in self._begun or self.events[c.target][c.turn].sign]
        for candidate in self._in_time(failing) if len(self.mended) + 1 < MOST_FAULTS else ():
            gained = self._gain(candidate)
            best, most = (candidate, gained) if gained > most else (best, most)
        return best

    def _source_of(self, found: _Candidate, left: frozenset[str]) -> _Candidate:
        """Return the statement that makes a value which the one found reads, if that is enough to be mended.

        Then it is at fault: had it been right, nothing else in its place would be. What makes a gradient is
        so only for one that puts together what it reads, or was right until that had another shape, or gives
        another name to what is no gradient: else either of the two may lack an operation.
        """
        statement, variable = found.target
        read = reads(statement) - (frozenset() if variable else writes_surely(statement))  # it adds to those
        made = [target for target in self.events if target[1] in read]
        passes_on = self._only_puts_together(found)
        renames = isinstance(getattr(statement, "value", None), ast.Name)
        for other in self._in_time(self._candidates(made)):
            misshapen = found.turn > 0 and self._is_misshapen(other)
            renamed = renames and self._is_no_gradient(other)
            makes_up = passes_on or misshapen or renamed or other.known.is_value
            makes_up &= other.step < found.step
            if makes_up and self._left(other) == left:  # each is a run
                return other
        return self._renaming(found, left) or found

    def _renaming(self, found: _Candidate, left: frozenset[str]) -> _Candidate | None:
        """Return the statement that only gives another name to what one makes, if that is right elsewhere.

        Of `dhidden = dy @ W.T`, which is right for the hidden layer, and `dx = dhidden` the second is wrong.
        """
        variable = found.target[1]
        if not variable or self._is_no_gradient(found):
            return None
        own = self.runs.variable_of(self.name)  # what goes into a helper is named again, too
        lacks_nothing = only_reads(found.target[0])
        renaming = [t for t in self.events if t[1] == own or lacks_nothing]
        renaming = [t for t in renaming if t[1] and _names_again(t[0], variable)]
        later = (c for c in self._candidates(renaming) if c.step > found.step)
        return next((c for c in self._in_time(later) if self._left(c) == left), None)

    def _only_puts_together(self, found: _Candidate) -> bool:
        """Tell whether all that a statement gives are elements of several tensors that it reads.

        What gives those of one may lack the operation that it is to do.
        """
        seen = self.runs.benches(self.puts, found.target, [found.step])
        namespace, made = (seen.before[:1] or [{}])[0], (seen.made[:1] or [None])[0]
        statement = found.target[0]  # which may find in its place what an earlier turn left there
        held = (namespace.get(name) for name in reads(statement) - writes_surely(statement))
        read = [as_reals(v).flatten() for v in held if is_differentiable(v)]
        return made is not None and len(read) > 1 and bool(torch.isin(as_reals(made), torch.cat(read)).all())

    def _is_no_gradient(self, candidate: _Candidate) -> bool:
        """Tell whether what a statement gives is known as the gradient of nothing."""
        event = self.events[candidate.target][candidate.turn]
        return all(known.is_value for known in self.recogniser.taken_for(event))

    def _left(self, candidate: _Candidate) -> frozenset[str] | None:
        """Return which of the culprits a candidate leaves wrong; None if this one, or one that was right."""
        left = self.runs.left({**self.puts, candidate.target: candidate.put}, self.name)
        if left is None or not left <= self.culprits.union(self.runs.repair.culprits):
            return None
        return left & self.culprits if self._may_give(candidate) else None

    def _may_give(self, candidate: _Candidate) -> bool:
        """Tell whether a statement may give what belongs there: what only takes things apart must find it.

        Or the forward may have kept something else than one of its variables.
        """
        right = candidate.belongs(candidate.turn)
        statement, variable = candidate.target
        if variable not in assigned(statement) or computes(statement) or right is None:
            return True
        seen = self.runs.benches(self.puts, candidate.target, [candidate.step])
        held = [
            *self.runs.draw.trace.values.values(),
            *flatten(seen.before[0] if seen.before else {}).values(),
        ]
        return any(isinstance(v, Tensor) and v.shape == right.shape and close(v, right) for v in held)

    def _in_time(self, candidates: Iterable[_Candidate]) -> Iterator[_Candidate]:
        """Yield candidates until the time is up."""
        return itertools.takewhile(lambda _: time.process_time() <= self.ends, candidates)

    def _candidates(self, targets: Iterable[Target]) -> Iterator[_Candidate]:
        """Yield what may be at fault: the likely first, then what goes into most, then the first in time.

        What a statement goes into takes a run to tell: it is looked at only when its turn comes.
        """
        ranked: dict[Rank, list[_Candidate]] = {}
        for candidate in self._in_time(self._deviating(targets)):
            ranked.setdefault(candidate.rank, []).append(candidate)
        for _, alike in sorted(ranked.items()):
            reaching = [replace(c, reaches=self._reach(c)) for c in self._in_time(alike)]
            yield from sorted((c for c in reaching if c.reaches), key=lambda c: (-c.reaches, c.step, c.far))

    def _deviating(self, targets: Iterable[Target]) -> Iterator[_Candidate]:
        """Yield what may belong in the place of what statements give until the gradient is complete."""
        complete = self.runs.repair.observed[self.name].step
        for target in targets:
            is_right = target in self.mended or not may_be_wrong(target[0])
            if is_right or self.events[target][0].step > complete:
                continue
            key = target, self.recogniser.learned
            if key not in self._found:
                self._found[key] = list(self._deviating_from(target))
            yield from (candidate for candidate in self._found[key] if candidate.step <= complete)

    def _deviating_from(self, target: Target) -> Iterator[_Candidate]:
        """Yield what may belong in the place of what one statement gives."""
        events = self.events[target]
        shape = events[0].shape
        if len(events) == 1 and shape is not None and events[0].sign and target[1] in self._begun:
            yield self._candidate(target, nothing(shape, self.recogniser.known[0].values[0]), (0,), (0,))
        if len(events) == 1 and sets_a_number(target[0]) and (k := self._off_by) is not None:
            made = signature(torch.ones((), dtype=torch.float64))
            yield self._candidate(target, number(events[0].sign / made / k), (0,), (0,))
        for known in self.recogniser.belonging(target, events):
            for order in self.recogniser.orders(target, events, known):
                turns = _deviations(target, events, known, order)
                if turns:
                    yield self._candidate(target, known, order, turns)

    @cached_property
    def _off_by(self) -> float | None:
        """The factor by which all of several wrong gradients are off; None where there is no such one."""
        right, observed = self.runs.draw.trace.gradients, self.runs.repair.observed
        beside = [(observed[n].value, right[n]) for n in self.runs.repair.culprits if n in observed]
        alike = [(a, b) for a, b in beside if a is not None and a.shape == b.shape]
        if len(alike) < 2 or len(alike) < len(beside):
            return None
        k = constant_ratio(*alike[0])
        return k if k and all(close(a, k * b) for a, b in alike) else None

    def _candidate(self, target: Target, known: Known, order: Order, turns: tuple[int, ...]) -> _Candidate:
        events = self.events[target]
        event, first = events[turns[0]], next(i for i in (*order[turns[0] :], *order) if i is not None)
        its = rank(self.recogniser, target, events, event, known, self._begun, lambda: self._made)
        far = self._ages.distance(event.step, known.ages[first])
        return _Candidate(target, known, order, turns, event.step, its, far)

    def _reach(self, candidate: _Candidate) -> int:
        """Return how many wrong gradients are made of what a statement gives in some turns.

        None if this one is not, or if a right one is: then what it gives there is not at fault.
        """
        target, turns = candidate.target, candidate.turns
        if self.events[target][turns[0]].shape is None:
            return len(self.culprits)  # it raised: all that follows may lack what it did not make
        if self._lets_raise(candidate):
            return len(self.culprits)
        moved = self.runs.moved(self.puts, target, turns, frozenset(self.runs.repair.culprits))
        # what is right for another tensor is no second mistake in what has gone wrong below it
        taken_for = self.recogniser.taken_for(self.events[target][turns[0]])
        is_right = bool(taken_for) and all(candidate.known.of.isdisjoint(known.of) for known in taken_for)
        others = frozenset() if is_right else self.explained_before
        return len(moved & self.culprits) if self.name in moved and moved <= self.culprits | others else 0

    def _lets_raise(self, candidate: _Candidate) -> bool:
        """Tell whether what is made of a value raised that has another shape than belongs there."""
        errors = self.runs.repair.errors
        if not errors or not self._is_misshapen(candidate):
            return False
        made = made_of(self.runs.source.statements, [candidate.target[1]])
        return any(not made.isdisjoint(reads(s)) for s, _ in errors)

    def _is_misshapen(self, candidate: _Candidate) -> bool:
        return self.events[candidate.target][candidate.turn].shape not in candidate.known.shapes

    def _gain(self, candidate: _Candidate) -> int:
        """Return how many tensors more are known, or right, until the statement comes to its next turn."""
        is_added = not candidate.target[1] and not hasattr(candidate.target[0], ONLY_TAKES)
        if is_added or candidate.known.label.kind == "sum":
            return 1  # what is only added up shows at the end
        events = self.events[candidate.target]
        later = [event.step for event in events if event.step > candidate.step]
        ends = later[0] if later else 2**62
        before = self.runs.known_until(self.puts, candidate.step, ends)
        puts = {**self.puts, candidate.target: candidate.put}
        return self.runs.known_until(puts, candidate.step, ends) - before

    def _told(self, last: _Candidate, gradients: frozenset[str]) -> Explained:
        faults = tuple(self._fault(c) for c in (*self.mended.values(), last))
        observed = self.runs.repair.observed
        order = sorted(gradients, key=lambda n: observed[n].step if n in observed else 0)
        # what its last turn goes into is made of it directly, not by way of the turns that follow
        turns = len(self.events[last.target])
        direct = self.runs.moved(self.puts, last.target, (turns - 1,), gradients)
        own = {root(name) for name in direct}  # of a list the item that is made first
        return Explained(tuple(sorted(order, key=lambda n: root(n) not in own)), faults)

    def _fault(self, candidate: _Candidate) -> Fault:
        target, turn = candidate.target, candidate.turn
        turns = range(max(0, turn - 1), turn + BENCHES)
        events = self.events[target][turns.start : turns.stop]
        puts = {**self.puts, target: candidate.put}  # so that the variables of its later turns are right
        seen = self.runs.benches(puts, target, [event.step for event in events])
        outside = around(self.runs.chosen)
        rows = zip(turns, seen.before, seen.made, map(candidate.belongs, turns), strict=False)
        benches = {
            now: Bench(outside | before, made, right)
            for now, before, made, right in rows
            if right is not None
        }
        wrong = [bench for now, bench in benches.items() if now >= turn]
        return Fault(
            target,
            candidate.known,
            tuple(self.recogniser.taken_for(self.events[target][turn])),
            tuple(wrong),
            tuple(bench for now, bench in benches.items() if now < turn),
            tuple(origins(self.runs.source, target, wrong[-1].namespace, self.recogniser)) if wrong else (),
        )


def _names_again(statement: ast.stmt, variable: str) -> bool:
    """Tell whether a statement only gives another name to a variable."""
    return isinstance(statement, ast.Assign) and getattr(statement.value, "id", None) == variable


def _adds_up(target: Target, known: Known) -> bool:
    """Tell whether a statement adds up one value a turn: a sum as a whole comes from no turn alone."""
    return is_sum(target) and len(known.values) > 1


def _deviations(target: Target, events: Sequence[Event], known: Known, order: Order) -> tuple[int, ...]:
    """Return the turns in which a statement does not give the known value."""

    def agrees(event: Event, index: int | None) -> bool:
        if index is None:
            return not _adds_up(target, known) or event.sign == 0
        return event.shape is not None and known.agrees(index, event.shape, event.sign)

    turns = enumerate(zip(events, order, strict=False))
    return tuple(turn for turn, (event, index) in turns if not agrees(event, index))
