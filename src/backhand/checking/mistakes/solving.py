"""What a line needs, solved of its values instead of tried: a constant, a factor, a term, another name."""

import ast
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from backhand.checking.mistakes.budget import Budget
from backhand.checking.mistakes.edits import Edit, Place, holds_tensor
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.neighbourhood import EXACT
from backhand.checking.mistakes.workbench import Focus
from backhand.checking.running.program import Namespace
from backhand.checking.verdicts.comparing import TINY, close, constant_ratio, largest_of, root_mean_square

UNKNOWN = "__unknown__"  # a factor to be found
# What one tensor may be to a value that lacks it.
LACKING: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the factor {} is missing": torch.mul,
    "the term {} is missing": torch.add,
    "the term -{} is missing": torch.sub,
}


# Of a place in which as few tensors may stand each is tried: what it needs takes three runs to tell.
FEW = 6
# By what part of itself what is computed along a straight line may be off by rounding.
ALONG = 1e-12
# How far apart the elements are that tell a straight line: what is cut off beyond some bound is none.
FAR = 1e3


# By which operator a tensor is put beside what stands in a place; None if in its stead.
Way = type[ast.operator] | None
# Such a way and the tensor's name, by the number of the edit.
Puts = Mapping[int, tuple[Way, str]]


def first_right(focus: Focus, edits: Iterable[Edit], budget: Budget) -> tuple[Edit | None, Budget]:
    """Return the first edit that makes the value right, and what is left of the budget.

    What its values tell not to be right counts as tried.
    """
    for edit, may_be in told_by_values(focus, edits if focus.matters else ()):
        if budget.is_spent:
            break
        budget = budget.less(focus.cost)
        if may_be:
            with edit.made():
                if focus.is_right():
                    return edit, budget
    return None, budget


def told_by_values(
    focus: Focus, edits: Iterable[Edit], *, but_for_a_factor: bool = False
) -> Iterator[tuple[Edit, bool]]:
    """Yield edits, each with whether it may make the value right, by the tensor that it puts into its place.

    Of many tensors that are put into one place, or beside what stands there, most are told by their values
    not to be the one that it needs.

    Args:
        focus: the statement.
        edits: of it.
        but_for_a_factor: ask whether the value may be right but for a constant factor of what is put there.
    """
    for place, group in itertools.groupby(edits, lambda edit: edit.place):
        alike = list(group)
        yield from zip(alike, _may_be_right(focus, place, alike, but_for_a_factor), strict=True)


@dataclass(frozen=True)
class _Line:
    """The value at some elements, where it is a straight line in what stands at a place, element by element.

    Attributes:
        nothing, slope: with zeros there, and by how much it is more with ones.
        right: as it should be.
        off: by how much what is computed of this may be off.
    """

    nothing: Tensor
    slope: Tensor
    right: Tensor
    off: float

    def may_be(self, held: Tensor, but_for_a_factor: bool) -> list[bool]:
        """Tell of each row, the elements of a tensor, whether the value may be right with it there."""
        # what is masked may be infinite, which zero times would not be
        change = torch.where(self.slope == 0, 0.0, self.slope * held)
        lacking = self.right - self.nothing
        if but_for_a_factor:  # the one that the largest element tells
            at = change.abs().argmax(1, keepdim=True)
            change = change * (lacking[at] / change.gather(1, at))
        allowed = self.off + ALONG * (self.nothing.abs().max() + change.abs().amax(1))
        return ((change - lacking).abs().amax(1) <= 2 * allowed).tolist()


def _may_be_right(focus: Focus, place: Place, edits: Sequence[Edit], but_for_a_factor: bool) -> list[bool]:
    """Tell which edits of one place may make the value right; what cannot be told may."""
    put = {i: _put_by(edit) for i, edit in enumerate(edits)} if len(edits) > FEW else {}
    put = {i: (way, name) for i, (way, name) in put.items() if name in focus.staying}
    unfit = _of_another_shape(focus, place, edits, put)
    left = {i: each for i, each in put.items() if i not in unfit and each[1] in focus.some}
    unfit |= _off_the_line(focus, place, left, but_for_a_factor) if len(left) > FEW else set()
    return [i not in unfit for i in range(len(edits))]


