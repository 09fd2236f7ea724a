"""The lines of the sheet: statements and tensors in the order of the forward, the turns of a loop as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from backhand.checking.meanings import VERDICTS
from backhand.checking.report import Code, Line, Numbers, Pictures, Report, Row, Sheet
from backhand.checking.running.names import root
from backhand.rendering.heatmaps import Picture, heat_map, largest
from backhand.rendering.lanes import STATES, Arc, Segment, State, segments

CAPTIONS = ("value", "by hand", "autograd", "difference")


@dataclass(frozen=True)
class Image:
    """One heat map."""

    caption: str
    uri: str
    text: str
    width: int
    height: int


@dataclass(frozen=True)
class Entry:
    """One line of the sheet: a statement of the forward, a tensor, its gradient; any part may be missing.

    Attributes:
        backward: the statements that make the gradient.
        lines: those and the ones that stand with them.
        same: instead of lines, the gradient whose lines make this one too, as in a list of them.
        turns: the other turns of the loop, of which this one is the worst.
    """

    code: Code | None
    name: str
    row: Row | None
    backward: tuple[Code, ...]
    images: tuple[Image, ...]
    missing: tuple[str, ...]
    numbers: Numbers | None
    feeds: tuple[str, ...]
    output: bool
    rule: str
    lines: tuple[Code, ...] = ()
    same: str = ""
    flow: tuple[Segment, ...] = ()
    turns: tuple["Entry", ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors of this line."""
        return tuple(e.name for e in (self, *self.turns) if e.name)


def entries_of(report: Report) -> tuple[list[Entry], int, list[Code]]:
    """Return the lines of the sheet from the forward's first to its last, with the flow beside them.

    With them: how many lanes the flow has, and the lines of the backward that stand nowhere.
    """
    sheet = report.sheet or Sheet((), (), (), {}, {})
    entries = [_folded(report, sheet, code, names) for code, names in _steps(report, _places(report, sheet))]
    place = {entry.name: i for i, entry in enumerate(entries) if entry.name}
    shown = {name: entry.name for entry in entries for name in entry.names}
    flow, lanes = segments(_arcs(report, sheet, shown), place, len(entries))
    lines, same, rest = _beside(sheet, entries)
    whole = [
        replace(entry, lines=lines[i], same=same[i], flow=tuple(flow[i])) for i, entry in enumerate(entries)
    ]
    return whole, lanes, rest


def _steps(
    report: Report, places: Sequence[tuple[Code | None, str]]
) -> list[tuple[Code | None, tuple[str, ...]]]:
    """Return the places with those of one loop as one: the elements of a list that the same lines make."""
    rows = {row.name: row for row in report.rows}

    def loop(place: tuple[Code | None, str]) -> object:
        name = place[1]
        row = rows.get(name)
        if row is None or root(name) == name:
            return name or place
        return root(name), row.forward_line and _key(row.forward_line), frozenset(map(_key, row.lines))

    found = []
    for _, group in groupby(places, loop):
        codes, names = zip(*group, strict=True)
        found.append((codes[0], tuple(names)))
    return found


def _folded(report: Report, sheet: Sheet, code: Code | None, names: tuple[str, ...]) -> Entry:
    """Return the turns of a loop as one line that shows the worst of them."""
    entries = [_entry(report, sheet, None, name) for name in names]
    worst = max(entries, key=_badness) if len(entries) > 1 else entries[0]
    return replace(worst, code=code, turns=tuple(e for e in entries if e is not worst))


def _badness(entry: Entry) -> tuple[bool, bool, float]:
    row = entry.row
    if row is None:
        return False, False, 0.0
    verdict = VERDICTS[row.verdict]
    return verdict.at_fault, verdict.spoilt, row.maxdiff or 0.0


def _beside(sheet: Sheet, entries: Sequence[Entry]) -> tuple[list[tuple[Code, ...]], list[str], list[Code]]:
    """Return which lines of the backward stand beside which entry; elements of one list share theirs.

    A line that makes no gradient, such as the head of a loop, stands with the next one that does.
    """
    first: dict[tuple[str, tuple[Code, ...]], str] = {}
    beside, same = [], []
    for entry in entries:
        gradient = entry.row.gradient if entry.row is not None else ""
        other = first.setdefault((root(entry.name), entry.backward), gradient) if entry.backward else gradient
        same.append("" if other == gradient else other)
        beside.append([] if other != gradient else list(entry.backward))
    owner = {_key(code): i for i in reversed(range(len(entries))) for code in beside[i]}
    order = {_key(code): i for i, code in enumerate(sheet.backward)}
    waiting: list[Code] = []
    for code in sheet.backward:
        if _key(code) not in owner:
            waiting.append(code)
        else:
            beside[owner[_key(code)]] += waiting
            waiting = []
    lines = [tuple(sorted(codes, key=lambda c: order.get(_key(c), 0))) for codes in beside]
    return lines, same, waiting


