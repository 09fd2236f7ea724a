"""Checks of a whole backward: linear in its upstream gradient, the same for every layout, clean, repeatable.

They are one list for whatever is checked, and look at it through a *probe*: the backward as a function from
named tensors to named gradients. What they find of a single gradient may explain it too.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.meanings import WAYS_OF_USE
from backhand.checking.mistakes.finding import listed
from backhand.checking.probing import Gradients, Probe
from backhand.checking.report import Mistake
from backhand.checking.running.containers import identical, is_strided
from backhand.checking.running.precision import ERROR_BUDGET, lowest
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass, arguments
from backhand.checking.using import Untried, as_trained, mistake
from backhand.checking.verdicts.comparing import largest_difference
from backhand.checking.verdicts.localising import Judgement
from backhand.checking.verdicts.rounding import Summands, Truth
from backhand.checking.verdicts.truths import computed_in_less
from backhand.errors import CheckError, in_short

# Of what differs from run to run at all, so many more runs may show more than rounding: some races are rare.
REPETITIONS = 4


@dataclass(frozen=True)
class Stressed:
    """What stress has shown.

    Attributes:
        failures: what fails.
        notes: what differs by rounding alone, and what was not looked at, in a line each, of code whose
            backward somebody else's training depends on.
    """

    failures: tuple[Mistake, ...]
    notes: tuple[str, ...]


def stress(chosen: Pass, probe: Probe, judgement: Judgement, shown: Draw, truth: Truth | None) -> Stressed:
    """Return what fails of a pass, and what was not looked at.

    Args:
        chosen: the pass.
        probe: its backward.
        judgement: the verdict on the first draw.
        shown: the run in the dtype of the given inputs.
        truth: the forward in float64, if it runs there.
    """
    found = [
        *unasked(chosen, judgement.draw),
        *_of_probe(probe, all(judgement.right.values())),
        *wrong_dtypes(shown),
        *coarse(chosen, truth, shown, list(judgement.culprits)),
    ]
    failures = [f for f in found if isinstance(f, Mistake)]
    untried = [f for f in found if isinstance(f, Untried)]
    told = [f for f in found if isinstance(f, str)]
    return Stressed(
        tuple(f for f in failures if not is_allowed(chosen, f)),
        (*told, *_looked_at(chosen, failures, untried)),
    )


def refusable(kinds: Collection[str]) -> frozenset[str]:
    """Return these kinds of failure; raise `CheckError` where one is none that code can refuse."""
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in WAYS_OF_USE:
            raise CheckError(f"allow names {kind!r}; what may be refused is one of {', '.join(WAYS_OF_USE)}.")
    return frozenset([kinds] if isinstance(kinds, str) else kinds)


def is_allowed(chosen: Pass, failure: Mistake) -> bool:
    """Tell whether a failure is an exception that the caller lets pass."""
    return failure.kind in chosen.allow and "refuses" in failure.detail


def _looked_at(chosen: Pass, failures: Sequence[Mistake], untried: Sequence[Untried]) -> Iterator[str]:
    if chosen.contract != "returned" or (chosen.runner is not None and chosen.runner.over_numpy):
        return
    refused = [f"{f.kind} ({f.message.rstrip('.')})" for f in failures if is_allowed(chosen, f)]
    left = {u.what for u in untried}
    tried = [u.what for u in chosen.usages if u.what and u.what not in left]
    also = f"Tried besides: {', '.join(tried)}. " if tried else ""
    others = [*map(str, untried), *([] if chosen.elsewhere else ["other shapes"]), "other devices"]
    yield f"{also}Not tried: {'; '.join([*refused, ', '.join(others)])}."


def _of_probe(probe: Probe, right: bool) -> list[Mistake | Untried | str]:
    """Return what fails, and what is told besides.

    After a change in place, or runs that differ, the rest would only echo that.

    Args:
        probe: the backward.
        right: all its gradients are, for upstream gradients that differ from element to element.
    """
    found: list[Mistake | Untried | str] = list(_modified(probe))
    base = None if found else probe()
    if base is not None:
        found += _repeated(probe, base)
    if base is None or any(isinstance(f, Mistake) for f in found):
        return [*found, *(Untried(usage.what) for usage in probe.usages if usage.what)]
    return [*found, *_linearity(probe, base, right), *_layouts(probe, base), *as_trained(probe, base, right)]


def _modified(probe: Probe) -> Iterator[Mistake]:
    own = {k: v.clone() if isinstance(v, Tensor) else v for k, v in probe.given.items()}
    probe(**own)
    for name, value in own.items():
        if is_strided(value) and not identical(value, probe.given[name]):
            what = "upstream gradient" if name in probe.upstream else "tensor"
            message = f"the {what} {name} is changed in place; others that hold it see the change."
            yield mistake("modifies_input", message, {"argument": name})


def _repeated(probe: Probe, base: Gradients) -> Iterator[Mistake | str]:
    """Run it again; in what order a kernel adds up is its own affair, and shows in the rounding alone."""
    differing: set[str] = set()
    by_more: set[str] = set()
    for _ in range(REPETITIONS):
        again = probe() or {}
        bad = {n for n, g in base.items() if n not in again or not identical(again[n], g)}
        by_more = {n for n in bad if n not in again or not probe.is_rounding(n, again[n], base[n])}
        differing |= bad
        if by_more or not differing:
            break
    if by_more:
        message = f"two runs give different {', '.join(sorted(by_more))}, by more than rounding."
        yield mistake("nondeterministic", message, {"gradients": sorted(by_more)})
    elif differing:
        yield f"Two runs give different {', '.join(sorted(differing))}, by rounding alone."


def _linearity(probe: Probe, base: Gradients, right: bool) -> Iterator[Mistake]:
    upstream = {u: probe.given[u] for u in probe.upstream}
    arriving = ", ".join(upstream)
    twice = {u: -2 * g for u, g in upstream.items()}
    scaled = probe(**twice) if upstream else None
    if scaled is None:
        return
    bad = probe.differing(scaled, {n: -2 * g for n, g in base.items() if n in scaled})
    if bad:  # the reference may be as little linear, on purpose: a gradient that is let through by its sign
        own, true = probe.true(upstream), probe.true(twice)
        bad = [n for n in bad if n not in true or probe.same(n, true[n], -2 * own[n])]
    if bad:
        unmoved = [n for n in bad if probe.same(n, scaled[n], base[n])]
        do, itself = ("does", "itself") if len(bad) == 1 else ("do", "themselves")
        told = "change" if unmoved == bad else f"become -2 times {itself}"
        message = (
            f"{', '.join(bad)} {do} not {told} when the upstream gradient {arriving} is multiplied by -2."
        )
        yield mistake("ignores_upstream", message, {"gradients": bad})
        return
    # what is right reads all that there is to read, be it one element, as of a relu with one that is positive
    if right or all(g.numel() <= 1 for g in upstream.values()):
        return
    other = probe(**{u: _but_first(g) for u, g in upstream.items()}) or {}
    there = [n for n, g in base.items() if n in other and not probe.same(n, g, torch.zeros_like(g))]
    bad = sorted(n for n in there if probe.same(n, other[n], base[n]))
    if bad and len(bad) == len(base):
        use = "uses" if len(bad) == 1 else "use"
        message = f"only the first element of {arriving} is read: {', '.join(bad)} {use} no other."
        yield mistake("ignores_upstream", message, {"gradients": bad})


def _but_first(value: Tensor) -> Tensor:
    """Return the negative of a tensor, but for its first element."""
    changed = -value.contiguous()
    changed.view(-1)[:1].neg_()
    return changed


def _layouts(probe: Probe, base: Gradients) -> Iterator[Mistake | Untried]:
    given = probe.given
    if probe.needed and probe.differing(probe.call(given, later=1), base):
        # it draws numbers, and for an input in another layout (`rand_like`) it may draw them in another order
        given = {u: given[u] for u in probe.upstream}
    for name, value in given.items():
        if not is_strided(value) or not value.is_floating_point() or value.numel() < 2:
            continue
        found: list[Mistake] = []
        for label, changed, expected in _ways(probe, name, value, base):
            message, refuses = _differs(probe, name, changed, expected)
            if refuses and not probe.takes({**probe.given, name: changed}):
                yield Untried(f"a {label} {name}", "the reference does not take it")
            elif message:
                told = f"a {label} {name} {message}; a contiguous one with the same values does not."
                facts = {"argument": name, "layout": label}
                found.append(mistake("layout", told, facts | ({"refuses": message} if refuses else {})))
        yield from _first_of_each(found)


def _first_of_each(found: Sequence[Mistake]) -> Iterator[Mistake]:
    """Yield the first that gives wrong numbers, and the first that is refused."""
    for refuses in (False, True):
        yield from [mistake for mistake in found if ("refuses" in mistake.detail) is refuses][:1]


def _ways(probe: Probe, name: str, value: Tensor, base: Gradients) -> Iterator[tuple[str, Tensor, Gradients]]:
    """Yield one argument in other layouts, each with what the backward should make of it."""
    for label, make in LAYOUTS.items():
        changed = make(value)
        if changed is not None:
            yield label, changed, base
    if name in probe.upstream:  # what `sum().backward()` sends; it has other values
        spread = value.reshape(-1)[:1].reshape([1] * value.dim()).expand(value.shape)
        like = probe(**{name: spread.clone(memory_format=torch.contiguous_format)})
        if like is not None:
            yield "expanded", spread, like


def _exchanged(t: Tensor, axis: int, other: int) -> Tensor | None:
    """Return it with two axes exchanged in memory, where it has both."""
    return t.transpose(axis, other).contiguous().transpose(axis, other) if t.dim() >= -axis else None


# The same values that lie in memory in other ways, the one that most kernels stumble on first.
LAYOUTS: Mapping[str, Callable[[Tensor], Tensor | None]] = {
    "transposed": lambda t: _exchanged(t, -2, -1),
    "strided": lambda t: torch.stack([t, torch.zeros_like(t)], dim=-1)[..., 0] if t.dim() else None,
    # as heads of (B, T, H, D) that are transposed to (B, H, T, D), or a sequence that has its time first
    "permuted": lambda t: _exchanged(t, -3, -2),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else None,
    "channels_last_3d": lambda t: (
        t.contiguous(memory_format=torch.channels_last_3d) if t.dim() == 5 else None
    ),
    "offset": lambda t: torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(t.shape) if t.dim() else None,
}


def _differs(probe: Probe, name: str, changed: Tensor, expected: Gradients) -> tuple[str, bool]:
    """Return what is different, or nothing, and whether the code refuses that argument with an exception."""
    try:
        found = probe.call({**probe.given, name: changed})
    except Exception as error:  # the user's code may raise anything
        return f"raises {in_short(error)}", True
    bad = probe.differing(found, expected)
    return (f"gives a wrong {', '.join(bad)}" if bad else ""), False


# What makes a tolerance useless is the choice of inputs, not the kernel: a hint of its own.
UNTOLD = "Choose inputs whose gradients stand out of the rounding, or let the code run in float64."


def unasked(chosen: Pass, drawn: Draw) -> Iterator[Mistake]:
    """Tell of a backward that has upstream gradients at random and asks for none of them."""
    traced = drawn.seen
    if chosen.contract == "returned" or not drawn.user or chosen.is_last(traced.outputs):
        return
    if not set(traced.upstream) & set(arguments(chosen, traced)):
        message = f"backward does not ask for the upstream gradient {', '.join(traced.upstream)}."
        yield mistake("ignores_upstream", message, {"gradients": sorted(drawn.matched.values())})


def wrong_dtypes(drawn: Draw) -> Iterator[Mistake]:
    """Tell of gradients whose dtype is not their tensor's."""
    return _unlike(drawn, "dtype", lambda given: given.dtype)


