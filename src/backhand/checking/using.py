"""A function as a training job uses it, seen through a probe: inputs frozen, outputs unused, and `Usage`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.meanings import KINDS
from backhand.checking.probing import Gradients, Probe
from backhand.checking.report import Mistake
from backhand.checking.running.precision import OF_SUMMANDS
from backhand.checking.sources.usages import UntriedError, Usage, Used
from backhand.checking.verdicts.comparing import allclose
from backhand.errors import CheckError, in_short

# A difference of gradients is right to about this, relatively and of numbers of the size of 1.
BY_STEPS = 1e-5
REFUSED = 'Training code may use it so. Where nobody does, allow=("{kind}",) lets the exception pass.'


@dataclass(frozen=True)
class Untried:
    """A way of use that was not looked at, and why, in a few words or none."""

    what: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.why})" if self.why else self.what


def as_trained(probe: Probe, base: Gradients, right: bool) -> Iterator[Mistake | Untried]:
    """Use it as a training job does.

    Args:
        probe: the backward.
        base: what it gives when it is run once.
        right: all of that is.
    """
    for usage in probe.usages:
        if usage.right is None:
            failures = list(_told(probe, usage.kind, usage.when, base, probe.given, usage=usage.run))
            yield from failures
            right = right and not failures
        elif usage.builds_on_gradients and not right:
            yield Untried(usage.what)
        else:
            yield from _beside_the_reference(probe, usage)
    for name in probe.needed if len(probe.needed) > 1 else ():
        rest = {n: g for n, g in base.items() if n != f"d{name}"}
        if not any(bool(g.any()) for g in rest.values()):
            continue  # nothing else has a gradient: then nobody calls its backward
        yield from _told(
            probe, "frozen_input", f"if {name} needs no gradient", rest, probe.given, frozen=name
        )
    functions = probe.upstream if probe.needed else ()  # two functions ask for theirs by name, and get them
    for name in functions if len(functions) > 1 else ():
        without = {k: v for k, v in probe.given.items() if k != name}
        zero = probe(**{name: torch.zeros_like(probe.given[name])})
        when = f"if the output {name.removeprefix('d')} is not used, so that {name} is None or zeros,"
        yield from _told(probe, "unused_output", when, zero or base, without)


def _beside_the_reference(probe: Probe, usage: Usage) -> Iterator[Mistake | Untried]:
    """Tell of what is not as when the reference is used in the same way."""
    try:
        found = probe.used(usage.run)
    except UntriedError as untried:
        yield Untried(usage.what, str(untried))
        return
    except Exception as error:  # the user's code may raise anything
        raised = in_short(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        yield mistake(usage.kind, f"{usage.when} it raises {raised}.", {"refuses": raised})
        return
    try:
        assert usage.right is not None
        right = probe.used(usage.right)
    except Exception as error:  # PyTorch has no such formula for every operation
        yield Untried(usage.what, f"the reference raises {in_short(error)}")
        return
    sizes = {n: max(_size(t), _size(right[n])) for n, t in found.items() if n in right}
    largest = max(sizes.values(), default=0.0)
    # zero in exact arithmetic, as by what a softmax cancels, is rounding beside the others
    found = {n: t for n, t in found.items() if sizes.get(n, 1.0) > OF_SUMMANDS.get(t.dtype, 0.0) * largest}
    # a constant of eight digits, or a small epsilon, is no wrong formula: rounding of float32 is let pass
    found, expected = ({n: _coarse(t) for n, t in them.items()} for them in (found, right))
    expected = {n: t for n, t in expected.items() if n in found and bool(t.isfinite().all())}
    bad = probe.differing(found, expected)
    if bad and usage.by_itself is not None:
        bad = [n for n in bad if n not in _right_by_itself(probe, usage.by_itself)]
    if bad:
        verb = "are" if len(bad) > 1 else "is"
        yield mistake(usage.kind, f"{', '.join(bad)} {verb} wrong {usage.when}.", {"wrong": bad})


def _right_by_itself(probe: Probe, by_itself: Used) -> frozenset[str]:
    """Return what of a way of use is as the function's own results make it, whatever the reference gives."""
    try:
        pairs = probe.used(by_itself)
    except Exception:  # the user's code may raise anything
        return frozenset()
    return frozenset(n for n, (one, other) in pairs.items() if allclose(one, other, BY_STEPS, BY_STEPS))


def _size(value: Tensor) -> float:
    return float(value.detach().abs().max()) if value.numel() else 0.0


def _coarse(value: Tensor) -> Tensor:
    return value.to(torch.float32) if value.dtype == torch.float64 else value


def _told(
    probe: Probe, kind: str, when: str, expected: Gradients, given: Mapping[str, Any], **how: Any
) -> Iterator[Mistake]:
    """Tell of gradients that are not as expected in a way of being used."""
    try:
        found = probe.call(given, **how)
    except Exception as error:  # the user's code may raise anything
        facts = {"gradients": sorted(expected), "refuses": in_short(error)}
        told = f"{when} it raises {in_short(error)}."
        if type(error) is CheckError:  # not the user's: what came out cannot be judged
            told = f"{when.rstrip(',')}, {error}"
        yield mistake(kind, told, facts, REFUSED.format(kind=kind))
        return
    zeros = {n: g for n, g in expected.items() if n not in found and not bool(g.any())}  # None will do there
    bad = probe.differing({**found, **zeros}, expected)
    if bad:
        yield mistake(kind, f"{', '.join(bad)} is wrong {when.rstrip(',')}.", {"gradients": bad})


def mistake(kind: str, message: str, detail: dict[str, Any], hint: str = "") -> Mistake:
    """Return a mistake with the hint of its kind, unless it has one of its own."""
    return Mistake(kind, message, hint or KINDS[kind].hint, detail)
