"""The flow as lanes beside the rows: an arc leaves the row of a tensor and ends at the row that uses it.

Arcs from one tensor to the elements of a list, or from them to one tensor, run together in one lane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from backhand.checking.running.names import root

State = Literal["plain", "follows", "missing"]
STATES: tuple[State, ...] = ("plain", "follows", "missing")  # of arcs that are drawn as one, the last counts


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
    bundles: dict[tuple[str, str, State], list[Arc]] = {}
    for arc in arcs:
        if arc.source in place and arc.target in place and place[arc.source] != place[arc.target]:
            bundles.setdefault(_bundle(arc), []).append(arc)
    for bundle in sorted(bundles.values(), key=lambda arcs: _span(arcs, place)):
        top, bottom = _span(bundle, place)[1:]
        lane = _free_lane(taken, top, bottom)
        begins, ends = {place[arc.source] for arc in bundle}, {place[arc.target] for arc in bundle}
        for row in range(top, bottom + 1):
            if top < row < bottom:
                shown[row].append(Segment("pass", lane, bundle[0]))
            if row == top or (row in begins and row != bottom):
                shown[row].append(Segment("begin", lane, bundle[0]))
            elif row == bottom or row in ends:
                shown[row].append(Segment("end", lane, bundle[0]))
    return shown, len(taken)


def _span(arcs: Sequence[Arc], place: Mapping[str, int]) -> tuple[int, int, int]:
    """Return how far arcs reach, and from which row to which."""
    rows = [place[end] for arc in arcs for end in (arc.source, arc.target)]
    return max(rows) - min(rows), min(rows), max(rows)


def _bundle(arc: Arc) -> tuple[str, str, State]:
    """Return what arcs have in common that run together."""
    source, target = root(arc.source), root(arc.target)
    if target != arc.target:
        return arc.source, target, arc.state
    return source, arc.target, arc.state


def _free_lane(taken: list[list[tuple[int, int]]], top: int, bottom: int) -> int:
    """Return the first lane that is free between two rows, and take it."""
    for lane, spans in enumerate(taken):
        if all(bottom <= other_top or top >= other_bottom for other_top, other_bottom in spans):
            spans.append((top, bottom))
            return lane
    taken.append([(top, bottom)])
    return len(taken) - 1
