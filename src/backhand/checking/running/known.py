"""Known tensors: sequences, one for each turn of the forward's loop, told by their signatures."""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from backhand.checking.running.complexes import as_reals
from backhand.checking.running.containers import is_strided

Kind = Literal["result", "operand", "part", "input", "value", "nothing", "sum", "number"]
# Gates that lie in one tensor are four at most; a batch is no part of this kind.
PARTS = 4
# Two tensors are taken for one if their random projections agree to this part; rounding is far below.
ALIKE = 1e-9


@dataclass(frozen=True)
class Label:
    """What a known tensor is.

    Attributes:
        kind: the gradient of an operation's `result`, what it sends back to an `operand`, the sum of some
            of those (`part`), the gradient of an `input` of the forward, a `value` of the forward itself,
            `nothing`, the zeros with which a sum begins, such a `sum` turn by turn, in a loop's own order, or
            a `number` by which several gradients are off.
        operations: of the forward, each with the statement in which it stands, where that is known.
        name: of the input.
    """

    kind: Kind
    operations: tuple[tuple[ast.stmt | None, str], ...] = ()
    name: str = ""


@dataclass(frozen=True, eq=False)
class Known:
    """A sequence of tensors, one for each turn of the forward's loop; a single one outside of loops.

    Attributes:
        labels: what they are, under all names.
        values: the latest first.
        signatures: of the values, see `signature`.
        turns: in which turn of the forward each was made, counted from 0.
        ages: when in the forward, in operations.
        of: the tensors of which they are the gradient, or a part of it.
    """

    labels: tuple[Label, ...]
    values: tuple[Tensor, ...]
    signatures: tuple[float, ...]
    turns: tuple[int, ...]
    ages: tuple[int, ...]
    of: frozenset[Any]

    @property
    def label(self) -> Label:
        """What they are."""
        return self.labels[0]

    @property
    def is_value(self) -> bool:
        """Whether they are values of the forward, and no gradients."""
        return self.label.kind == "value"

    @property
    def shape(self) -> torch.Size:
        """The shape of the values; of the latest, where they are the pieces of something."""
        return self.values[0].shape

    @cached_property
    def shapes(self) -> frozenset[torch.Size]:
        """The shapes of the values: the last piece of something may be a smaller one."""
        return frozenset(value.shape for value in self.values)

    def agrees(self, turn: int, shape: torch.Size, sign: float) -> bool:
        """Tell whether a tensor with this shape and signature is the one of a turn."""
        if turn >= len(self.values) or self.values[turn].shape != shape:
            return False
        return alike(sign, self.signatures[turn], self.values[turn].numel())

    def is_near(self, other: "Known") -> bool:
        """Tell whether one is made of the other by one operation, or both are parts of one gradient."""
        if not self.of.isdisjoint(other.of):
            return True
        steps = {(label.kind, label.operations) for label in other.labels if len(label.operations) == 1}
        return any(
            (kind, label.operations) in steps
            for label in self.labels
            for kind in ("result", "operand")
            if label.kind != kind and len(label.operations) == 1
        )

    def times(self, factor: float) -> "Known":
        """Return the same, each multiplied by a number."""
        values = tuple(value * factor for value in self.values)
        return replace(self, values=values, signatures=tuple(sign * factor for sign in self.signatures))


def nothing(shape: torch.Size, like: Tensor) -> Known:
    """Return the zeros of a shape with which a sum begins, in the dtype and on the device of a tensor."""
    zeros = like.new_zeros(shape)
    return Known((Label("nothing"),), (zeros,), (0.0,), (0,), (0,), frozenset())


def number(value: float) -> Known:
    """Return a number as what belongs where a statement gives one."""
    tensor = torch.tensor(value, dtype=torch.float64)
    return Known((Label("number"),), (tensor,), (signature(tensor),), (0,), (0,), frozenset())


def signature(tensor: Tensor) -> float:
    """Return a random projection of a tensor: equal for equal tensors, and for no others but by chance."""
    flat = as_reals(tensor.detach()).reshape(-1)
    if flat.dtype != torch.float64 or not flat.is_cpu:  # to ask takes as long as the product
        flat = flat.to("cpu", torch.float64)
    return float(flat @ _direction(flat.numel()))


