"""`check_function`: a custom autograd Function, or any differentiable callable, against a plain reference."""

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backhand.checking.figures import Figures, figures
from backhand.checking.meanings import KINDS
from backhand.checking.mistakes.evidence import Case
from backhand.checking.mistakes.hypotheses import name_mistake
from backhand.checking.mistakes.reading import mixing
from backhand.checking.mistakes.wording import in_words
from backhand.checking.report import Line, Mistake, Raised, Report, Row, Verdict
from backhand.checking.running.precision import lowest
from backhand.checking.running.sandbox import sandbox, threads_for
from backhand.checking.running.trials import Draw, sets_of
from backhand.checking.sheet import sheet_of
from backhand.checking.sources.calling import Subject, gradients
from backhand.checking.sources.protocol import Pass
from backhand.checking.stressing import Probe, stress, untold
from backhand.checking.verdicts.comparing import largest_difference
from backhand.checking.verdicts.localising import Judgement, blame, compared, vacuity
from backhand.checking.verdicts.rounding import Summands
from backhand.errors import CheckError, in_short

# How many times the reference's own error a function may make in the dtype of its inputs.
BUDGET = 8.0
# An unexplained error below this part of the gradient is a loss of precision, not a wrong formula.
COARSE = 2e-2


def check_function(
    fn: Any,
    reference: Callable[..., Any],
    inputs: Mapping[str, Any] | Sequence[Any] | Callable[[torch.Generator], Any],
    *,
    draws: int = 3,
    seed: int = 0,
) -> Report:
    """Compare a function that has its own backward with a plain reference that autograd differentiates.

    The upstream gradient is drawn at random. Besides the gradient of every input: linearity in the upstream
    gradient, transposed, strided, expanded and offset tensors, tensors changed in place, repeated runs,
    dtypes and the error in the inputs' own dtype against the reference's.

    Args:
        fn: a subclass of `torch.autograd.Function`, or a callable.
        reference: a callable of the same arguments, in plain torch operations.
        inputs: the arguments, by the reference's parameter names or in order, or a function that draws them.
        draws: how many independent sets of inputs to try.
        seed: of the draws and the upstream gradients.

    Returns:
        A `Report` with a row for every floating-point input.

    Raises:
        CheckError: the function raises, or gives another output than the reference.

    >>> class Double(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         return 2 * x
    ...     @staticmethod
    ...     def backward(ctx, dy):
    ...         return dy
    >>> check_function(Double, lambda x: 2 * x, {"x": torch.randn(4)})["x"].mistake.kind
    'scale'
    """
    subject = Subject(fn, reference)
    with sandbox():
        drawn = sets_of(inputs, subject.named, draws, seed)
        with threads_for(drawn[0]):
            return _checked(subject, drawn, seed)


def _checked(subject: Subject, drawn: Sequence[Mapping[str, Any]], seed: int) -> Report:
    dtype = torch.float64
    try:
        judged = [_judge(subject, values, dtype, seed + i) for i, values in enumerate(drawn)]
    except CheckError:
        raise
    except Exception:  # a kernel may know its own dtypes only
        dtype = None
        try:
            judged = [_judge(subject, values, dtype, seed + i) for i, values in enumerate(drawn)]
        except CheckError:
            raise
        except Exception as error:
            return _without_gradients(subject, drawn[0], seed, error)
    first = judged[0]
    failures = _stress(subject, first)
    shown, truth = _shown(subject, drawn[0], seed, first.draw), first.draw
    if dtype is None:
        truth = Draw(subject.right(drawn[0], torch.float64, seed), {}, {}, {}, seed, dtype=torch.float64)
    facts = figures(truth, shown)
    rows = tuple(
        _row(subject, name, judged, shown, facts.get(name), failures) for name in first.draw.trace.wanted
    )
    failures += _coarse(truth, shown, set(first.culprits))
    if dtype is None:  # refuse a tolerance that lets zeros pass for a gradient that is not zero
        failures += untold(first, Summands(truth).vacuous())
    return Report(
        title=subject.title,
        rows=rows,
        stress=tuple(failures),
        raised=_raised(first.draw.error) if first.draw.error is not None else None,
        precision=_told(dtype or lowest(drawn[0])),
        draws=len(judged),
        sheet=sheet_of(None, None, first.draw.trace, shown.trace, shown.user),
    )


def _raised(error: Exception) -> Raised:
    """Return what the backward raised, with the innermost line that is neither PyTorch's nor our own."""
    libraries = (*torch.__path__, str(Path(__file__).parents[1]))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(libraries)]
    line = Line(frames[-1].lineno or 0, frames[-1].line or "", frames[-1].filename) if frames else None
    return Raised(in_short(error), line)


def _without_gradients(subject: Subject, values: Mapping[str, Any], seed: int, error: Exception) -> Report:
    """Return the report on a backward that raises; raise `CheckError` if it is a forward that does."""
    for what, call in ((subject.title, subject.call), ("the reference", subject.reference)):
        try:
            subject.run(call, values, None, seed)
        except CheckError:
            raise
        except Exception as raised:  # the user's code may raise anything
            raise CheckError(f"{what} raised {in_short(raised)}") from raised
    wanted = subject.right(values, None, seed).wanted
    rows = tuple(Row(name, f"d{name}", "todo", tuple(values[name].shape)) for name in wanted)
    return Report(subject.title, rows, raised=_raised(error), precision=_told(lowest(values)))


