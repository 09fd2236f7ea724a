"""Which gradients lose precision by a line of their own.

What is right in float64 may be computed in less on the way. The backward runs once more in the dtype of the
given inputs, each gradient replaced by autograd's before anything reads it: what is imprecise even so is by
its own lines, and what was so only because it is made of another gradient is not.
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from backhand.checking.running.names import root
from backhand.checking.running.precision import LOWERED, unit
from backhand.checking.running.slicing import plain_slice_of
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import largest_difference
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.repairing import Observed, repair, variables_of
from backhand.checking.verdicts.rounding import Truth

TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Loss:
    """How precise a gradient is.

    Attributes:
        dtype, got: that of the tensor, and that of its gradient.
        times: its error as a multiple of autograd's.
        statements: those that may be at fault, where they are known.
    """

    dtype: torch.dtype
    got: torch.dtype
    times: float
    statements: tuple[ast.stmt, ...] = ()

    @property
    def is_of_dtype(self) -> bool:
        """Whether the gradient itself has a lower dtype than its tensor."""
        return unit(self.got) > unit(self.dtype)

    @property
    def matters(self) -> bool:
        """Whether more is lost than by another order of the same operations."""
        return self.is_of_dtype or LOWERED < self.times < float("inf")


@dataclass(frozen=True)
class Measure:
    """What a gradient's precision is measured by.

    Attributes:
        shown: the run in the user's dtype.
        truth: the right gradients in float64, as far as they are known.
        own: the error of autograd's own gradients in the user's dtype; by its rounding where there is none.
    """

    shown: Draw
    truth: Mapping[str, Tensor]
    own: Mapping[str, float]

    @staticmethod
    def of(drawn: Draw, shown: Draw, truth: Truth | None) -> "Measure":
        """Return the measure: float64, if the forward runs in it, or does where all that it asks for is that."""
        trace = shown.trace
        if truth is not None and trace is not truth.trace and trace.layout is truth.trace.layout:
            right = truth.trace.gradients
            return Measure(
                shown, right, {n: largest_difference(g, right[n]) for n, g in trace.gradients.items()}
            )
        return Measure(shown, drawn.trace.gradients if drawn.promote else {}, {})

    def loss(self, name: str, value: Tensor | None) -> Loss | None:
        """Return how precise a gradient is; None where there is nothing to measure it by."""
        tensor = self.shown.trace.tensors.get(name)
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


def lost_by_themselves(chosen: Pass, measure: Measure, lives: Lives, *, fails: bool) -> dict[str, Loss]:
    """Return the gradients that lose precision by their own lines; of those that one line makes, the first.

    Args:
        chosen: the pass, with its source.
        measure: what their precision is measured by.
        lives: when the backward completes each gradient.
        fails: whether some gradient has lost precision for certain.
    """
    shown = measure.shown
    replaced = shown.trace.gradients
    seen = repair(chosen, shown, lambda name, value: name not in replaced, lives).observed
    in_time = sorted(seen, key=lambda n: seen[n].step)
    own = {n: loss for n in in_time if (loss := measure.loss(n, seen[n].value)) is not None}
    by_line: dict[ast.stmt | str, str] = {}
    for name in (n for n, loss in own.items() if loss.matters):
        by_line.setdefault(seen[name].statements[-1] if seen[name].statements else name, name)
    # each loses too little by itself, and what is made of it cancels: then it is that which loses most
    chief = list(by_line.values()) or sorted(own, key=lambda n: -own[n].times)[:fails]
    return {n: replace(own[n], statements=_suspects(chosen, shown, n, seen[n])) for n in chief}


def _suspects(chosen: Pass, shown: Draw, name: str, seen: Observed) -> tuple[ast.stmt, ...]:
    source, paths = chosen.backward_source, variables_of(chosen, shown).path
    if source is None or name not in paths:
        return ()
    known = {root(path): tensor for tensor, path in paths.items()}
    return plain_slice_of(source, paths[name], seen.statements, known, seen.namespace)
