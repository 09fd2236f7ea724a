"""Two mistakes at once, in one line and in two."""

import ast
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass

from changing import within
from reading import mark
from subject import Change, Place, Subject

TWO_LINES = 20  # draws of each pass; those that would blame one gradient for both lines are left out


@dataclass(frozen=True)
class Pair:
    """Two mistakes: what is changed, and each of the mistakes alone."""

    operation: str
    changes: tuple[Place, ...]
    alone: tuple[Place, ...]


def two_in_a_line(subject: Subject, drawn: random.Random) -> Iterator[Pair]:
    """Yield up to two pairs in each statement."""
    for block, i in subject.places():
        if not subject.blamed(block[i]):
            continue
        subject.known = subject.assigned_before(block[i])
        single = [c for c in within(block[i], subject) if not c.needs and c.culprits is None]
        drawn.shuffle(single)
        texts = {ast.unparse(c.statements[0]) for c in single}
        for first in single[:1]:
            second = list(within(copy.deepcopy(first.statements[0]), subject))
            drawn.shuffle(second)
            usable = [c for c in second if _is_another(first, c, single, texts)]
            for other in usable[:2]:
                statement = (mark(copy.deepcopy(other.statements[0])),)
                operation = f"{first.operation} & {other.operation}"
                both = Change(operation, statement, first.kinds | other.kinds)
                alone = next(c for c in single if c.operation == other.operation)
                yield Pair(operation, ((block, i, both),), ((block, i, first), (block, i, alone)))


def _is_another(first: Change, second: Change, single: list[Change], texts: set[str]) -> bool:
    """Tell whether a second change of a statement does not take back or replace the first."""
    alone = any(c.operation == second.operation for c in single)
    products = first.operation[-1] == second.operation[-1] == "@"
    same = first.operation == second.operation or ast.unparse(second.statements[0]) in texts
    return alone and not products and not same and not second.needs and second.culprits is None


def two_lines(subject: Subject, seen: list[Place], drawn: random.Random) -> Iterator[Pair]:
    """Yield pairs of changes in different statements that make different gradients."""
    usable = [p for p in seen if p[2].most == p[2].span == 1 and not p[2].needs and p[2].culprits is None]
    for _ in range(TWO_LINES if len(usable) > 1 else 0):
        a, b = drawn.sample(usable, 2)
        if a[0][a[1]] is b[0][b[1]] or subject.blamed(a[0][a[1]]) & subject.blamed(b[0][b[1]]):
            continue
        second = copy.deepcopy(b[2].statements)
        for each in second:
            mark(each, 1)
        other = (b[0], b[1], Change(b[2].operation, second, b[2].kinds))
        yield Pair(f"{a[2].operation} / {b[2].operation}", (a, other), (a, b))
