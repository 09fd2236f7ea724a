"""The one pipeline: a pass, whichever door it came through, is tried, judged, explained and reported."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backhand.checking import stressing
from backhand.checking.assembling import Trials, assemble, of_the_whole
from backhand.checking.mistakes.reading import Probes
from backhand.checking.report import Mistake, Report
from backhand.checking.running.cropping import parts_of
from backhand.checking.running.precision import lowest
from backhand.checking.running.sandbox import sandbox, threads_for
from backhand.checking.running.tracing import trace
from backhand.checking.running.trials import Draw, draw, draw_large, is_finite, sets_of
from backhand.checking.sources.protocol import ForwardError, Inputs, Pass, by_name, resolve
from backhand.checking.verdicts.cancelling import with_cancelling
from backhand.checking.verdicts.comparing import close
from backhand.checking.verdicts.localising import Judgement, compared, judge
from backhand.checking.verdicts.rounding import Summands, Truth
from backhand.errors import CheckError


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
    chosen = resolve(forward, backward, inputs, out, names)
    title = getattr(forward if backward is None else backward, "__name__", type(forward).__name__)
    return check_pass(chosen, title, draws=draws, seed=seed, stress=stress)


@sandbox()
def check_pass(chosen: Pass, title: str, *, draws: int, seed: int, stress: bool | None = None) -> Report:
    """Check a pass whose parts are known already; see `check`."""
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
    stress: bool | None,
) -> Report | None:
    """Return the report on large inputs, of which a part is tried in full, and all once in their own dtype.

    None if the code does not take that part or changes it in place, or if the two do not agree on every
    gradient, for a size may stand in the code, or an error be below what that dtype shows.
    """
    smaller = replace(chosen, inputs=part)
    sets = sets_of(part, by_name, draws, seed)
    try:
        with threads_for(part):
            trials = tried(smaller, next(sets), sets, seed)
            report = report_on(smaller, title, trials, stress)
    except CheckError:
        return None
    if report.raised is not None or trials.judged[0].draw.changed:
        return None
    try:
        whole = draw_large(chosen, inputs, seed)
    except Exception:  # the user's code may raise anything, of which the full check tells
        return None
    is_right = {n: all(j.right.get(n, True) for j in trials.judged) for n in trials.judged[0].right}
    if whole.error is not None or compared(whole, Summands(whole)) != is_right:
        return None
    return of_the_whole(report, whole, trials.shown)


def report_on(chosen: Pass, title: str, trials: Trials, stress: bool | None = None) -> Report:
    """Return the report on what the runs of a pass have shown.

    Args:
        chosen: the pass.
        title: of the report.
        trials: the runs.
        stress: also stress the backward as a whole; by default where it has upstream gradients of its own.
    """
    failures: tuple[Mistake, ...] = ()
    wanted = stress is None and not chosen.ends_in_loss
    probes = None
    if (stress or wanted) and trials.judged[0].draw.error is None:
        probe = stressing.probe_of(chosen, trials.judged[0])
        failures = tuple(stressing.stress(chosen, probe, trials.judged[0], trials.shown, trials.truth))
        probes = Probes(probe, {u: probe.given[u] for u in probe.upstream}, failures)
    failures += tuple(stressing.untold(trials.judged[0], trials.truth))
    return assemble(chosen, title, trials, failures, probes)


def tried(chosen: Pass, first: Mapping[str, Any], others: Iterable[Mapping[str, Any]], seed: int) -> Trials:
    """Run a pass on every draw, in float64 if the user's code allows it, otherwise in its own dtype."""
    drawn = _first(chosen, first, seed)
    judgement = _promoted(chosen, first, judge(chosen, drawn))
    drawn = judgement.draw
    if chosen.backward_source is not None and not judgement.culprits and drawn.error is None:
        judgement = with_cancelling(chosen, judgement)
    judged = [judgement]
    count = 1
    for i, values in enumerate(others, start=1):
        wrong = _another(chosen, values, seed + i, judged[0])
        if wrong is not None:
            count += 1
            judged += wrong
    truth = _truth(chosen, first, drawn, seed)
    return Trials(tuple(judged), count, _shown(chosen, first, drawn, seed), truth, tuple(_notes(drawn)))


