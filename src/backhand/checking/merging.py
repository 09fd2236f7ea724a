"""The reports on a script's chapters, one for each exercise, put together in one.

A chapter is checked like any other pass; here is only what a script, a notebook or a session adds: which cell
completes a gradient, what was missing of it before, and what was not judged.
"""

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace

from backhand.checking.judging import check_pass
from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Mistake, Pictures, Report, Row, Sheet, Unfinished
from backhand.checking.running.names import root
from backhand.checking.running.sandbox import sandbox
from backhand.checking.running.statements import writes_surely
from backhand.checking.sources.chapters import is_blank, reads_later, trains
from backhand.checking.sources.drafts import misspelt, without_drafts
from backhand.checking.sources.playing import Played
from backhand.checking.sources.scripts import Chapter, as_chapters
from backhand.errors import CheckError


@sandbox()
def check_played(
    played: Played,
    title: str,
    *,
    draws: int,
    seed: int,
    goes_on: bool = False,
    watch: Callable[[str], None] = lambda _: None,
) -> Report:
    """Judge every gradient where it was assigned, as often as it was.

    Args:
        played: what has run.
        title: of the report.
        draws, seed: as in `check`.
        goes_on: more may follow, so that a gradient which nothing has used yet may still be added to.
        watch: called with what is judged next.

    Raises:
        CheckError: there is nothing to check.
    """
    played = without_drafts(played)
    judged = _judged(played, title, draws, seed, watch)
    rows = [row for chapter, report in judged for row in _own_rows(played, chapter, report, goes_on)]
    # tensors that no chapter has a gradient of (left out, or still missing) are told once, at the end
    known = {row.name for row in rows}
    rest = {row.name: row for _, report in reversed(judged) for row in report.rows if row.name not in known}
    first = judged[0][1]
    unmatched = [name for _, report in judged for name in report.unmatched]
    missing = [row.gradient for row in rest.values() if row.got is None]
    unmatched += misspelt(played, missing, [root(row.gradient) for row in rows])
    notes = [note for _, report in judged for note in report.notes]
    return replace(
        first,
        rows=(*rows, *rest.values()),
        warnings=tuple({w.message: w for _, report in judged for w in report.warnings}.values()),
        unmatched=tuple(dict.fromkeys(unmatched)),
        notes=tuple(dict.fromkeys([*notes, *played.notes, *_untold(played, judged)])),
        raised=next((report.raised for _, report in judged if report.raised), None),
        unfinished=_not_judged(played, [*rows, *rest.values()]),
        draws=min(report.draws for _, report in judged),
        sheet=_sheet(judged),
    )


def _judged(
    played: Played, title: str, draws: int, seed: int, watch: Callable[[str], None]
) -> list[tuple[Chapter, Report]]:
    """Return the report on each chapter; one that cannot be judged is left out if another one can."""
    judged: list[tuple[Chapter, Report]] = []
    refused: list[CheckError] = []
    try:
        for chapter in as_chapters(played):
            watch(f"judging {played.source.place(chapter.statements[0])}")
            try:
                report = check_pass(chapter.chosen, title, draws=draws, seed=seed, stress=False)
                judged.append((chapter, report))
            except CheckError as error:  # told only if nothing at all can be judged
                refused.append(error)
    except CheckError as error:
        refused.append(error)
    if not judged:
        said = (note.removesuffix(".") for note in played.notes[:1])
        raise CheckError("; ".join([*said, str(refused[0])]))
    return judged


def _not_judged(played: Played, rows: Sequence[Row]) -> tuple[Unfinished, ...]:
    """Return the cells that ended Python, or raised before a gradient that is judged nowhere else."""
    missing = {root(row.gradient) for row in rows} - {
        root(row.gradient) for row in rows if row.verdict not in ("skipped", "todo")
    }
    told = zip(played.unfinished, played.lost, strict=True)
    return tuple(cell for cell, lost in told if lost is None or lost & missing)


def _own_rows(played: Played, chapter: Chapter, report: Report, goes_on: bool) -> list[Row]:
    """Return the rows of the gradients that a chapter's own statements assign, by the cells that do so."""
    stages = {} if goes_on else _stages(played, chapter)
    found = []
    for row in report.rows:
        variable = root(row.gradient)
        if variable not in chapter.gradients or (row.verdict == "todo" and not row.lines):
            continue
        row = replace(row, cell=_cells(played, chapter, variable)[-1])
        if _left_blank(chapter, variable):
            found.append(_blank(row))
            continue
        mistake = row.mistake
        # what something was made of is meant to be complete; until then a cell to come may add to it
        open_ = goes_on and not reads_later(chapter.statements, variable)
        if open_ and mistake is not None and mistake.kind == "missing_branch":
            row = replace(row, verdict="todo", note=f"so far: {_missing(mistake)}")
        elif row.gradient in stages and not row.note:
            row = replace(row, note=stages[row.gradient])
        found.append(row)
    order = [played.source.cell(s) for s in chapter.statements]
    return sorted(found, key=lambda row: order.index(row.cell))