def misplaced(drawn: Draw) -> Iterator[Mistake]:
    """Tell of gradients that are not on the device of their tensor."""
    return _unlike(drawn, "device", lambda given: given.device)


def _unlike(drawn: Draw, what: str, of: Callable[[Tensor], Any]) -> Iterator[Mistake]:
    for name, gradient in drawn.matched.items():
        given, tensor = drawn.given[gradient], drawn.trace.tensors.get(name)
        if tensor is not None and isinstance(given, Tensor) and given.dim() and of(given) != of(tensor):
            message = f"{gradient} has {what} {of(given)}, but {name} has {of(tensor)}."
            yield mistake("dtype", message, {"expected": str(of(tensor)), "got": str(of(given))})


def coarse(chosen: Pass, truth: Truth | None, shown: Draw, wrong: Sequence[str]) -> Iterator[Mistake]:
    """Tell of right returned gradients whose error in the inputs' dtype is far above the reference's."""
    dtype = lowest(shown.trace.inputs)
    if truth is None or dtype == torch.float64 or chosen.contract != "returned" or chosen.asked.tolerance:
        return
    for name, value in shown.user.items():
        expected = truth.trace.gradients.get(name)
        if name in wrong or expected is None or not value.numel():
            continue
        error = largest_difference(value, expected)
        floor = max(torch.finfo(dtype).eps, computed_in_less(shown)) * float(expected.abs().max())
        allowed = ERROR_BUDGET * max(largest_difference(shown.trace.gradients[name], expected), floor)
        if error > allowed and error < float("inf"):
            times = ERROR_BUDGET * error / allowed
            gradient = shown.matched[name]
            message = f"{gradient} is off by {error:.3g} in {dtype}: {times:.0f}x the error of the reference."
            yield mistake("dtype", message, {"multiple": times})


def untold(judgement: Judgement, truth: Truth | None) -> Iterator[Mistake]:
    """Refuse a verdict in a lower dtype under which zeros, the negative or the double would pass.

    Of the inputs' gradients, those count that are not zero in exact arithmetic; where that is not known, the
    verdict is refused if no gradient at all is told from zero.
    """
    drawn = judgement.draw
    vacuous = [n for n in drawn.user if n in judgement.vacuous and judgement.right.get(n)]
    if drawn.dtype == torch.float64 or (truth is None and len(vacuous) < len(drawn.user)):
        return
    if truth is not None and vacuous:
        zero = Summands(truth).vacuous()
        vacuous = [n for n in vacuous if n in drawn.trace.wanted and n not in zero]
    if vacuous:
        gradients = [drawn.matched[n] for n in vacuous]
        message = f"{listed(gradients)}: with this tolerance zeros or the double would pass as well."
        yield mistake("dtype", message, {"gradients": gradients}, UNTOLD)
