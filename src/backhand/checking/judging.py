"""The one pipeline: a pass, whichever door it came through, is tried, judged, explained and reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from backhand.checking import stressing
from backhand.checking.assembling import assemble, of_the_whole
from backhand.checking.mistakes.evidence import Probes
from backhand.checking.probing import probe_of
from backhand.checking.report import Mistake, Report
from backhand.checking.reshaping import in_another_shape
from backhand.checking.running.cropping import parts_of
from backhand.checking.running.precision import Asked
from backhand.checking.running.sandbox import sandbox, threads_for
from backhand.checking.running.trials import draw_large, sets_of
from backhand.checking.sources.protocol import Inputs, Pass, by_name, resolve
from backhand.checking.trying import Trials, tried
from backhand.checking.verdicts.localising import compared
from backhand.checking.verdicts.rounding import Summands
from backhand.errors import CheckError


@dataclass(frozen=True)
class Within:
    """That a pass is what is within something that has been stressed: its failures are told of already.

    Attributes:
        failures: those of the pass as well, which is all of it; None where it is a part.
    """

    failures: Sequence[Mistake] | None


Stress = bool | Within | None


@sandbox()  # its parts are read within: Python 3.11 cannot make trees in several threads at once
def check(
    forward: Any,
    backward: Callable[..., Any] | None = None,
    *,
    inputs: Inputs | None = None,
    out: str | Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
    draws: int = 3,
    seed: int = 0,
    stress: bool | None = None,
    dtype: torch.dtype | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> Report:
    """Compare a hand-written backward with autograd, find the lines at fault and name their mistakes.

    What it does not catch: a mistake that shows on none of the drawn inputs (a branch that is never taken);
    one whose effect is below about 1e-8 of the gradient; a forward that is itself not what was meant; what
    happens at a kink or a tie, where autograd's choice is only one of several.

    Args:
        forward: a function that returns its named tensors (`return locals()`), or a whole pass: a module or
            an object with `forward`, `backward` and optionally `inputs` and `out`.
        backward: a function whose parameters name what it needs of the forward, and that returns its
            gradients, each `d` + the tensor's name.
        inputs: arguments of the forward by name, or a function of a `torch.Generator` that draws them.
        out: the names of the outputs; without it the forward ends in the scalar `loss`.
        names: gradient name to tensor name, where they do not follow the rule.
        draws: how many independent sets of inputs to try; given inputs are varied for the second and later.
        seed: of the draws and of the upstream gradients.
        stress: also try linearity, layouts, repeated runs and the like; by default for passes with `out`.
        dtype: judge in this one; by default in float64, if the code runs there.
        rtol, atol: how far each element may be off, `atol + rtol * |expected|`; by default what rounding
            can do in that dtype.

    Returns:
        A frozen `Report`. Nothing is printed, and a wrong gradient raises nothing.

    Raises:
        CheckError: the parts do not fit together, so that there is nothing to compare.

    >>> import torch
    >>> def forward(x, w):
    ...     y = x * w
    ...     return locals()
    >>> def backward(dy, x, w):
    ...     dx = dy * w
    ...     dw = dy
    ...     return locals()
    >>> report = check(forward, backward, inputs={"x": torch.randn(4), "w": torch.randn(4)}, out="y")
    >>> [row.name for row in report.culprits]
    ['w']
    """
    chosen = replace(resolve(forward, backward, inputs, out, names), asked=Asked(dtype, rtol, atol))
    title = getattr(forward if backward is None else backward, "__name__", type(forward).__name__)
    return check_pass(chosen, title, draws=draws, seed=seed, stress=stress)


@sandbox()
def check_pass(chosen: Pass, title: str, *, draws: int, seed: int, stress: Stress = None) -> Report:
    """Check a pass whose parts are known already; see `check`."""
    report = _judged(chosen, title, draws=draws, seed=seed, stress=stress)
    if not chosen.elsewhere:
        return report
    found = [
        failure
        for inputs in chosen.elsewhere
        for failure in in_another_shape(
            report,
            inputs,
            partial(_judged, replace(chosen, inputs=inputs), title, draws=draws, seed=seed, stress=stress),
            seed,
        )
    ]
    refused = [f for f in found if stressing.is_allowed(chosen, f)]
    notes = (f"Judged with {1 + len(chosen.elsewhere)} shapes.", *(f"Refused, {f.message}" for f in refused))
    failures = tuple(f for f in found if f not in refused)
    return replace(report, stress=(*report.stress, *failures), notes=(*report.notes, *notes))


def _judged(chosen: Pass, title: str, *, draws: int, seed: int, stress: Stress) -> Report:
    """Return the report on a pass with inputs of one shape."""
    sets = sets_of(chosen.inputs, by_name, draws, seed)
    first = next(sets)
    for part in parts_of(first) if chosen.scope is None else ():  # a script's sizes stand in its statements
        report = _by_a_part(chosen, title, first, part, draws=draws, seed=seed, stress=stress)
        if report is not None:
            return report
    with threads_for(first):
        return report_on(chosen, title, tried(chosen, first, sets, seed), stress)


def _by_a_part(
    chosen: Pass,
    title: str,
    inputs: Mapping[str, Any],
    part: dict[str, Any],
    *,
    draws: int,
    seed: int,
    stress: Stress,
) -> Report | None:
    """Return the report on large inputs, of which a part is tried in full, and all once in their own dtype.

    None if the code does not take that part, or if the two do not agree on every gradient, for a size may
    stand in the code, or an error be below what that dtype shows.
    """
    smaller = replace(chosen, inputs=part)
    sets = sets_of(part, by_name, draws, seed)
    try:
        with threads_for(part):
            trials = tried(smaller, next(sets), sets, seed)
            report = report_on(smaller, title, trials, stress)
    except CheckError:
        return None
    if report.raised is not None:
        return None
    try:
        whole = draw_large(chosen, inputs, seed, lent=not trials.judged[0].draw.changed)
    except Exception:  # the user's code may raise anything, of which the full check tells
        return None
    is_right = {n: all(j.right.get(n, True) for j in trials.judged) for n in trials.judged[0].right}
    if whole.error is not None or compared(whole, Summands(whole)) != is_right:
        return None
    return of_the_whole(report, whole, trials.shown)


def report_on(chosen: Pass, title: str, trials: Trials, stress: Stress = None) -> Report:
    """Return the report on what the runs of a pass have shown.

    Args:
        chosen: the pass.
        title: of the report.
        trials: the runs.
        stress: also stress the backward as a whole; by default where it has upstream gradients of its own.
            Within what has been stressed already, only to explain a mistake.
    """
    failures: tuple[Mistake, ...] = ()
    probes = None
    if (stress or (stress is None and not chosen.ends_in_loss)) and trials.judged[0].draw.error is None:
        probe = probe_of(chosen, trials.judged[0])
        known = stress.failures if isinstance(stress, Within) else None
        stressed = partial(stressing.stress, chosen, probe, trials.judged[0], trials.shown, trials.truth)
        if not isinstance(stress, Within):
            found = stressed()
            known = failures = found.failures
            trials = replace(trials, notes=(*trials.notes, *found.notes))
        upstream = {u: probe.given[u] for u in probe.upstream}
        probes = Probes(probe, upstream, lambda: stressed().failures if known is None else known)
    failures += (*stressing.misplaced(trials.shown), *stressing.untold(trials.judged[0], trials.truth))
    return assemble(chosen, title, trials, failures, probes)
