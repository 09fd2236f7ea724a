"""Name what is right in float64 and lost in the user's own dtype: precision, or being finite."""

from collections.abc import Mapping, Sequence
from typing import Any

from backhand.checking.meanings import KINDS
from backhand.checking.mistakes.hypotheses import Named
from backhand.checking.report import Mistake
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.figures import Figures
from backhand.checking.verdicts.localising import Judgement
from backhand.checking.verdicts.lowering import Loss, Measure, lost_by_themselves, may_have_lost
from backhand.checking.verdicts.rounding import Truth
from backhand.checking.verdicts.truths import overflow
from backhand.errors import in_short


def imprecise(
    chosen: Pass, first: Judgement, shown: Draw, measure: Measure, figures: Mapping[str, Figures]
) -> dict[str, Loss]:
    """Return the gradients that have lost precision, by their own lines or by those of another gradient.

    Args:
        chosen: the pass.
        first: the verdict on the first run, in float64 if the code runs there.
        shown: the run in the user's dtype.
        measure: what their precision is measured by.
        figures: those of the table.
    """
    multiples = {n: facts.multiple for n, facts in figures.items()}
    # of one that is not judged nothing can be made to be blamed either
    judged = [n for n in shown.user if n not in first.ambiguous]
    suspects = [n for n in judged if may_have_lost(first.draw, shown, n, multiples.get(n))]
    found = measure.losses(suspects) if suspects else {}
    return {n: loss for n, loss in found.items() if _counts(chosen, loss)}


def _counts(chosen: Pass, loss: Loss) -> bool:
    """Tell whether a loss is a mistake: what is returned, or compared as was asked, has another budget."""
    budgeted = chosen.contract == "returned" or chosen.asked.tolerance is not None
    return loss.error is not None or loss.is_of_dtype or not budgeted


def lowered(
    chosen: Pass,
    judged: Sequence[Judgement],
    shown: Draw,
    measure: Measure,
    losses: Mapping[str, Loss],
    names: Mapping[str, str],
) -> dict[str, Named]:
    """Return what is told of the gradients that have lost precision by their own lines.

    Args:
        chosen: the pass.
        judged: the verdicts in float64; what is wrong there is no question of precision.
        shown: the run in the user's dtype.
        measure: what their precision is measured by.
        losses: all that have lost it; see `imprecise`.
        names: tensor name to gradient name.
    """
    drawn = judged[0].draw
    repairs = [j.repair for j in judged if j.repair is not None]
    wrong = {n for j in judged for n in (*j.culprits, *j.followers, *j.ambiguous)} | {
        n for r in repairs for n in r.culprits
    }
    right = {n for n in losses if all(j.right.get(n, True) for j in judged)}
    if chosen.backward_source is None:
        found = {n: losses[n] for n in right - wrong if right.isdisjoint(drawn.trace.consumers(n))}
    elif losses or (shown.error is not None and drawn.error is None):
        found = lost_by_themselves(chosen, measure, drawn, losses, wrong, fails=bool(right))
    else:
        return {}
    own = {n: loss for n, loss in found.items() if _counts(chosen, loss)}
    return {n: _told(names.get(n, f"d{n}"), n, loss) for n, loss in own.items()}


def _told(gradient: str, name: str, loss: Loss) -> Named:
    facts: dict[str, Any] = {"expected": str(loss.dtype)}
    if loss.error is not None:
        message = f"{gradient}: in {loss.dtype} the line raises {in_short(loss.error)}."
    elif loss.is_of_dtype:
        message = f"{gradient} has dtype {loss.got}, but {name} has {loss.dtype}."
        facts["got"] = str(loss.got)
    else:
        times = f"{loss.times:.0f} times the error of autograd's"
        message, facts = (
            f"{gradient} is off by {times}: a part is computed in less.",
            {"multiple": loss.times},
        )
    return Named(Mistake("dtype", message, KINDS["dtype"].hint, facts), loss.statements)


def overflowed(
    judged: Sequence[Judgement],
    shown: Draw,
    truth: Truth | None,
    figures: Mapping[str, Figures],
    names: Mapping[str, str],
) -> dict[str, Named]:
    """Return what is told of the gradients that are not finite in the user's dtype where the right ones are.

    Args:
        judged: the verdicts in float64; what is wrong there is told without this.
        shown: the run in the user's dtype.
        truth: the right gradients in float64, if the forward runs there.
        figures: those of the table, which tell of most gradients that they are finite.
        names: tensor name to gradient name.
    """
    found: dict[str, Named] = {}
    if truth is None:
        return found
    for name, user in shown.user.items():
        if name in figures and figures[name].finite:
            continue
        at = overflow(user, truth.trace.gradients.get(name))
        if at is not None and all(j.right.get(name, True) for j in judged):
            gradient = names.get(name, f"d{name}")
            where = f"NaN or infinity at {list(at)} in {user.dtype}, where the right one is finite"
            hint = KINDS["nonfinite"].hint
            found[name] = Named(Mistake("nonfinite", f"{gradient}: {where}.", hint, {"origin": gradient}), ())
    return found