def _of_another_shape(focus: Focus, place: Place, edits: Sequence[Edit], put: Puts) -> set[int]:
    """Return the edits after which the value has another shape, or is none: one tells of all its like."""
    alike: dict[object, list[int]] = {}
    for i, (way, name) in put.items() if place.role == "value" else ():
        held = focus.staying[name]
        alike.setdefault((way, held.shape, held.stride(), held.dtype, held.device), []).append(i)
    several = (its for its in alike.values() if len(its) > 1)
    return {i for its in several if not _has_its_shape(focus, edits[its[0]]) for i in its}


def _off_the_line(focus: Focus, place: Place, put: Puts, but_for_a_factor: bool) -> set[int]:
    """Return the edits that put a tensor into a place that, by the line of its values, needs another."""
    held, found = torch.stack(list(focus.some.values())), set[int]()
    for way, unknown, of in _ways(place.node):
        its = {i: name for i, (its_way, name) in put.items() if its_way == way}
        line = _line(focus, place, unknown) if its else None
        if line is not None:
            may_be = dict(zip(focus.some, line.may_be(of(held), but_for_a_factor), strict=True))
            found |= {i for i, name in its.items() if not may_be[name]}
    return found


def _has_its_shape(focus: Focus, edit: Edit) -> bool:
    """Tell whether the value has its shape after an edit, as with any tensor that is laid out alike."""
    with edit.made():
        value = focus.value(0)
    return value is not None and value.shape == focus.program.benches[0].expected.shape


def _put_by(edit: Edit) -> tuple[Way, str]:
    """Return the name that an edit puts into a place, or beside what stands there, and by which operator."""
    node, way = edit.node, None
    if isinstance(node, ast.BinOp) and node.left is edit.place.node:
        node, way = node.right, type(node.op)
    return way, node.id if isinstance(node, ast.Name) else ""


def _ways(node: ast.expr) -> Iterator[tuple[Way, ast.expr, Callable[[Tensor], Tensor]]]:
    """Yield the ways in which a tensor is put into a place: with the unknown one there, and what that is."""
    unknown = ast.Name(UNKNOWN, ast.Load())
    product, total = (ast.BinOp(node, op, unknown) for op in (ast.Mult(), ast.Add()))
    yield None, unknown, torch.clone
    yield ast.Mult, product, torch.clone
    yield ast.Div, product, torch.reciprocal
    yield ast.Add, total, torch.clone
    yield ast.Sub, total, torch.neg


