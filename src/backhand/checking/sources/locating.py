"""The lines at fault in a custom Function that is wrong, from a second check, that of its statements."""

from collections.abc import Callable
from dataclasses import replace

from backhand.checking.judging import check_pass
from backhand.checking.report import Report, Row
from backhand.checking.running.sandbox import sandbox
from backhand.checking.sources.opened import ClosedError
from backhand.checking.sources.protocol import Pass

WRONG = ("wrong", "shape", "follows")


@sandbox()
def located(report: Report, opening: Callable[[], Pass], draws: int, seed: int) -> Report:
    """Return the report on a Function with the lines at fault and their mistakes, or why there are none.

    Args:
        report: on the Function as autograd calls it; its verdict and its figures stand.
        opening: gives the pass of its statements.
        draws: of the check of these.
        seed: of the same.
    """
    try:
        chosen = opening()
    except ClosedError as closed:
        return replace(report, notes=(*report.notes, f"No line is shown of {report.title}: {closed}."))
    found = check_pass(chosen, report.title, draws=draws, seed=seed)
    rows = tuple(_with_lines(row, found[row.name]) for row in report.rows)
    if not any(row.mistake is not None for row in rows):
        return report
    return replace(report, rows=rows, sheet=found.sheet)


def _with_lines(row: Row, found: Row) -> Row:
    if row.mistake is None or found.verdict not in WRONG:
        return row
    told = found.mistake is None or found.mistake.kind != "unexplained"
    return replace(
        row,
        verdict=found.verdict,
        lines=found.lines,
        forward_line=found.forward_line,
        used_by=found.used_by,
        mistake=found.mistake if told else row.mistake,
    )
