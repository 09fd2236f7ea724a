"""A report as text: the culprits in words first, then every tensor in a table."""

import io
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from backhand.checking.meanings import VERDICTS
from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Line, Report, Row
from backhand.checking.running.names import MISSPELT, nearest, root
from backhand.checking.sources.batches import Checked
from backhand.rendering.harmless import harmless
from backhand.showing import plain

FACTS = ("exact", "approximate", "maxdiff", "error")
COLUMNS = ("gradient", "verdict", "shape", *FACTS)
# Of a list's gradients that are no news, more than so many are told in one row.
TURNS = 4
STATES = {"right": "bold green", "wrong": "bold red", "nothing wrong so far": "bold magenta"}


def as_text(report: Report, *, colour: bool | None = None, width: int | None = None) -> str:
    """Return the report as text.

    Args:
        report: what to show.
        colour: with terminal colours; by default only if standard output is a terminal and NO_COLOR unset.
        width: where lines are broken; by default at the terminal's width, and nowhere in a file.
    """
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    if colour is None:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    report = harmless(replace(report, sheet=None))
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width or 110,
        force_terminal=colour,
        force_jupyter=False,
        no_color=not colour,
        highlight=False,
        soft_wrap=width is None,
    )
    console.print(Text(headline(report), style=STATES[state(report)]))
    for text in _words(report):
        console.print(text)
    console.print()
    console.print(_table(report))
    for note in footnotes(report):
        console.print(Text(note, style="dim"))
    return stream.getvalue().rstrip("\n")


def headline(report: Report) -> str:
    """Return what was checked, and in a few words how it is."""
    judged = [r for r in report.rows if not VERDICTS[r.verdict].open]
    if state(report) == "right":
        good = sum(r.verdict == "right" for r in judged)
        agree = "1 gradient agrees" if good == 1 else f"{good} gradients agree"
        more = f", {len(judged) - good} vacuous" if len(judged) > good else ""
        return f"{report.title}: right. {agree} with {report.truth}{more}."
    counts = [(len(report.culprits), "at fault"), (len(report.stress), "failed stress check(s)")]
    counts += [(sum(r.verdict == v for r in report.rows), v) for v in ("follows", "todo")]
    counts += [(sum(r.verdict == "vacuous" for r in judged), "vacuous")] if report.ok else []
    told = ", ".join(f"{n} {what}" for n, what in counts if n)
    return f"{report.title}: {state(report)}. {told or 'the backward raised'}."


def state(report: Report) -> str:
    """Return one of `STATES`: what is only missing is not wrong, and what is no evidence is not right."""
    if report.ok and any(row.verdict == "right" for row in report.rows):
        return "right"
    return "wrong" if report.wrong else "nothing wrong so far"


def unfinished(report: Report) -> str:
    """Return in one line which cell raised first, that therefore not everything was judged, what to try."""
    first, *others = report.unfinished
    more = f" (and {len(others)} more)" if others else ""
    where = f"{first.cell or report.title}, line {first.line.number}"
    before = _number(first.cell) - 1 if first.cell else 0
    judged = [_number(row.cell) for row in report.rows if row.cell]
    stop = f", or try --stop-after {before}" if any(n <= before for n in judged) else ""
    return f"{where} raised {first.error}{more}, so not everything was judged: mend it{stop}."


def _number(cell: str) -> int:
    return int(cell.removeprefix("cell "))


def _words(report: Report) -> list[Text]:
    texts = []
    if report.raised is not None:
        line = report.raised.line
        cell = f" of {line.file}" if line is not None and any(row.cell for row in report.rows) else ""
        where = f", line {line.number}{cell}: {line.text}" if line else ""
        texts.append(Text(f"\nThe backward raised {report.raised.error}{where}", style="red"))
    texts += [_culprit(row) for row in report.culprits]
    texts += [
        Text.assemble("\n", (row.gradient, "bold magenta"), f"  {row.note}")
        for row in report.rows
        if row.verdict == "todo" and row.note
    ]
    for mistake in (*report.stress, *report.warnings):
        texts.append(Text.assemble("\n", (mistake.kind, "bold red"), f": {mistake.message}"))
        if mistake.hint:
            texts.append(Text(f"  {mistake.hint}"))
    return texts


def _culprit(row: Row) -> Text:
    text = Text.assemble("\n", (row.gradient, "bold red"))
    if row.mistake is not None:
        text.append(f"  {row.mistake.kind}", style="bold yellow")
        text.append(f"\n  {row.mistake.message}")
    elif row.note:
        text.append(f"  {row.note}")
    for line in row.lines:
        text.append(f"\n  {place(row, line):>4} | ", style="dim")
        text.append(line.text)
    if row.mistake is not None and row.mistake.hint:
        text.append(f"\n  {row.mistake.hint}")
    if row.mistake is not None and row.mistake.also:
        text.append(f"\n  {row.mistake.also}", style="dim")
    return text