def _line(focus: Focus, place: Place, node: ast.expr) -> _Line | None:
    """Return how the value of the first bench changes with an unknown tensor; None if by no straight line."""
    bench = focus.program.benches[0]
    right, size = bench.expected, max(largest_of(bench.expected), bench.summands)
    if right.dtype != torch.float64 or not size < math.inf:  # in less more passes as right
        return None
    drawn = torch.randn(right.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = (FAR * drawn).to(right)
    with Edit(place, node, Finding("")).made():
        made = [
            focus.value(0, **{UNKNOWN: t}) for t in (torch.zeros_like(right), torch.ones_like(right), apart)
        ]
    values = [value for value in made if value is not None and value.shape == right.shape]
    if len(values) < len(made) or any(value.dtype != right.dtype for value in values):
        return None
    nothing, slope = values[0], values[1] - values[0]
    if not close(values[2], nothing + slope * apart):
        return None
    nothing, slope, right = (t[focus.at].flatten() for t in (nothing, slope, right))
    rounding = bench.rounding / max(root_mean_square(bench.expected), TINY)
    return _Line(nothing, slope, right, (EXACT + 2 * rounding) * size)  # no less than `close` allows


def is_a_multiple(focus: Focus) -> bool:
    """Tell whether the value is a multiple of the right one on every bench: no other slip is in the line."""
    return _factor(focus, focus.value) is not None


def lacks(focus: Focus, put: object = None) -> str | None:
    """Return in words what the value lacks on every bench: a constant, a factor or a term.

    It is not the tensor that an edit has put there: that would take it back.
    """
    value_on = cache(focus.value)
    k = _factor(focus, value_on)
    if k is not None and abs(k - 1) > EXACT:
        return f"it is {k:.6g} times what it should be"
    benches, first = focus.program.benches, value_on(0)
    if first is None or first.shape != benches[0].expected.shape:
        return None
    for words, lacking in LACKING.items():
        for name in _giving(focus, lacking, first):
            values = map(value_on, range(len(benches)))
            pairs = [(v, b.expected) for v, b in zip(values, benches, strict=True) if v is not None]
            if len(pairs) < len(benches) or any(value.shape != right.shape for value, right in pairs):
                return None
            others = (_read(name, b.namespace) for b in benches)
            made = [(lacking(v, o), r) for o, (v, r) in zip(others, pairs, strict=True) if o is not None]
            if name != put and len(made) == len(pairs) and all(close(*each) for each in made):
                return words.format(name)
    return None


def _read(text: str, namespace: Namespace) -> Tensor | None:
    """Return the floating-point tensor that an expression reads; None where there is none."""
    try:
        value = eval(text, dict(namespace))
    except Exception:  # the index may lie outside
        return None
    return value if holds_tensor(value) else None


def fitting(focus: Focus, place: Place) -> list[str] | None:
    """Return the tensors that give the right value of the first bench in a place; None if all may.

    Where the value is a multiple of what stands there, and something besides, element by element, those
    with 0 and with 1 in that place tell it for all others.
    """
    right = focus.program.benches[0].expected
    with Edit(place, ast.Name(UNKNOWN, ast.Load()), Finding("")).made():
        made = [focus.value(0, **{UNKNOWN: torch.full_like(right, k)}) for k in (0.0, 1.0, 2.0)]
    nothing, once, twice = made
    if nothing is None or once is None or twice is None or nothing.shape != right.shape:
        return None
    if once.shape != right.shape or twice.shape != right.shape or not close(twice, 2 * once - nothing):
        return None
    return _giving(focus, torch.addcmul, nothing, once - nothing)


def constant(focus: Focus) -> float | None:
    """Return what UNKNOWN must be, from the values with 1 and with 2 there, if it holds everywhere."""
    expected = focus.program.benches[0].expected
    once, twice = (focus.value(0, **{UNKNOWN: k}) for k in (1.0, 2.0))
    if once is None or twice is None or once.shape != expected.shape or twice.shape != once.shape:
        return None
    more = constant_ratio(expected - once, twice - once)
    if more is None or more == 0:
        return None
    k = float(round(1 + more)) if abs(1 + more - round(1 + more)) < EXACT else 1 + more
    return k if focus.is_right(**{UNKNOWN: k}) else None


def _factor(focus: Focus, value_on: Callable[[int], Tensor | None]) -> float | None:
    """Return by what constant the value is off, the same on every bench; None if it is by more."""
    found: float | None = None
    for i, bench in enumerate(focus.program.benches):
        value = value_on(i)
        if value is None or value.shape != bench.expected.shape or value.numel() < 2:
            return None
        if not bool(value.any() or bench.expected.any()):
            continue  # any factor of zeros is as good
        k = constant_ratio(value, bench.expected)
        if not k or not math.isfinite(k) or (found is not None and abs(k - found) > EXACT * abs(found)):
            return None
        if not close(value, k * bench.expected, abs(k) * bench.summands):
            return None
        found = k
    return found


def _giving(focus: Focus, made: Callable[..., Tensor], *values: Tensor) -> list[str]:
    """Return the tensors of which, beside some values, something makes the right value of the first bench."""
    right = focus.program.benches[0].expected
    if not focus.some or not right.numel():
        return []
    allowed = EXACT * float(right.abs().max())
    # some elements tell of most tensors, all at once
    few, held = [v[focus.at].flatten() for v in values], torch.stack(list(focus.some.values()))
    off = (made(*few, held) - right[focus.at].flatten()).abs().amax(1)
    near = [n for n, is_near in zip(focus.some, (off <= allowed).tolist(), strict=True) if is_near]
    made_of = {n: made(*values, focus.fitting[n].expand_as(right)) for n in near}
    return [n for n, value in made_of.items() if float((value - right).abs().max()) <= allowed]