def _key(code: Code | Line) -> tuple[str | None, int]:
    """Return where a line stands."""
    return code.file, code.number


def _places(report: Report, sheet: Sheet) -> list[tuple[Code | None, str]]:
    """Return statements and tensors in the order of the forward; an input stands before its first use."""
    made: dict[tuple[str | None, int], list[str]] = {}
    before: dict[tuple[str | None, int], list[str]] = {}
    rows = {row.name: row for row in reversed(report.rows)}
    known = {_key(c) for c in sheet.forward}
    loose = []
    for name, row in rows.items():
        line = row.forward_line
        if line is not None and _key(line) in known:
            made.setdefault(_key(line), []).append(name)
        elif used := [u for u in row.used_by if _key(u) in known]:
            before.setdefault(_key(used[0]), []).append(name)
        else:
            loose.append(name)
    places: list[tuple[Code | None, str]] = [(None, name) for name in loose]
    for code in sheet.forward:
        key = _key(code)
        places += [(None, name) for name in before.get(key, ())]
        names = made.get(key) or [_output(sheet, code)]
        places += [(code if i == 0 else None, name) for i, name in enumerate(names)]
    return places


def _output(sheet: Sheet, code: Code) -> str:
    """Return the output that a statement assigns, if it does."""
    target = code.text.split("=", 1)[0].strip()
    return target if target in sheet.outputs else ""


def _entry(report: Report, sheet: Sheet, code: Code | None, name: str) -> Entry:
    row = report[name] if any(r.name == name for r in report.rows) else None
    mistake = row.mistake if row is not None else None
    missing = ()
    if mistake is not None and mistake.kind in ("missing_branch", "overwritten"):
        missing = tuple(str(b) for b in mistake.detail.get("branches") or ())
    return Entry(
        code=code,
        name=name,
        row=row,
        backward=_statements(sheet, row.lines) if row is not None else (),
        images=_images(row, sheet.pictures.get(name)) if row is not None else (),
        missing=missing,
        numbers=sheet.pictures[name].numbers if name in sheet.pictures else None,
        feeds=tuple(sheet.feeds.get(name, ())),
        output=bool(name) and name in sheet.outputs,
        rule=report.explain(name) if row is not None and row.used_by else "",
    )


def _statements(sheet: Sheet, lines: tuple[Line, ...]) -> tuple[Code, ...]:
    """Return the whole statements that begin on some lines."""
    known = {_key(c): c for c in sheet.backward}
    return tuple(known.get(_key(line)) or Code(line.number, line.text, 0, line.file) for line in lines)


def _arcs(report: Report, sheet: Sheet, shown: Mapping[str, str]) -> list[Arc]:
    """Return an arc for each use of a tensor, with what becomes of the gradient that it sends back.

    Args:
        report, sheet: whose.
        shown: the tensor that stands for each, as one turn of a loop does for the others; their arcs are one.
    """
    rows = {row.name: row for row in report.rows}
    found: dict[tuple[str, str], State] = {}
    for name, consumers in sheet.feeds.items():
        row = rows.get(name)
        mistake = row.mistake if row is not None else None
        absent = mistake.detail.get("branches") or () if mistake and mistake.kind == "missing_branch" else ()
        for consumer in consumers:
            state: State = "plain"
            if consumer in absent:
                state = "missing"
            elif consumer in rows and VERDICTS[rows[consumer].verdict].spoilt:
                state = "follows"
            ends = shown.get(name, name), shown.get(consumer, consumer)
            if STATES.index(state) >= STATES.index(found.get(ends, "plain")):
                found[ends] = state
    return [Arc(*ends, state) for ends, state in found.items()]


def _images(row: Row, pictures: Pictures | None) -> tuple[Image, ...]:
    if pictures is None:
        return ()
    scale = largest(pictures.autograd, None if row.verdict == "vacuous" else pictures.hand)
    if row.verdict == "vacuous":
        scale = float("inf")  # rounding: nothing to see
    shown = (
        (pictures.value, largest(pictures.value)),
        (pictures.hand, scale),
        (pictures.autograd, scale),
        (pictures.difference, scale if row.verdict in ("right", "vacuous") else largest(pictures.difference)),
    )
    return tuple(
        _image(caption, root(row.name), picture, its_scale)
        for caption, (picture, its_scale) in zip(CAPTIONS, shown, strict=True)
        if picture is not None
    )


def _image(caption: str, name: str, picture: Picture, scale: float) -> Image:
    text = f"{caption} of {name}: largest size {largest(picture):.3g}"
    return Image(caption, heat_map(picture, scale), text, len(picture[0]), len(picture))