def place(row: Row, line: Line) -> str:
    """Return where a line of a row stands: its number, in a notebook with its cell."""
    return f"{line.file}, line {line.number}" if row.cell else str(line.number)


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = folded(report.rows)
    cells = [row.cell for row in shown]
    for heading in (*(["cell"] if any(cells) else []), *COLUMNS):
        table.add_column(heading, no_wrap=True, justify="right" if heading in FACTS else "left")
    for i, row in enumerate(shown):
        begins = i == 0 or row.cell != cells[i - 1]
        table.add_row(
            *([(row.cell.removeprefix("cell ") or "-") if begins else ""] if any(cells) else []),
            Text(row.gradient),
            Text(row.verdict, style=VERDICTS[row.verdict].style),
            *facts(row),
            style="dim" if row.verdict in ("follows", "skipped") else "",
        )
    return table


def folded(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a table, in which the many turns of a loop that are no news are one, the worst.

    Those of one list that are all skipped, or all follow; the name says for how many the row stands.
    """
    lists: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row.verdict in ("follows", "skipped") and row.gradient != root(row.gradient):
            lists.setdefault((row.cell, root(row.gradient), row.verdict), []).append(row)
    folds = {id(row): turns for turns in lists.values() if len(turns) > TURNS for row in turns}
    found = []
    for row in rows:
        turns = folds.get(id(row), [row])
        worst = max(turns, key=lambda turn: turn.maxdiff or 0.0)
        if row is turns[0]:
            more = f" and {len(turns) - 1} more" if len(turns) > 1 else ""
            found.append(replace(worst, gradient=worst.gradient + more))
    return found


def facts(row: Row) -> tuple[str, ...]:
    """Return what the columns of the table after the verdict show."""
    shape = f"{row.got}, not {row.shape}" if row.got not in (None, row.shape) else str(row.shape)
    difference = "" if row.maxdiff is None else f"{row.maxdiff:.3g}"
    return shape, _flag(row.exact), _flag(row.approximate), difference, _times(row.multiple)


def _flag(value: bool | None) -> str:
    return "" if value is None else str(value)


def _times(multiple: float | None) -> str:
    if multiple is None:
        return ""
    return f"{multiple:.1f}x" if multiple < 1000 else f"{multiple:.0e}x"


def footnotes(report: Report) -> list[str]:
    """Return what the words and numbers of a report mean, and how it was made."""
    verdicts = {row.verdict for row in report.rows}
    notes = [f"{word}: {m.meaning}" for word, m in VERDICTS.items() if m.explained and word in verdicts]
    if any(row.multiple is not None for row in report.rows):
        notes.append("error: as a multiple of autograd's own, both against float64")
    if report.unmatched:
        notes.append(f"not judged, for there is no such tensor: {', '.join(misnamed(report))}")
    noted: dict[str, dict[str, None]] = {}  # the gradients of each note, once
    for row in report.rows:
        told_above = row.verdict in ("vacuous", "todo") or (row in report.culprits and row.mistake is None)
        if row.note and not told_above:
            noted.setdefault(row.note, {})[row.gradient] = None
    notes += [f"{listed(list(names))}: {note}" for note, names in noted.items()]
    draws = f"{report.draws} draw{'s' if report.draws != 1 else ''}"
    notes.append(f"Judged in {report.precision} on {draws}; `exact: False` on a right row is rounding.")
    return [*notes, *report.notes]


def misnamed(report: Report) -> list[str]:
    """Return the gradients of no tensor, each with the missing ones that may be meant."""
    missing = list(dict.fromkeys(row.gradient for row in report.rows if row.got is None))
    meant = {name: nearest(name, missing, MISSPELT).removeprefix("; ") for name in report.unmatched}
    return [f"{name} ({asked})" if asked else name for name, asked in meant.items()]


def line_of(checked: Checked) -> Text:
    """Return in one line what became of one of several files."""
    report = checked.report
    if report is None:
        told = f"{checked.title}: not judged. {checked.problem.removeprefix(f'{checked.title}: ')}"
    elif report.ok and report.unfinished:
        told = f"{checked.title}: not judged to its end. {unfinished(report)}"
    else:
        told = headline(replace(report, title=checked.title))
    return Text(plain(told), style=STATES.get(checked.state, "bold magenta"))


def summary(states: Counter[str]) -> str:
    """Return in one line how many were right, wrong, not complete and not judged."""
    parts = [f"{states[s]:,} {s}" for s in ("right", "wrong", "todo", "not judged") if states[s]]
    total = sum(states.values())
    return f"{total:,} checked: {', '.join(parts)}."
