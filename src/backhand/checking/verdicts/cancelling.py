"""Look at lines whose gradient is zero in exact arithmetic: the repaired run, with random upstream gradients.

A bias before batch normalisation, or a maximum subtracted before a softmax, has a true gradient of zero: its
terms cancel, and so do the terms that it sends on. On the real upstream gradients a wrong line cannot be told
from a right one there. With random ones in their place it can.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from backhand.checking.running.walking import Edge
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close, right_but_for_shape
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.localising import Culprit, Judgement
from backhand.checking.verdicts.repairing import Alias, Observed, Repair, Repairer, recorded, run_replaced


def with_cancelling(chosen: Pass, judgement: Judgement) -> Judgement:
    """Return a judgement with what these runs show: culprits, and gradients changed through an alias.

    Args:
        chosen: a pass whose backward has a source.
        judgement: on a draw that is right so far.
    """
    trace, user, vacuous = judgement.draw.trace, judgement.draw.user, judgement.vacuous
    given = [n for n in trace.tensors if n in user]
    cancelling = [n for n in given if n in vacuous]
    if not cancelling:
        return judgement
    above = {n: _cancelling_branches(judgement, n) for n in given if n not in vacuous}
    above = {n: branches for n, branches in above.items() if branches}
    looking = _Looking(chosen, judgement, judgement.lives or recorded(chosen, judgement.draw))
    if looking.all_read_their_own(cancelling, list(above)):
        return replace(judgement, lives=looking.lives)
    for name in cancelling:
        looking.own_line(name)
    for name, branches in above.items():
        for consumer in branches:
            looking.branch(name, consumer)
            looking.luck(name)
    return looking.result()


def _cancelling_branches(judgement: Judgement, name: str) -> list[str]:
    """Return the direct consumers of a tensor, one name for each, that send back zero in exact arithmetic."""
    trace = judgement.draw.trace
    if judgement.vacuous.isdisjoint(trace.consumers(name)):
        return []
    distinct = {trace.edges[c]: c for c in reversed(trace.consumers(name))}
    return [c for c in reversed(distinct.values()) if c in judgement.vacuous and c in judgement.draw.user]


@dataclass(frozen=True)
class _Seen:
    """What becomes of a gradient when others are random.

    Attributes:
        value: the user's, None where there is none.
        expected: what the lines should make.
        handed: the gradients that each tensor handed on.
        observed: as the run has it.
    """

    value: Tensor | None
    expected: Tensor
    handed: Mapping[str, Tensor]
    observed: Observed


@dataclass
class _Looking:
    """The runs with random upstream gradients, and what they have shown so far."""

    chosen: Pass
    judgement: Judgement
    lives: Lives
    blamed: dict[str, _Seen] = field(default_factory=dict)
    lucky: dict[str, tuple[str, str]] = field(default_factory=dict)
    shared: dict[str, Alias] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.judgement.draw.seed)
        self._trace, self._user = self.judgement.draw.trace, self.judgement.draw.user

    def result(self) -> Judgement:
        """Return the judgement with all of it."""
        judgement, blamed = self.judgement, self.blamed
        known = judgement.repair or Repair({}, (), {}, ())
        observed = {**known.observed, **{n: seen.observed for n, seen in blamed.items()}}
        culprits = {
            n: Culprit(n, seen.value, seen.expected, seen.handed, cancels=True) for n, seen in blamed.items()
        }
        return replace(
            judgement,
            right={**judgement.right, **dict.fromkeys(blamed, False)},
            culprits={**judgement.culprits, **culprits},
            repair=replace(known, observed=observed) if blamed else judgement.repair,
            lucky=self.lucky,
            shared={**self.shared, **judgement.shared},
            lives=self.lives,
        )

    def all_read_their_own(self, cancelling: list[str], above: list[str]) -> bool:
        """Tell whether all lines in question are right for random upstream gradients, in one run.

        This is all that a right backward needs. Where something does not fit, each line is looked at alone.
        """
        branching = set(above)
        below = [n for n in self._user if not branching.isdisjoint(self._trace.consumers(n))]
        asked = dict.fromkeys((*cancelling, *above, *below))
        random = self._random(c for n in asked for c in self._trace.consumers(n) if c in self._user)
        handed = self._trace.gradients | random
        run = self._run(random, keeps=False)
        if run.aliased:
            return False
        expected = self._trace.arriving(handed, asked)
        values = {n: run.observed[n].value if n in run.observed else None for n in asked}
        return all(v is not None and fits(v, expected[n]) for n, v in values.items())

    def own_line(self, name: str) -> None:
        """Look at the line of a gradient that is zero in exact arithmetic."""
        seen = self._seen(name, self._trace.consumers(name))
        if seen is None or seen.value is None or fits(seen.value, seen.expected):
            return
        before = self._user[name]
        if not (close(seen.value, before) and bool(before.any())):  # else: it uses none of these gradients
            self.blamed[name] = seen

    def branch(self, name: str, consumer: str) -> None:
        """Look whether the branch through one consumer, which cancels, is there and right."""
        seen = self._seen(name, [consumer])
        if seen is None or seen.value is None or fits(seen.value, seen.expected):
            return
        if not close(seen.value, self._user[name]):
            self.blamed[name] = seen
            return
        seen = self._seen(name, self._trace.consumers(name))  # is it only this branch that is not there?
        if seen is None or seen.value is None:
            return
        part = self._trace.through(consumer, seen.handed[consumer], name)
        if fits(seen.value, seen.expected - part):
            self.blamed[name] = seen

    def luck(self, name: str) -> None:
        """Look which lines below a branch that cancels read the gradient as it was before that branch.

        They are right only because the branch adds up to zero: a warning, not a fault.
        """
        consumers = self._trace.consumers(name)
        below = [t for t in self._user if t in self._trace.tensors and name in self._trace.consumers(t)]
        siblings = [c for c in consumers if c in self._user and c not in self.judgement.vacuous]
        idle = [t for t in below if t not in self._moved(below, [name])]
        if idle and siblings:
            matched = self.judgement.draw.matched
            for t in self._moved(idle, siblings):
                self.lucky.setdefault(t, (matched[siblings[0]], matched[name]))

    def _moved(self, names: list[str], consumers: list[str]) -> list[str]:
        """Return which gradients change when these upstream gradients are random."""
        run = self._run(self._random(consumers), keeps=False)
        seen = {n: run.observed[n].value for n in names if n in run.observed}
        return [n for n, value in seen.items() if value is not None and not close(value, self._user[n])]

    def _seen(self, name: str, consumers: Iterable[str]) -> _Seen | None:
        """Run the backward with random gradients of these consumers; return what becomes of one gradient."""
        if any(c not in self._user for c in consumers):
            return None
        random = self._random(consumers)
        handed = self._trace.gradients | random
        run = self._run(random, keeps=True)
        self.shared |= {n: alias for n, alias in run.aliased.items() if n not in self.shared}
        if name not in run.observed or run.aliased:
            return None
        observed = run.observed[name]
        return _Seen(observed.value, self._trace.arriving(handed, [name])[name], handed, observed)

    def _run(self, random: Mapping[str, Tensor], *, keeps: bool) -> Repairer:
        def put(tensor: str, _: Tensor | None) -> Tensor | None:
            return random[tensor].clone() if tensor in random else None

        return run_replaced(self.chosen, self.judgement.draw, put, self.lives, keeps=keeps)[0]

    def _random(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return gradients at random; names of one tensor get the same."""
        edges, right = self._trace.edges, self._trace.gradients
        drawn: dict[Edge, Tensor] = {}
        for n in names:
            if edges[n] not in drawn:
                drawn[edges[n]] = torch.randn(right[n].shape, generator=self._generator).to(right[n])
        return {n: drawn[edge] for n, edge in edges.items() if edge in drawn and n in self._user}


def fits(value: Tensor, expected: Tensor) -> bool:
    """Tell whether a value is right, whatever its shape: that is judged elsewhere."""
    return close(value, expected) or right_but_for_shape(value, expected)
