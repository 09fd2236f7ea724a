"""A whole backward as a function to be called on other tensors: how the stress checks look at it."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.containers import as_gradient, flatten, is_strided
from backhand.checking.running.precision import ANOTHER_ORDER, HANDED_ON
from backhand.checking.running.sandbox import running
from backhand.checking.running.tracing import trace
from backhand.checking.sources.protocol import Pass, arguments
from backhand.checking.sources.usages import Usage, Used
from backhand.checking.verdicts.comparing import allclose, close, off, root_mean_square
from backhand.checking.verdicts.localising import Judgement
from backhand.checking.verdicts.truths import computed_in_less, noise

Gradients = Mapping[str, Tensor]
# Two runs round independently of each other: in the root mean square they differ by so many times as much as
# each is off.
OF_TWO = 2**0.5


@dataclass(frozen=True)
class Probe:
    """A backward, to be called on other tensors than those of the forward.

    Attributes:
        call: runs it on named arguments; it changes none of them by itself. It may be given inputs that are
            `frozen`, another `usage` than to be run once, and a `later` seed.
        given: the arguments.
        upstream: which of them are upstream gradients.
        sizes: of the summands of each gradient, by which its rounding is measured.
        used: what a way of use gives on those arguments, under the same conditions.
        usages: see `Pass`.
        needed: the arguments that need a gradient.
        tolerance: relative and absolute, where the caller has asked for one.
        true: gives the right gradients for other upstream gradients.
        takes: tells whether the forward that is taken for true takes other arguments.
        off: by which part of itself the output of code that computes in less than its dtype is off.
        budgets: what all elements of a gradient together may be off, where it is judged in less than float64.
    """

    call: Callable[..., Gradients]
    given: Mapping[str, Any]
    upstream: tuple[str, ...]
    sizes: Mapping[str, float]
    used: Callable[[Used], Gradients]
    usages: tuple[Usage, ...] = ()
    needed: tuple[str, ...] = ()
    tolerance: tuple[float, float] | None = None
    true: Callable[[Gradients], Gradients] = lambda _: {}
    takes: Callable[[Mapping[str, Any]], bool] = lambda _: True
    off: float = 0.0
    budgets: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, **changed: Tensor) -> Gradients | None:
        """Return the gradients with some arguments changed; None where the backward raises."""
        try:
            return self.call({**self.given, **changed})
        except Exception:  # the user's code may raise anything; told by the check that looks for it
            return None

    def same(self, name: str, a: Tensor, b: Tensor) -> bool:
        """Tell whether two runs gave the same gradient, but for the order in which its sums were made."""
        if self.tolerance is not None:
            return allclose(a, b, *self.tolerance)
        if a.shape == b.shape and torch.equal(a, b):  # most are
            return True
        size = float(b.abs().max()) if b.numel() else 0.0
        if close(a, b, ANOTHER_ORDER * max(size, self.sizes.get(name, 0.0))):
            return True
        noise = HANDED_ON * self.off * max(root_mean_square(b), self.sizes.get(name, 0.0))
        return a.shape == b.shape and off(a, b) <= max(noise, OF_TWO * self.budgets.get(name, 0.0))

    def is_rounding(self, name: str, a: Tensor, b: Tensor) -> bool:
        """Tell whether what two runs on the same tensors gave differs by no more than each may be off."""
        if self.tolerance is not None:
            return allclose(a, b, *self.tolerance)
        return close(a, b, self.sizes.get(name, 0.0), OF_TWO * self.budgets.get(name, math.inf))

    def differing(self, found: Gradients | None, expected: Gradients) -> list[str]:
        """Return the gradients that another run did not give, or not the same."""
        found = found or {}
        return sorted(n for n, g in expected.items() if n not in found or not self.same(n, found[n], g))


def probe_of(chosen: Pass, judgement: Judgement) -> Probe:
    """Return the probe of a pass, on the tensors of one draw."""
    drawn = judgement.draw
    traced = drawn.seen
    offered = arguments(chosen, traced)
    returns = chosen.contract == "returned"
    given = offered["inputs"] | offered["upstream"] if returns else offered
    turns = itertools.count()  # a backward that draws numbers of its own gives another answer each time
    needed = {k for k, v in given.items() if isinstance(v, Tensor) and v.requires_grad}

    def leaves_of(values: Mapping[str, Any], frozen: str = "") -> dict[str, Any]:
        return {
            k: v.detach().requires_grad_(k != frozen) if k in needed else v
            for k, v in values.items()
            if k in offered["inputs"]
        }

    def true(upstream: Gradients) -> Gradients:
        found = trace(
            chosen, traced.inputs, drawn.dtype, drawn.seed, promote=drawn.promote, upstream=upstream
        ).gradients
        return {gradient: found[n] for n, gradient in drawn.matched.items() if n in found}

    def takes(values: Mapping[str, Any]) -> bool:
        try:
            with running(drawn.dtype, drawn.seed, drawn.promote), torch.enable_grad():
                chosen.forward(**leaves_of(values))
        except Exception:  # the user's code may raise anything
            return False
        return True

    def ran(run: Callable[..., Any], values: Mapping[str, Any], frozen: str, later: int) -> dict[str, Tensor]:
        asked = values
        if returns:
            upstream = {k: values[k] for k in traced.upstream if k in values}
            asked = {"inputs": leaves_of(values, frozen), "outputs": {}, "upstream": upstream}
        seed = chosen.seed_of_backward(drawn.seed) + later + (0 if returns else next(turns))
        with running(drawn.dtype, seed, drawn.promote), torch.no_grad():
            given_back = run(*asked.values()) if returns else run(**asked)
        found = {n: as_gradient(v) for n, v in flatten(given_back).items()}
        return {n: g.clone() for n, g in found.items() if g is not None}

    def call(
        values: Mapping[str, Any], frozen: str = "", usage: Used | None = None, later: int = 0
    ) -> Gradients:
        found = ran(usage or chosen.backward, values, frozen, later)
        return {n: found[n] for n in drawn.matched.values() if n in found}

    own = {k: v.detach().contiguous() if is_strided(v) else v for k, v in given.items()}
    budgets = {n: noise(drawn, n, judgement.summands.get(n, 0.0)) for n in drawn.matched}
    return Probe(
        call,
        own,
        tuple(u for u in traced.upstream if u in given),
        {drawn.matched[n]: judgement.summands.get(n, 0.0) for n in drawn.matched},
        lambda usage: ran(usage, own, "", 0),
        chosen.usages,
        tuple(needed) if returns else (),
        chosen.asked.tolerance,
        true,
        takes if returns else lambda _: True,
        computed_in_less(drawn) if returns else 0.0,
        {drawn.matched[n]: budget for n, budget in budgets.items() if budget < math.inf},
    )
