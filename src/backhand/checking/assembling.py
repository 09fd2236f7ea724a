"""Put what all draws have shown together into a report: its rows, its warnings, its remarks."""

import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from backhand.checking.mistakes.evidence import Probes
from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Line, Mistake, Raised, Report, Row
from backhand.checking.running.containers import flatten
from backhand.checking.running.precision import lowest
from backhand.checking.running.trials import Draw, unmatched
from backhand.checking.sheet import sheet_of
from backhand.checking.sources.protocol import Pass
from backhand.checking.tabulating import Table, backward_order
from backhand.checking.trying import Trials
from backhand.checking.verdicts.figures import figures
from backhand.checking.verdicts.localising import Judgement
from backhand.checking.verdicts.reached import left_out
from backhand.errors import in_short

# What is not the user's own code in a traceback.
LIBRARIES = (*torch.__path__, str(Path(__file__).parents[1]))


def assemble(
    chosen: Pass, title: str, trials: Trials, failures: Sequence[Mistake], probes: Probes | None = None
) -> Report:
    """Return the report.

    Args:
        chosen: the pass.
        title: of the report.
        trials: what its runs have shown.
        failures: what failed under stress.
        probes: what asked the backward for its gradients with other upstream gradients.
    """
    first, shown = trials.judged[0], trials.shown
    table = Table(chosen, trials, probes)
    rows = tuple(table.row(name) for name in backward_order(chosen, first.draw))
    # what is yet to be written tells why it raised
    waits = first.draw.is_unfinished and any(row.verdict == "todo" for row in rows)
    return Report(
        title=title,
        rows=rows,
        stress=tuple(failures),
        warnings=_shared(chosen, first),
        unmatched=unmatched(first.draw),
        notes=(*trials.notes, *_remarks(chosen, trials.judged)),
        raised=None if waits else _raised(chosen, first.draw),
        precision=str(_precision(trials)).removeprefix("torch."),
        draws=trials.draws,
        sheet=sheet_of(
            chosen.forward_source, chosen.backward_source, first.draw.trace, shown.trace, shown.user
        ),
    )


def of_the_whole(report: Report, whole: Draw, part: Draw) -> Report:
    """Return the report on a part of large inputs, with the shapes and the table's figures of all of them."""
    facts = figures(None, whole)
    tensors = whole.trace.tensors | whole.trace.unreached

    def row_of(row: Row) -> Row:
        user, its = whole.user.get(row.name), facts.get(row.name)
        return replace(
            row,
            shape=tuple(tensors[row.name].shape),
            got=None if user is None else tuple(user.shape),
            exact=its and its.exact,
            approximate=its and its.approximate,
            maxdiff=its and its.maxdiff,
        )

    large = [v for v in flatten(whole.trace.inputs).values() if isinstance(v, Tensor)]
    tried = next(v for v in flatten(part.trace.inputs).values() if isinstance(v, Tensor))
    of_which = f"{tuple(tried.shape)} of {tuple(large[0].shape)}"
    note = (
        f"Large inputs ({sum(t.numel() for t in large):,} elements): tried on a part, {of_which}; "
        f"compared once on all of them, in {str(lowest(whole.trace.inputs)).removeprefix('torch.')}."
    )
    return replace(report, rows=tuple(map(row_of, report.rows)), notes=(note, *report.notes))


def _precision(trials: Trials) -> torch.dtype:
    """Return the dtype in which the gradients were compared; the caller's own if there were none."""
    drawn = trials.judged[0].draw
    own = lowest(trials.shown.trace.inputs)
    return (drawn.dtype or own) if drawn.user else own


def _shared(chosen: Pass, judgement: Judgement) -> tuple[Mistake, ...]:
    """Warn of shared memory and of wrong upstream gradients, where the difference is below rounding."""
    found = []
    for name, alias in judgement.shared.items():
        gradient = judgement.draw.matched[name]
        line = chosen.backward_source.line(alias.statement.lineno) if chosen.backward_source else None
        cell = f" of {line.file}" if line is not None and chosen.scope is not None else ""
        where = f" (line {line.number}{cell})" if line is not None else ""
        message = f"{gradient} shares its memory with {alias.through}, through which it is changed{where}."
        hint = "The change is below rounding here, but only by luck: a copy of its own keeps the value."
        found.append(Mistake("aliased", message, hint, {"with": alias.through, "name": name}))
    for name, (used, expected) in judgement.lucky.items():
        gradient = judgement.draw.matched[name]
        message = (
            f"{gradient} is made of {used}, not of {expected}; they agree only because a branch cancels."
        )
        hint = "It is right by luck: the upstream gradient is that of the tensor that the forward line makes."
        detail = {"used": used, "expected": expected, "name": name}
        found.append(Mistake("wrong_upstream", message, hint, detail))
    return tuple(found)


def _raised(chosen: Pass, draw: Draw) -> Raised | None:
    if draw.error is None:
        return None
    source, number = chosen.backward_source, draw.error_line
    if source is not None:
        return Raised(in_short(draw.error), source.line(number) if number is not None else None)
    frames = traceback.extract_tb(draw.error.__traceback__)
    frames = [f for f in frames if not f.filename.startswith(LIBRARIES)]  # the innermost is the user's own
    line = Line(frames[-1].lineno or 0, frames[-1].line or "", frames[-1].filename) if frames else None
    return Raised(in_short(draw.error), line)


def _remarks(chosen: Pass, judged: Sequence[Judgement]) -> list[str]:
    source, drawn = chosen.forward_source, judged[0].draw
    lines = left_out(chosen, drawn) if drawn.error is None else []
    where = f"line{'s' if len(lines) > 1 else ''} {listed([str(n) for n in lines])}"
    found = [f"Not run with these inputs, and so not judged: {where} of the backward."] if lines else []
    if source is None or chosen.contract == "returned":  # names within it are not judged
        return found
    tensors = drawn.trace.tensors
    again = [n for n in tensors if "[" not in n and source.times_assigned(n) > 1]
    if again:
        found.append(f"forward assigns {', '.join(again)} more than once: the last value counts.")
    return found