def alike(a: float, b: float, elements: int) -> bool:
    """Tell whether two signatures are those of one tensor, computed in different orders.

    One with infinities, as of a mask, is like no other.
    """
    return math.isfinite(a - b) and abs(a - b) <= ALIKE * (abs(a) + abs(b)) + 1e-13 * elements**0.5


@lru_cache(maxsize=128)
def _direction(elements: int) -> Tensor:
    generator = torch.Generator().manual_seed(elements)
    return torch.randn(elements, generator=generator, dtype=torch.float64)


def may_stand_for(shape: torch.Size, known: torch.Size) -> bool:
    """Tell whether a tensor may have been made for one of another shape: reshaped, or not reduced."""
    if shape.numel() == known.numel():
        return True
    small, large = sorted((shape, known), key=lambda s: s.numel())
    return all(a in (1, b) for a, b in zip(reversed(small), reversed(large), strict=False))


def parts(known: Known, shape: torch.Size) -> list[Known]:
    """Return the equal parts, along one axis, of this shape into which a sequence can be cut."""
    if len(known.shape) != len(shape):
        return []
    differ = [axis for axis, (a, b) in enumerate(zip(known.shape, shape, strict=True)) if a != b]
    if len(differ) != 1 or not shape[differ[0]] or known.shape[differ[0]] % shape[differ[0]]:
        return []
    axis, size = differ[0], shape[differ[0]]
    cut = [value.split(size, axis) for value in known.values if value.shape == known.shape]
    if len(cut) < len(known.values) or len(cut[0]) > PARTS:
        return []
    return [
        replace(known, values=own, signatures=tuple(map(signature, own))) for own in zip(*cut, strict=True)
    ]


def along_time(known: Known, shape: torch.Size, turns: int) -> list[Known]:
    """Return the sequences into which a tensor falls along an axis of so many, each item of this shape.

    A loop fills a tensor step by step whose steps the forward has never held, such as a layer's product with
    all of its inputs at once.
    """
    value = known.values[0]
    if len(known.values) > 1 or value.dim() != len(shape) + 1:
        return []
    axes = [
        i
        for i, n in enumerate(value.shape)
        if n == turns and (*value.shape[:i], *value.shape[i + 1 :]) == shape
    ]
    found = []
    for axis in axes:
        items = tuple(reversed(value.unbind(axis)))
        order, ages = tuple(reversed(range(turns))), known.ages * turns
        signs = tuple(map(signature, items))
        found.append(replace(known, values=items, signatures=signs, turns=order, ages=ages))
    return found


@dataclass(frozen=True)
class Seen:
    """A tensor that was seen: how late in the forward its operation ran, and in which turn."""

    age: int
    turn: int
    value: Tensor


def each_once(found: Mapping[Any, list[Seen]], labels: Mapping[Any, tuple[Label, Any]]) -> list[Known]:
    """Return the sequences, of those with the same tensors one."""
    signs: dict[int, float] = {}
    marks: dict[int, tuple[str, torch.Size]] = {}  # equal for values that are
    known: dict[tuple[Any, ...], Known] = {}
    for key, seen in found.items():
        ordered = sorted((one for one in seen if is_strided(one.value)), key=lambda one: -one.age)
        if not ordered:
            continue
        for one in ordered:
            if id(one.value) not in signs:
                signs[id(one.value)] = sign = signature(one.value)
                marks[id(one.value)] = f"{sign:.9e}", one.value.shape
        values = tuple(one.value for one in ordered)
        own = tuple(signs[id(value)] for value in values)
        mark = tuple(marks[id(value)] for value in values)
        label, of = labels[key]
        turns, ages = tuple(one.turn for one in ordered), tuple(one.age for one in ordered)
        if len({*turns}) == 1:  # the turns of a loop that is an expression, or of one within a helper
            turns = tuple(reversed(range(len(turns))))
        if mark not in known:
            known[mark] = Known((label,), values, own, turns, ages, frozenset([of]))
        else:
            same = known[mark]
            # within one statement all is one turn; as the operands of a `cat` the same are told apart
            turns = max(same.turns, turns, key=lambda its: len(set(its)))
            known[mark] = replace(same, labels=(*same.labels, label), of=same.of | {of}, turns=turns)
    return list(known.values())