def _told(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _judge(subject: Subject, values: Mapping[str, Any], dtype: torch.dtype | None, seed: int) -> Judgement:
    """Return the verdict on one draw."""
    draw = _draw(subject, values, dtype, seed)
    traced, summands = draw.trace, Summands(draw)
    right = dict.fromkeys(draw.matched, False) | compared(draw, summands)
    culprits = {
        name: blame(name, draw.user.get(name), traced.gradients[name], traced.gradients, summands[name])
        for name in draw.matched
        if not right[name]
    }
    return Judgement(draw, right, summands.vacuous(), summands, culprits)


def _draw(subject: Subject, values: Mapping[str, Any], dtype: torch.dtype | None, seed: int) -> Draw:
    """Run both functions once."""
    traced = subject.right(values, dtype, seed)
    outputs, own, refused = subject.own(values, dtype, seed)
    subject.compare_outputs(outputs, traced.outputs)
    wanted = [n for n in traced.wanted if n in traced.gradients]
    user = {name: own[name] for name in wanted if name in own}
    return Draw(traced, {}, {n: f"d{n}" for n in wanted}, user, seed, error=refused, dtype=dtype)


def _shown(subject: Subject, values: Mapping[str, Any], seed: int, judged: Draw) -> Draw:
    """Return the run in the dtype of the given inputs, for the table; the judged one itself if that is it."""
    if judged.dtype is None or lowest(values) == torch.float64:
        return judged
    try:
        return _draw(subject, values, None, seed)
    except Exception:  # shown in float64 instead
        return judged


def _probes(subject: Subject, judgement: Judgement) -> tuple[dict[str, Any], list[str], Probe, Probe]:
    """Return one draw's tensors, the upstream gradients among them, and both functions' gradients of such."""
    traced = judgement.draw.trace
    given = {k: v.detach() if isinstance(v, Tensor) else v for k, v in traced.inputs.items()}
    upstream = traced.upstream

    def probe(call: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Tensor]:
        inputs = {k: v for k, v in values.items() if k not in upstream}
        return gradients(call, inputs, {k: values[k] for k in upstream}, traced.wanted)

    return (
        {**given, **upstream},
        list(upstream),
        partial(probe, subject.call),
        partial(probe, subject.reference),
    )


def _stress(subject: Subject, judgement: Judgement) -> list[Mistake]:
    """Return the failed stress checks."""
    given, upstream, own, _ = _probes(subject, judgement)
    sizes = {f"d{n}": judgement.summands.get(n, 0.0) for n in judgement.draw.trace.wanted}
    return stress(own, given, upstream, sizes)


def _coarse(truth: Draw, shown: Draw, wrong: set[str]) -> list[Mistake]:
    """Return right gradients whose error in the inputs' dtype is far above the reference's."""
    dtype = lowest(shown.trace.inputs)
    if dtype == torch.float64:
        return []
    found = []
    for name, value in shown.user.items():
        if name in wrong:
            continue
        expected = truth.trace.gradients[name]
        error = largest_difference(value, expected)
        floor = torch.finfo(dtype).eps * float(expected.abs().max())
        allowed = BUDGET * max(largest_difference(shown.trace.gradients[name], expected), floor)
        if error > allowed and error < float("inf"):
            times = BUDGET * error / allowed
            message = f"d{name} is off by {error:.3g} in {dtype}: {times:.0f}x the error of the reference."
            found.append(Mistake("dtype", message, KINDS["dtype"].hint, {"multiple": times}))
    return found


def _row(
    subject: Subject,
    name: str,
    judged: Sequence[Judgement],
    shown: Draw,
    facts: Figures | None,
    failures: Sequence[Mistake],
) -> Row:
    """Return the row of one input."""
    first = judged[0]
    tensor = shown.trace.tensors.get(name, shown.trace.inputs.get(name))
    user, expected = shown.user.get(name), first.draw.trace.gradients.get(name)
    wrong = [j for j in judged if name in j.culprits]
    verdict: Verdict = "vacuous" if expected is None or name in first.vacuous else "right"
    if wrong:
        verdict = "shape" if all(j.culprits[name].shape_only for j in wrong) else "wrong"
    return Row(
        name=name,
        gradient=f"d{name}",
        verdict=verdict,
        shape=tuple(tensor.shape) if isinstance(tensor, Tensor) else (),
        got=tuple(user.shape) if user is not None else None,
        dtype=_told(user.dtype) if user is not None else "",
        exact=facts and facts.exact,
        approximate=facts and facts.approximate,
        maxdiff=facts and facts.maxdiff,
        multiple=facts and facts.multiple,
        mistake=_mistake(subject, name, wrong, failures) if wrong else None,
        note=vacuity(first) if verdict == "vacuous" else "",
    )


def _mistake(subject: Subject, name: str, wrong: Sequence[Judgement], failures: Sequence[Mistake]) -> Mistake:
    """Return the mistake: what reproduces the gradient, else what the backward does to its upstream gradient.

    That it ignores some of it, gives another answer each time, or sees other rows than it should.
    """
    chosen = Pass(subject.reference, subject.call, {}, ("y",), {}, None, frozenset(), None, None)
    found = name_mistake(chosen, name, wrong)
    culprit = wrong[0].culprits[name]
    if found.kind != "unexplained" or culprit.value is None:
        return found
    for failure in failures:
        if f"d{name}" in failure.detail.get("gradients", ()):
            return replace(failure, message=f"d{name}: {failure.message}")
    relative = largest_difference(culprit.value, culprit.expected) / float(culprit.expected.abs().max())
    if relative <= COARSE:
        message = (
            f"d{name}: right to a relative {relative:.1g} only, as if part of it were computed coarsely."
        )
        return Mistake("dtype", message, KINDS["dtype"].hint, {"relative": relative})
    given, upstream, own, right = _probes(subject, wrong[0])
    for arriving in upstream if not failures else ():
        if given[arriving].shape == culprit.expected.shape:
            mixed = mixing(own, right, given, arriving, f"d{name}")
            if mixed is not None:
                return in_words(Case(chosen, name, tuple(wrong)), mixed)
    return found