def _first(chosen: Pass, values: Mapping[str, Any], seed: int) -> Draw:
    """Return the first draw, in the most precise dtype that the user's code runs in."""
    for dtype, promote in ((torch.float64, False), (torch.float64, True), (None, False)):
        if promote and not chosen.promotes:
            continue
        try:
            found = draw(chosen, values, dtype, seed, promote=promote)
        except ForwardError:
            if dtype is None:
                raise
            continue
        except CheckError:
            raise
        except Exception as error:  # the user's code may raise anything
            if dtype is None:
                raise ForwardError("forward", error) from error
            continue
        if dtype is None or not (_is_lowered(found) or _raised_by_dtype(chosen, found, values)):
            return found
    raise AssertionError("unreachable")


def _promoted(chosen: Pass, values: Mapping[str, Any], judgement: Judgement) -> Judgement:
    """Return the judgement with float64 also where the code asks for less, if no more is wrong then.

    What is left of the difference is the precision of the code, to be looked at in the dtype of its inputs;
    and what is wrong in a line that asks for less can be told only without that.
    """
    drawn = judgement.draw
    able = chosen.promotes and drawn.dtype == torch.float64 and not drawn.promote and drawn.error is None
    if not judgement.culprits or not able:
        return judgement
    try:
        other = draw(chosen, values, drawn.dtype, drawn.seed, promote=True)
    except Exception:  # the user's code may raise anything
        return judgement
    right = compared(other, Summands(other))
    asks = any(n in drawn.user and not close(g, drawn.user[n]) for n, g in other.user.items())
    if other.error is not None or not asks or sum(right.values()) < sum(judgement.right.values()):
        return judgement
    return judge(chosen, other)


def _another(
    chosen: Pass, values: Mapping[str, Any], seed: int, first: Judgement
) -> tuple[Judgement, ...] | None:
    """Return the judgement on another draw, if something is wrong there; None if it has no truth to tell."""
    known = first.draw
    try:
        another = draw(chosen, values, known.dtype, seed, promote=known.promote, lent=not known.changed)
    except Exception:
        return None
    if not is_finite(another) or (another.error is not None and known.error is None):
        return None
    judgement = judge(chosen, another, first)
    return (judgement,) if judgement.culprits or not all(judgement.right.values()) else ()


def _is_lowered(drawn: Draw) -> bool:
    """Tell whether some tensor of a float64 run fell back to a lower dtype."""
    tensors: list[Tensor] = [*drawn.trace.tensors.values(), *drawn.user.values()]
    return any(t.is_floating_point() and t.dtype != torch.float64 for t in tensors)


def _raised_by_dtype(chosen: Pass, drawn: Draw, values: Mapping[str, Any]) -> bool:
    """Tell whether a backward that raised in float64 does not raise in the user's own dtype."""
    return drawn.error is not None and draw(chosen, values, None, drawn.seed).error is None


def _shown(chosen: Pass, values: Mapping[str, Any], first: Draw, seed: int) -> Draw:
    """Return the run in the dtype of the given inputs, for the table; the first draw itself if that is it."""
    if first.dtype is None or (lowest(values) == torch.float64 and not first.promote):
        return first
    try:
        return draw(chosen, values, None, seed, lent=not first.changed)
    except Exception:  # shown in float64 instead
        return first


def _truth(chosen: Pass, values: Mapping[str, Any], first: Draw, seed: int) -> Truth | None:
    if first.dtype == torch.float64:
        return Truth(first.trace, seed)
    try:
        return Truth(trace(chosen, values, torch.float64, seed), seed)
    except Exception:  # this forward knows its own dtype only
        return None


def _notes(drawn: Draw) -> Iterator[str]:
    if drawn.dtype is None:
        yield "The code does not run in float64, so the verdict was made in its own precision."
    if not is_finite(drawn):
        yield "The forward or autograd's own gradients are not finite for the given inputs."
