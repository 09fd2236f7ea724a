"""Run a pass on every draw, in the most precise dtype in which its code is as accurate as that dtype."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.precision import lowest, unit
from backhand.checking.running.tracing import trace
from backhand.checking.running.trials import Draw, draw, is_finite
from backhand.checking.sources.protocol import ForwardError, ForwardsDifferError, Pass
from backhand.checking.verdicts.cancelling import with_cancelling
from backhand.checking.verdicts.comparing import close
from backhand.checking.verdicts.localising import Judgement, compared, judge
from backhand.checking.verdicts.rounding import Summands, Truth
from backhand.checking.verdicts.truths import (
    against_truth,
    between_sides,
    computed_in_less,
    forward_error,
    is_rounding,
)
from backhand.errors import CheckError

AT_KINK = (
    "The inputs lie at a kink (relu at 0, a tie of max): any slope between those of its two sides is right."
)


@dataclass(frozen=True)
class Trials:
    """What the runs of a pass have shown.

    Attributes:
        judged: the verdict on the first draw, and on those on which something is wrong (the others are let
            go of: memory that is used again at once is quick memory).
        draws: how many there were.
        shown: the run in the dtype of the given inputs, for the table.
        truth: the forward in float64, if it runs there.
        notes: remarks on the runs.
    """

    judged: tuple[Judgement, ...]
    draws: int
    shown: Draw
    truth: Truth | None = None
    notes: tuple[str, ...] = ()


def tried(chosen: Pass, first: Mapping[str, Any], others: Iterable[Mapping[str, Any]], seed: int) -> Trials:
    """Run a pass on every draw, in float64 if the user's code allows it, otherwise in its own dtype."""
    drawn = _first(chosen, first, seed)
    as_autograd_has_it = _own_precision(chosen, first, drawn)
    judgement = _beside_kinks(chosen, as_autograd_has_it)
    at_kink, drawn = judgement is not as_autograd_has_it, judgement.draw
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
    shown = _shown(chosen, first, drawn, seed)
    notes = (*_notes(chosen, drawn, shown), *([AT_KINK] * at_kink))
    return Trials(tuple(judged), count, shown, truth, notes)


def _first(chosen: Pass, values: Mapping[str, Any], seed: int) -> Draw:
    """Return the first draw, in the most precise dtype in which the user's code is as accurate as that."""
    *finer, last = _precisions(chosen, values)
    for dtype, promote in finer:
        try:
            found = draw(chosen, values, dtype, seed, promote=promote)
        except (ForwardError, ForwardsDifferError):
            continue
        except CheckError:
            raise
        except Exception:  # the user's code may raise anything
            continue
        if not (_is_lowered(found, dtype) or _raised_by_dtype(chosen, found, values)):
            return against_truth(chosen, found)
    try:
        return against_truth(chosen, draw(chosen, values, last[0], seed, promote=last[1]))
    except CheckError:
        raise
    except Exception as error:  # the user's code may raise anything
        of_a_function = (
            chosen.contract == "returned" and chosen.runner is None
        )  # it told what its own code raises
        what = "differentiating the reference" if of_a_function else "forward"
        raise ForwardError(what, error) from error


def _precisions(chosen: Pass, values: Mapping[str, Any]) -> list[tuple[torch.dtype | None, bool]]:
    """Return the dtypes to judge in, each with whether the code's requests for less are overruled.

    The finest first. The last is that of the inputs; for those of float64 float32, in which a function may
    well compute whatever it is given.
    """
    if chosen.asked.dtype is not None:
        return [(chosen.asked.dtype, False)]
    own = lowest(values)
    found: list[tuple[torch.dtype | None, bool]] = [(torch.float64, False)]
    if chosen.promotes:
        return [*found, (torch.float64, True), (None, False)]
    if unit(own) > unit(torch.float32):
        found.append((torch.float32, False))
    return [*found, (torch.float32 if own == torch.float64 else None, False)]


def _coarser(chosen: Pass, values: Mapping[str, Any], judgement: Judgement) -> tuple[Draw, bool] | None:
    """Return the run in the precision of the code, where some gradients are off by its rounding alone.

    Its forward may be exact in float64 all the same, and a constant of the backward have eight digits. With
    it stands whether nothing is right there but what is so off.
    """
    drawn = judgement.draw
    precisions = _precisions(chosen, values)
    able = chosen.contract == "returned" and lowest(values) != torch.float64 and len(precisions) > 1
    if not able or drawn.dtype != torch.float64:
        return None
    wrong = [n for n, right in judgement.right.items() if not right]
    rounding = {n for n in wrong if is_rounding(drawn, n, judgement.summands)}
    if not rounding:
        return None
    try:
        other = against_truth(chosen, draw(chosen, values, precisions[1][0], drawn.seed))
        right = compared(other, Summands(other))
    except Exception:  # the user's code may raise anything
        return None
    acquitted = {n for n in wrong if right.get(n)}
    return (other, acquitted <= rounding) if acquitted & rounding else None


