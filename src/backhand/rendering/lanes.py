"""The flow as lanes beside the rows: an arc leaves the row of a tensor and ends at the row that uses it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["plain", "follows", "missing"]


@dataclass(frozen=True)
class Arc:
    """From one tensor to one that is made from it, by name."""

    source: str
    target: str
    state: State = "plain"


@dataclass(frozen=True)
class Segment:
    """What one row shows of an arc: where it begins, ends or passes by; lane 0 is next to the code."""

    part: Literal["begin", "pass", "end"]
    lane: int
    arc: Arc


def segments(arcs: Sequence[Arc], place: Mapping[str, int], rows: int) -> tuple[list[list[Segment]], int]:
    """Return for each row what it shows, and how many lanes there are.

    Args:
        arcs: those whose ends are not both in `place` are left out.
        place: the row of each tensor.
        rows: how many rows there are.
    """
    shown: list[list[Segment]] = [[] for _ in range(rows)]
    taken: list[list[tuple[int, int]]] = []
    spans = [(place[a.source], place[a.target], a) for a in arcs if a.source in place and a.target in place]
    for begin, end, arc in sorted(spans, key=lambda s: (abs(s[1] - s[0]), s[0])):
        top, bottom = min(begin, end), max(begin, end)
        if top == bottom:
            continue
        lane = _free_lane(taken, top, bottom)
        shown[top].append(Segment("begin", lane, arc))
        for row in range(top + 1, bottom):
            shown[row].append(Segment("pass", lane, arc))
        shown[bottom].append(Segment("end", lane, arc))
    return shown, len(taken)


def _free_lane(taken: list[list[tuple[int, int]]], top: int, bottom: int) -> int:
    """Return the first lane that is free between two rows, and take it."""
    for lane, spans in enumerate(taken):
        if all(bottom <= other_top or top >= other_bottom for other_top, other_bottom in spans):
            spans.append((top, bottom))
            return lane
    taken.append([(top, bottom)])
    return len(taken) - 1
