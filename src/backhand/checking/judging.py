"""`check`: every gradient's verdict, from autograd's two passes and the repaired run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backhand.checking.assembling import assemble
from backhand.checking.report import Mistake, Report
from backhand.checking.running.sandbox import threads_for, warned_once
from backhand.checking.running.trials import Draw, draw, is_finite, sets_of, unmatched
from backhand.checking.sources.protocol import Inputs, Pass, by_name, resolve
from backhand.checking.stressing import stress_pass, untold
from backhand.checking.verdicts.cancelling import with_cancelling
from backhand.checking.verdicts.localising import Judgement, judge
from backhand.errors import CheckError, in_short


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
    return check_resolved(chosen, title, draws=draws, seed=seed, stress=stress)


@warned_once()
def check_resolved(chosen: Pass, title: str, *, draws: int, seed: int, stress: bool | None = None) -> Report:
    """Check a pass whose parts are known already; see `check`."""
    drawn = sets_of(chosen.inputs, by_name, draws, seed)
    with threads_for(drawn[0]):
        judged, count, notes = _in_float64(chosen, drawn, seed)
        shown = _in_user_dtype(chosen, drawn[0], judged[0], seed)
        failures = ()
        if stress or (stress is None and chosen.out):
            failures = stress_pass(chosen, shown, judged)
        failures += tuple(_refused(judged[0]))
        return assemble(chosen, title, judged, count, shown, failures, notes, unmatched(judged[0].draw))


def _refused(judgement: Judgement) -> list[Mistake]:
    """Refuse a check in a lower dtype that cannot tell a single gradient from zero."""
    told = [n for n in judgement.draw.user if n not in judgement.vacuous]
    return [] if told or judgement.draw.dtype == torch.float64 else untold(judgement, ())


def _in_float64(
    chosen: Pass, drawn: list[dict[str, Any]], seed: int
) -> tuple[list[Judgement], int, list[str]]:
    """Judge all draws in float64 if the user's code allows it, otherwise in the user's own dtype.

    Returns the judgement on the first draw and on those that show something wrong (the others are let go of,
    for memory that is used again at once is quick memory), the number of draws, and notes.
    """
    notes: list[str] = []
    for dtype, promote in ((torch.float64, False), (torch.float64, True), (None, False)):
        try:
            first = draw(chosen, drawn[0], dtype, seed, promote=promote)
        except CheckError:
            raise
        except Exception as error:  # the user's code may raise anything
            if dtype is None:
                raise CheckError(f"forward raised {in_short(error)}") from error
            continue
        if dtype is not None and (_is_lowered(first) or _raised_by_dtype(chosen, first, drawn[0])):
            continue
        if dtype is None:
            notes.append("The code does not run in float64, so the verdict was made in its own precision.")
        judgement, count = judge(chosen, first), 1
        if chosen.backward_source is not None and not judgement.culprits and first.error is None:
            judgement = with_cancelling(chosen, judgement)
        judged = [judgement]
        if not is_finite(first):
            notes.append("The forward or autograd's own gradients are not finite for the given inputs.")
        for i, values in enumerate(drawn[1:], start=1):
            wrong = _another(chosen, values, seed + i, judged[0])
            if wrong is not None:
                count += 1
                judged += wrong
        return judged, count, notes
    raise AssertionError("unreachable")


def _another(
    chosen: Pass, values: dict[str, Any], seed: int, first: Judgement
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


def _raised_by_dtype(chosen: Pass, drawn: Draw, values: dict[str, Any]) -> bool:
    """Tell whether a backward that raised in float64 does not raise in the user's own dtype."""
    return drawn.error is not None and draw(chosen, values, None, drawn.seed).error is None


def _in_user_dtype(chosen: Pass, values: dict[str, Any], first: Judgement, seed: int) -> Draw:
    """Return the run in the dtype of the given inputs, for the table; the first draw itself if that is it."""
    if all(
        v.dtype == torch.float64 for v in values.values() if isinstance(v, Tensor) and v.is_floating_point()
    ):
        return first.draw
    try:
        return draw(chosen, values, None, seed, lent=not first.draw.changed)
    except Exception:  # shown in float64 instead
        return first.draw
