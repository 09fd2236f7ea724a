"""The size of the terms that are added up to each gradient: what its rounding is to be measured by."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from backhand.checking.running.graph import Trace
from backhand.checking.running.precision import VACUOUS
from backhand.checking.running.private import Gradients, step
from backhand.checking.running.trials import Draw

# No term is taken to be larger than this many times the largest upstream gradient it is made of.
DERIVATIVE = 1e7


@dataclass(frozen=True)
class Truth:
    """The forward with autograd's gradients in float64, by which errors in a lower dtype are measured."""

    trace: Trace
    seed: int


class Summands(Mapping[str, float]):
    """The typical size of the summands by tensor name, however they cancel; probed when asked for.

    Found by probing: each element of every upstream gradient, and of what operations within a line hand on,
    gets a sign at random, so that terms which cancel do so no more; the size of what arrives is measured.
    """

    def __init__(self, draw: Draw | Truth, known: "Summands | None" = None):
        self._draw = draw
        self.known: dict[str, float] = dict(known.known) if known is not None else {}

    def __getitem__(self, name: str) -> float:
        if name not in self.known and name in self._draw.trace.gradients:
            self.probe(n for n in self._draw.trace.gradients if n not in self.known)
        return self.known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._draw.trace.gradients)

    def __len__(self) -> int:
        return len(self._draw.trace.gradients)

    def probe(self, names: Iterable[str]) -> None:
        """Measure these."""
        names, trace = list(names), self._draw.trace
        generator = torch.Generator().manual_seed(self._draw.seed)

        def signed(value: Tensor) -> Tensor:
            return value.copysign(torch.empty(value.shape).uniform_(-1, 1, generator=generator).to(value))

        def with_signs(node: Node, gradients: Gradients) -> Gradients:
            return step(node, tuple(None if g is None else signed(g) for g in gradients))

        consumers = dict.fromkeys(c for n in names for c in trace.consumers(n))
        handed = {c: trace.gradients[c] for c in consumers}
        for name, terms in trace.arriving(handed, names, with_signs).items():
            square = float(terms.to(torch.float64).square().mean()) if terms.numel() else 0.0
            self.known[name] = trace.slack * square**0.5

    def vacuous(self) -> frozenset[str]:
        """Return the gradients that are tiny beside their summands: zero but for rounding."""
        trace, largest = self._draw.trace, self._draw.trace.largest
        parts = {n: VACUOUS[g.dtype] for n, g in trace.gradients.items() if g.numel() and g.dtype in VACUOUS}

        def may_be(name: str) -> bool:
            above = max([largest[c] for c in trace.consumers(name)], default=-1.0)
            return largest[name] <= parts[name] * DERIVATIVE * above

        suspects = [n for n in parts if may_be(n)]
        self.probe(n for n in suspects if n not in self.known)
        return frozenset(n for n in suspects if largest[n] <= parts[n] * self.known[n])