def _own_precision(
    chosen: Pass, values: Mapping[str, Any], drawn: Draw, first: Judgement | None = None
) -> Judgement:
    """Return the judgement on a draw, in the precision of the code where that acquits culprits."""
    coarser: list[tuple[Draw, bool]] = []

    def instead(so_far: Judgement) -> Draw | None:
        found = _coarser(chosen, values, so_far)
        coarser.extend([found] if found is not None else [])
        return found[0] if found is not None and found[1] else None

    judgement = judge(chosen, drawn, first, instead)
    if first is None:
        judgement = _promoted(chosen, values, judgement)
    if not coarser or coarser[0][1]:
        return judgement
    # what else is wrong may follow from what is acquitted
    other = judge(chosen, coarser[0][0], first)
    acquitted = judgement.culprits.keys() - other.culprits
    own = (is_rounding(judgement.draw, n, judgement.summands) for n in acquitted)
    return other if acquitted and all(own) else judgement


def _beside_kinks(chosen: Pass, judgement: Judgement, first: Judgement | None = None) -> Judgement:
    """Return the judgement for which any slope between the two sides of a kink is right."""
    drawn = judgement.draw
    is_whole = chosen.contract == "returned" and chosen.runner is None  # over NumPy the inputs are moved
    if not is_whole or not judgement.culprits or drawn.error is not None:
        return judgement
    between = between_sides(chosen, drawn)
    return judgement if between is drawn.trace else judge(chosen, replace(drawn, trace=between), first)


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
        another = against_truth(chosen, another)
    except Exception:
        return None
    if not is_finite(another) or (another.error is not None and known.error is None):
        return None
    judgement = _beside_kinks(chosen, _own_precision(chosen, values, another, first), first)
    return (judgement,) if judgement.culprits or not all(judgement.right.values()) else ()


def _is_lowered(drawn: Draw, dtype: torch.dtype | None) -> bool:
    """Tell whether some tensor of a run fell back to a lower dtype, the code's own outputs among them."""
    outputs = [drawn.given[n] for n in drawn.trace.outputs if isinstance(drawn.given.get(n), Tensor)]
    dtypes = {t.dtype for t in (*drawn.trace.tensors.values(), *drawn.user.values(), *outputs)}
    return any(d.is_floating_point and unit(d) > unit(dtype or torch.float64) for d in dtypes)


def _raised_by_dtype(chosen: Pass, drawn: Draw, values: Mapping[str, Any]) -> bool:
    """Tell whether a backward that raised in float64 does not raise in the user's own dtype."""
    return drawn.error is not None and draw(chosen, values, None, drawn.seed).error is None


def _shown(chosen: Pass, values: Mapping[str, Any], first: Draw, seed: int) -> Draw:
    """Return the run in the dtype of the given inputs, for the table; the first draw itself if that is it."""
    if first.dtype is None or (lowest(values) == torch.float64 and not first.promote) or chosen.asked.dtype:
        return first.as_ran()
    try:
        return draw(chosen, values, None, seed, lent=not first.changed)
    except Exception:  # shown in the dtype of the verdict instead
        return first.as_ran()


def _truth(chosen: Pass, values: Mapping[str, Any], first: Draw, seed: int) -> Truth | None:
    if first.dtype == torch.float64 or first.ran is not None:
        return Truth(first.trace, seed)
    try:
        return Truth(trace(chosen, values, torch.float64, seed), seed)
    except Exception:  # this forward knows its own dtype only
        return None


def _notes(chosen: Pass, drawn: Draw, shown: Draw) -> Iterator[str]:
    own, callers = (str(lowest(d.seen.inputs)).removeprefix("torch.") for d in (drawn, shown))
    less = computed_in_less(shown) if chosen.contract == "returned" else 0.0
    if less:
        yield (
            f"The code computes in less than {callers}: its output is off by a relative {less:.1g}, which is "
            f"rounding alone. The verdict was made {'by that error' if own == callers else f'in {own}'}."
        )
    elif drawn.ran is not None:
        off = forward_error(drawn)
        yield (
            f"The code is as precise as {own} (its output is off by a relative {off:.1g}): the verdict "
            "was made there, against float64, by the error that the reference itself makes."
        )
    elif drawn.dtype is None:
        yield "The code does not run in float64, so the verdict was made in its own precision."
    if not is_finite(drawn):
        yield "The forward or autograd's own gradients are not finite for the given inputs."
