"""The lines at fault in a function that is wrong: those of the custom Function, by a second check of it."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, combinations, islice
from typing import Any

from torch.autograd import Function

from backhand.checking.judging import Stress, Within, check_pass
from backhand.checking.meanings import KINDS
from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Mistake, Report, Row
from backhand.checking.running.alarms import briefly, patience
from backhand.checking.running.sandbox import sandbox, threads_for
from backhand.checking.sources.calling import ClosedError
from backhand.checking.sources.joined import lines_of
from backhand.checking.sources.protocol import Pass
from backhand.checking.sources.spoilt import Spoilt, spoilt
from backhand.checking.sources.wrapping import mended
from backhand.errors import CheckError

RIGHT = ("right", "vacuous")
WRONG = ("wrong", "shape", "follows")
# Of so many choices of Functions it is tried whether they are all that is at fault: each two of eight.
CHOICES = 36
# The part of the usual time that is taken for the line and the mistake. Of the benchmark's 79 wrong Functions
# two searches for a line took more than 0.1 s (up to 2.9 of 5), three for a name more than 0.5 s (up to
# 3.1 of 6). With half the time as many lines and names are told there.
LOOK = 0.5


@dataclass(frozen=True)
class Opening:
    """A custom Function whose statements are to be looked at.

    Attributes:
        opened: gives the pass of its statements, with `helpers` those that it calls written out; raises
            `ClosedError`.
        inputs: what goes into it.
        fn: the Function, where it is called somewhere within; None where it is all that is judged.
        made_of: which inputs of what is judged each input of that Function is made of.
    """

    opened: Callable[..., Pass]
    inputs: Mapping[str, Any]
    fn: type[Function] | None = None
    made_of: Mapping[str, Collection[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Inner:
    """What is wrong in something that is called within what is judged.

    Attributes:
        place: what tells where that is.
        made_of: which gradients of what is judged are made of each of its.
        report: on it.
    """

    place: str
    made_of: Mapping[str, Collection[str]]
    report: Report


@sandbox()
def located(report: Report, openings: Callable[[], Iterable[Opening]], draws: int, seed: int) -> Report:
    """Return the report on a function with the lines at fault and their mistakes, or why there are none.

    Args:
        report: on the function as autograd calls it; its verdict and its figures stand.
        openings: gives the Functions at fault; of one that is called several times each call.
        draws: of the check of these.
        seed: of the same.
    """
    found: dict[type[Function] | None, tuple[Opening, Report]] = {}
    closed: dict[type[Function] | None, str] = {}
    try:
        for opening in openings():
            if opening.fn in found:
                continue
            within = Within(report.stress if opening.fn is None else None)
            look = partial(_looked_at, opening, report.title, draws, seed)
            try:
                inner = look(within)
            except ClosedError as why:
                closed[opening.fn] = str(why)
                continue
            except CheckError:  # of code that runs where it is called, and not by itself
                closed[opening.fn] = "it does not run by itself"
                continue
            if any(row.mistake is not None for row in inner.rows):
                found[opening.fn] = opening, inner
            elif opening.fn is not None:
                closed[opening.fn] = _right_alone(look(None))
    except ClosedError as why:
        closed[None] = str(why)
    notes = [
        f"No line is shown of {fn.__name__ if fn is not None else report.title}: {why}."
        for fn, why in closed.items()
        if fn not in found
    ]
    if None in found:
        report = _with_lines(report, found[None][1])
    elif found:
        told = ((fn, *each) for fn, each in found.items() if fn is not None)
        within = [Inner(f"{fn.__name__}'s backward", opening.made_of, its) for fn, opening, its in told]
        report = with_lines_within(report, within)
    return replace(report, notes=(*report.notes, *notes))


def _looked_at(opening: Opening, title: str, draws: int, seed: int, stress: Stress) -> Report:
    """Return the report on a Function's statements; where no slip explains it, with its helpers as calls.

    What goes into a helper may be the slip, as in `turned(dy) * sin` for `turned(dy * sin)`.
    """
    reports = []
    for helpers in (True, False):
        with threads_for(opening.inputs):
            chosen = replace(opening.opened(helpers=helpers), elsewhere=())  # other shapes have been tried
        if helpers and (changed := spoilt(chosen, seed)) is not None:
            with briefly(0.0):
                return _told(check_pass(chosen, title, draws=draws, seed=seed, stress=stress), changed)
        with briefly(patience() * (LOOK if helpers else LOOK / 2)):
            inner = check_pass(chosen, title, draws=draws, seed=seed, stress=stress)
        reports.append(as_written(inner, chosen))
        source = chosen.backward_source
        if not _unexplained(reports[-1]) or source is None or not source.as_written:
            break
    report = min(reports, key=_unexplained)
    if isinstance(stress, Within) and any(f.kind == "ignores_upstream" for f in stress.failures or ()):
        return report  # it is in the backward that the upstream gradient is to be used
    return _in_the_forward(opening, title, draws, seed, report) or report


def _told(report: Report, changed: Spoilt) -> Report:
    """Return a report in which all is wrong for a tensor that the forward changes after it kept it."""
    first, *others = [row for row in report.rows if row.mistake is not None]
    assert first.mistake is not None
    numbers = re.search(r" Expected .*", first.mistake.message)
    words = (
        f"{first.gradient}: the forward changes {changed.name} in place after it kept it for the backward; "
        f"with what that held before all is right.{numbers[0] if numbers else ''}"
    )
    mistake = Mistake("modifies_input", words, KINDS["modifies_input"].hint, {})
    rows = {row.name: replace(row, verdict="follows", mistake=None) for row in others}
    rows[first.name] = replace(first, lines=(changed.line,), mistake=mistake)
    return replace(report, rows=tuple(rows.get(row.name, row) for row in report.rows))


def _in_the_forward(opening: Opening, title: str, draws: int, seed: int, report: Report) -> Report | None:
    """Return the report on a Function whose mistakes all stand in what its forward makes for its backward."""
    try:
        with threads_for(opening.inputs):
            chosen = replace(opening.opened(whole=True), elsewhere=())
    except ClosedError:
        return None
    with briefly(patience() * LOOK / 2):
        inner = as_written(check_pass(chosen, title, draws=draws, seed=seed, stress=Within(())), chosen)
    told = [row for row in inner.rows if row.mistake is not None]
    fn = getattr(chosen.runner, "fn", None)
    lines = lines_of(fn.forward) if fn is not None else range(0)
    if not told or not all(row.lines and row.lines[0].number in lines for row in told):
        return None
    return replace(inner, rows=tuple(_with_numbers(row, report[row.name]) for row in inner.rows))


def _with_numbers(row: Row, other: Row) -> Row:
    """Return a row whose mistake tells what was expected and found in another run."""
    if row.mistake is None or other.mistake is None:
        return row
    numbers = re.search(r" Expected .*", other.mistake.message)
    told = re.sub(r" Expected .*", lambda _: numbers[0] if numbers else "", row.mistake.message)
    return replace(row, mistake=replace(row.mistake, message=told))


def _unexplained(report: Report) -> int:
    """Return how many mistakes have no name."""
    return sum(row.mistake is not None and row.mistake.kind == "unexplained" for row in report.rows)


def as_written(inner: Report, chosen: Pass) -> Report:
    """Return a report in which the variables of a helper that is written out have the names that it has."""
    made_up = chosen.backward_source.as_written if chosen.backward_source is not None else {}
    if not made_up:
        return inner

    calls = [text for text in made_up.values() if text.endswith(")")]

    def put(text: str) -> str:
        told = re.sub(r"\b[^\W\d]\w*", lambda found: made_up.get(found[0], found[0]), text)
        for call in calls:  # what a helper returns has no name there
            told = told.replace(f"`{call} = ", "`return ")
        return told

    told = {row.name: row.mistake for row in inner.rows if row.mistake is not None}
    told = {
        n: replace(m, message=put(m.message), hint=put(m.hint), also=put(m.also)) for n, m in told.items()
    }
    return replace(inner, rows=tuple(replace(row, mistake=told.get(row.name)) for row in inner.rows))


def _right_alone(inner: Report) -> str:
    """Say that the call of a Function, looked at by itself, gives right gradients."""
    kinds = listed([failure.kind for failure in inner.stress])
    return "its call alone is right" + (f", but fails under stress: {kinds}" if kinds else "")


def at_fault(
    functions: Sequence[type[Function]], chosen: Pass, draws: int, seed: int
) -> tuple[type[Function], ...]:
    """Return the fewest Functions with whose true gradients all is right.

    Args:
        functions: that are called.
        chosen: the pass as it is judged.
        draws: of the check, of which the first will do if something is wrong there.
        seed: of the same.

    Raises:
        ClosedError: there are none, or it cannot be told.
    """
    alone = replace(chosen, usages=(), elsewhere=())
    unknown: list[ClosedError] = []

    def is_right(some: Sequence[type[Function]], draws: int) -> bool:
        with mended(some) as kept:
            try:
                report = check_pass(alone, "", draws=draws, seed=seed, stress=False)
            except CheckError:  # of a forward that does not bear to be heard
                return False
        unknown.extend(kept)
        # what has none on purpose has a true gradient
        return {row.name for row in report.rows if row.verdict not in RIGHT} <= chosen.no_gradient

    count = draws if is_right((), 1) else 1
    sizes = range(1, len(functions) + 1)
    choices = islice(chain.from_iterable(combinations(functions, size) for size in sizes), CHOICES)
    found = next((some for some in choices if is_right(some, count)), None)
    if found is not None:
        return found
    for closed in unknown:
        raise closed
    raise ClosedError(
        f"with the derivatives of the forward of {listed([fn.__name__ for fn in functions])} it is as wrong: "
        "the fault lies in what is done besides, or another gradient is given on purpose, which is to be "
        "checked by itself"
    )


def _with_lines(report: Report, inner: Report) -> Report:
    """Return the report on a Function with what that on its statements says of the same gradients."""
    rows = tuple(_with_lines_of(row, inner[row.name]) for row in report.rows)
    told = any(row.mistake is not None for row in rows)
    return replace(report, rows=rows, sheet=inner.sheet) if told else report


def _with_lines_of(row: Row, its: Row) -> Row:
    if row.mistake is None or its.verdict not in WRONG:
        return row
    return replace(
        row,
        verdict=its.verdict,
        lines=its.lines,
        forward_line=its.forward_line,
        used_by=its.used_by,
        mistake=row.mistake if _is_unexplained(its.mistake) else its.mistake,
    )


def _is_unexplained(mistake: Mistake | None) -> bool:
    return mistake is not None and mistake.kind == "unexplained"


def with_lines_within(report: Report, found: Sequence[Inner]) -> Report:
    """Return a report with the mistakes in what is called within, each at one wrong gradient.

    Those that spoil the fewest come first; a gradient that is wrong for what is told of others follows.
    """
    spoilt = [row for row in report.rows if row.mistake is not None]
    wrong = [
        (inner, row, [outer for outer in spoilt if outer.name in inner.made_of.get(row.name, ())])
        for inner in found
        for row in inner.report.rows
        if row.verdict in WRONG
    ]
    mistakes = [each for each in wrong if each[1].mistake is not None]
    rows: dict[str, Row] = {}
    notes = []
    for inner, its, outer in sorted(mistakes, key=lambda each: len(each[2])):
        free = [row for row in outer if row.name not in rows]
        if free:
            mistake = free[0].mistake if _is_unexplained(its.mistake) else None
            mistake = _within(inner, its) if mistake is None or _is_unexplained(mistake) else mistake
            rows[free[0].name] = replace(free[0], lines=its.lines, mistake=mistake)
        elif outer:
            at = f" Line {its.lines[0].number}: {its.lines[0].text}" if its.lines else ""
            notes.append(f"Wrong besides: {_within(inner, its).message}{at}")
    for row in (row for _, _, outer in wrong for row in outer):
        rows.setdefault(row.name, replace(row, verdict="follows", mistake=None))
    sheets = (inner.report.sheet for inner in found)
    backward = tuple(code for sheet in sheets if sheet is not None for code in sheet.backward)
    return replace(
        report,
        rows=tuple(rows.get(row.name, row) for row in report.rows),
        sheet=report.sheet and replace(report.sheet, backward=backward),
        notes=(*report.notes, *notes),
    )


def _within(inner: Inner, its: Row) -> Mistake:
    """Return a mistake in what is called within, told as its."""
    assert its.mistake is not None
    return replace(its.mistake, message=f"In {inner.place}, {its.mistake.message}")