def _left_blank(chapter: Chapter, variable: str) -> bool:
    own = [s for s in chapter.statements if variable in writes_surely(s)]
    return bool(own) and all(is_blank(s) for s in own)


def _blank(row: Row) -> Row:
    """Return the row of a gradient that is yet to be written; what was judged stood there for the others."""
    return replace(
        row,
        verdict="todo",
        got=None,
        exact=None,
        approximate=None,
        maxdiff=None,
        multiple=None,
        mistake=None,
        note=_as_left(row.lines[0].text) if row.lines else "still blank",
    )


def _as_left(text: str) -> str:
    """Tell a line without a value from one that is only half written, which stands for none."""
    try:
        ast.parse(text)
    except SyntaxError:
        return f"half written: {text}"
    return f"still blank: {text}"


def _cells(played: Played, chapter: Chapter, variable: str) -> list[str]:
    """Return the cells that write a variable, in order."""
    return list(
        dict.fromkeys(played.source.cell(s) for s in chapter.statements if variable in writes_surely(s))
    )


def _stages(played: Played, chapter: Chapter) -> dict[str, str]:
    """Tell what was still missing of gradients that later cells complete."""
    told: dict[str, str] = {}
    for variable in sorted(chapter.gradients):
        for cell in _cells(played, chapter, variable)[:-1]:
            for row in _as_of(played, chapter, cell).rows:
                if root(row.gradient) == variable and row.mistake and row.mistake.kind == "missing_branch":
                    told[row.gradient] = f"after {cell}, so far: {_missing(row.mistake)}"
    return told


def _as_of(played: Played, chapter: Chapter, cell: str) -> Report:
    """Return the report on a chapter as it stood after one of its cells."""
    own = [s for s in chapter.statements if played.source.cell(s) == cell]
    ran = played.ran[: played.ran.index(own[-1]) + 1]
    # the last chapter of what had run by then is the one that the cell belongs to
    before = replace(played, ran=ran, losses=tuple(loss for loss in played.losses if loss.statement in ran))
    return check_pass(as_chapters(before)[-1].chosen, cell, draws=1, seed=0, stress=False)


def _missing(mistake: Mistake) -> str:
    branches = [str(b) for b in mistake.detail.get("branches") or ()]
    return f"the branch through {listed(branches)} is missing" if branches else "a branch is missing"


def _untold(played: Played, judged: list[tuple[Chapter, Report]]) -> list[str]:
    """Say which gradients are not judged: those of training loops."""
    gradients = {g for chapter, _ in judged for g in chapter.gradients}
    loops = [s for s in played.ran if trains(s, played.loss) and writes_surely(s) & gradients]
    cells = [played.source.place(s) for s in loops]
    return [f"{cell} trains in a loop: the gradients there are not judged." for cell in cells]


def _sheet(judged: list[tuple[Chapter, Report]]) -> Sheet | None:
    """Return one sheet of all; of a tensor with several gradients it shows the one at fault, or the last."""
    sheets = [(report.sheet, {r.name for r in report.culprits}) for _, report in judged if report.sheet]
    if not sheets:
        return None
    pictures: dict[str, Pictures] = {}
    blamed: set[str] = set()
    for (chapter, report), (sheet, culprits) in zip(judged, sheets, strict=True):
        own = {r.name for r in report.rows if root(r.gradient) in chapter.gradients}
        # a later chapter's picture takes the place of an earlier one, unless that shows a fault
        pictures |= {
            k: v for k, v in sheet.pictures.items() if k not in pictures or (k in own and k not in blamed)
        }
        blamed |= culprits & own
    return Sheet(
        forward=tuple(dict.fromkeys(code for sheet, _ in sheets for code in sheet.forward)),
        backward=tuple(dict.fromkeys(code for sheet, _ in sheets for code in sheet.backward)),
        outputs=tuple(dict.fromkeys(name for sheet, _ in sheets for name in sheet.outputs)),
        feeds={name: users for sheet, _ in reversed(sheets) for name, users in sheet.feeds.items()},
        pictures=pictures,
    )
