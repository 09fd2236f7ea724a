"""The size of the terms that are added up to each gradient: what its rounding is to be measured by."""

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import Node

from backhand.checking.running.containers import is_strided
from backhand.checking.running.graph import Trace
from backhand.checking.running.precision import VACUOUS
from backhand.checking.running.private import Gradients, step
from backhand.checking.running.trials import Draw
from backhand.checking.running.walking import Edge, walk
from backhand.checking.verdicts.comparing import off, root_mean_square
from backhand.checking.verdicts.truths import noise

# No term is taken to be larger than this many times the largest upstream gradient it is made of.
DERIVATIVE = 1e7
# No rounding of a tensor is a half of it, and of numbers drawn anew two draws differ by more.
OTHERS = 0.5
# So many tensors, from the first to the last, tell whether a run drew other numbers.
LOOKED_AT = 5


@dataclass(frozen=True)
class Truth:
    """The forward with autograd's gradients in float64, by which errors in a lower dtype are measured."""

    trace: Trace
    seed: int

    def measures(self, run: Trace) -> bool:
        """Tell whether a run is another one, of the same tensors and the same numbers."""
        other = run is not self.trace and run.layout is self.trace.layout
        return other and of_the_same_numbers(run, self.trace)


def of_the_same_numbers(run: Trace, exact: Trace) -> bool:
    """Tell whether two runs differ by their dtypes alone: code that draws numbers draws others in float64."""
    common = {n: t for n, t in run.tensors.items() if n in exact.tensors}
    made = [n for n, t in common.items() if not t.is_leaf] or list(common)
    some = made[:: max(1, math.ceil(len(made) / LOOKED_AT))]
    beside = [(run.tensors[n].detach(), exact.tensors[n].detach()) for n in some]
    alike = [a.shape == b.shape and off(a, b) <= OTHERS * root_mean_square(b) for a, b in beside]
    return 2 * sum(alike) > len(alike)  # what is zero but for rounding is never alike


def roundings(
    start: Edge, gradient: Tensor, ends: Set[Edge], stops: Set[Edge], generator: torch.Generator
) -> dict[Edge, Tensor]:
    """Return what arrives at the ends of the rounding of all operations, each as large as its terms.

    An operation rounds what it adds up: with a sign at random for each element that arrives at it, none of
    its terms cancel. What it has rounded is handed on as any gradient is. With new signs for that as well the
    roundings would grow with every step of an iteration, and after a hundred any gradient would be right.

    Args:
        start, gradient, ends, stops: as those of `walk`.
        generator: draws the signs.
    """
    arrived: dict[Node, Gradients] = {}

    def exactly(node: Node, gradients: Gradients) -> Gradients:
        arrived[node] = gradients
        return step(node, gradients)

    def signed(value: Tensor) -> Tensor:
        if not is_strided(value):  # of a sparse one the signs stay
            return value
        drawn = torch.empty(value.shape).uniform_(-1, 1, generator=generator)
        return value * drawn.sign().to(value) if value.is_complex() else value.copysign(drawn.to(value))

    def rounded(handed: Tensor | None, exact: Tensor | None) -> Tensor | None:
        own = None if exact is None else signed(exact)
        return own if handed is None else handed if own is None else handed + own

    def rounding(node: Node, handed: Gradients) -> Gradients:
        return step(node, tuple(map(rounded, handed, arrived.get(node, handed))))

    walk(start, gradient, ends, stops, exactly)
    return walk(start, torch.zeros_like(gradient), ends, stops, rounding)


class Summands(Mapping[str, float]):
    """The typical size of the summands by tensor name, however they cancel; probed when asked for.

    Found by probing: what each operation adds up is handed on with signs at random, so that terms which
    cancel do so no more, and the size of what arrives is measured; see `roundings`.
    """

    def __init__(
        self,
        draw: Draw | Truth,
        known: "Summands | None" = None,
        asked: tuple[float, float] | None = None,
    ):
        self._draw = draw
        self.known: dict[str, float] = dict(known.known) if known is not None else {}
        self.asked: tuple[float, float] | None = asked  # the caller's own tolerances, for what is measured
        self._noises: dict[str, float] = {}

    def __getitem__(self, name: str) -> float:
        if name not in self.known and name in self._draw.trace.gradients:
            self.probe(n for n in self._draw.trace.gradients if n not in self.known)
        return self.known[name]

    def noise(self, name: str) -> float:
        """Return what all elements of a right gradient together may be off, where that is measured."""
        if not isinstance(self._draw, Draw) or self._draw.ran is None or name not in self:
            return math.inf
        if name not in self._noises:
            self._noises[name] = noise(self._draw, name, self[name])
        return self._noises[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._draw.trace.gradients)

    def __len__(self) -> int:
        return len(self._draw.trace.gradients)

    def probe(self, names: Iterable[str]) -> None:
        """Measure these."""
        names, trace = list(names), self._draw.trace
        walk = partial(roundings, generator=torch.Generator().manual_seed(self._draw.seed))
        consumers = dict.fromkeys(c for n in names for c in trace.consumers(n))
        handed = {c: trace.gradients[c] for c in consumers}
        for name, terms in trace.arriving(handed, names, walk).items():
            self.known[name] = trace.slack * root_mean_square(terms)

    def vacuous(self) -> frozenset[str]:
        """Return the gradients that are tiny beside their summands: zero but for rounding."""
        trace, largest = self._draw.trace, self._draw.trace.largest
        seen = trace if isinstance(self._draw, Truth) else self._draw.seen
        units = {n: g.dtype.to_real() for n, g in seen.gradients.items() if g.numel()}
        parts = {n: VACUOUS[dtype] for n, dtype in units.items() if dtype in VACUOUS}
        parts = {n: part for n, part in parts.items() if n in largest}

        def may_be(name: str) -> bool:
            if name in self.known:
                return True
            above = max([largest[c] for c in trace.consumers(name)], default=-1.0)
            return largest[name] <= parts[name] * DERIVATIVE * above

        suspects = [n for n in parts if may_be(n)]
        self.probe(n for n in suspects if n not in self.known)
        return frozenset(n for n in suspects if largest[n] <= parts[n] * self.known[n])
