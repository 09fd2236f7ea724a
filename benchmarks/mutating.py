"""Change the backward of a pass by one slip at a time (or two), and know what should be said of it."""

import ast
import random
import types
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import chain

from changing import changes
from moving import begun_in_the_loop, moves
from pairing import two_in_a_line, two_lines
from reading import in_order, mark_of, written_by
from subject import Change, Place, Subject, backward_of, read_in


@dataclass(frozen=True)
class Mutant:
    """One changed backward.

    Attributes:
        operation: what was done.
        module: the changed pass.
        line: the changed statement.
        culprits, kinds: which gradients may be blamed, and with which kinds of mistake.
        lines: at least one line of each of these sets must be shown.
        most: how many culprits there may be.
        parts: of several mistakes at once, a module with each alone: it must be wrong by itself.
        raises: it may end in an exception, and is a slip even so.
    """

    operation: str
    module: types.ModuleType
    line: str
    culprits: frozenset[str]
    kinds: frozenset[str]
    lines: tuple[frozenset[int], ...]
    most: int = 1
    parts: tuple[types.ModuleType, ...] = ()
    raises: bool = True


def mutants_of(subject: Subject, seed: int = 0) -> Iterator[Mutant]:
    """Yield every mutant of a pass with one mistake, then those with two."""
    seen: list[Place] = []
    for block, i in subject.places():
        subject.known = subject.assigned_before(block[i])
        found = chain(
            changes(block[i], subject), moves(block, i, subject), begun_in_the_loop(block, i, subject)
        )
        for change in found:
            if not subject.blamed(block[i]) and change.culprits is None:
                continue
            if _is_bare_gradient(change, subject):
                continue  # two mistakes in one: the gradient also shares its memory then
            seen.append((block, i, change))
            yield _mutant(subject, (block, i, change))
    drawn = random.Random(f"{subject.module.__name__} {seed}")
    for made in (*two_in_a_line(subject, drawn), *two_lines(subject, seen, drawn)):
        alone = tuple(subject.changed((each,))[0] for each in made.alone)
        module, lines = subject.changed(made.changes)
        yield Mutant(
            made.operation,
            module,
            "; ".join(_text(change) for _, _, change in made.changes),
            frozenset().union(*(_culprits(subject, place) for place in made.changes)),
            frozenset().union(*(change.kinds for _, _, change in made.changes)),
            lines,
            most=len(made.alone),
            parts=alone,
            raises=False,
        )


def _mutant(subject: Subject, place: Place) -> Mutant:
    block, i, change = place
    module, lines = subject.changed((place,))
    culprits = _culprits(subject, place)
    lines = lines or _of_the_others(module, block[i])
    if change.operation == "no clone":  # and where the memory is written into
        lines += _written_in_place(backward_of(module), culprits | written_by(block[i]), min(lines[0]))
    return Mutant(
        change.operation,
        module,
        _text(change),
        culprits,
        change.kinds,
        lines,
        change.most,
        raises=change.raises,
    )


def _culprits(subject: Subject, place: Place) -> frozenset[str]:
    block, i, change = place
    return change.culprits if change.culprits is not None else subject.blamed(block[i])


def _of_the_others(module: types.ModuleType, lost: ast.stmt) -> tuple[frozenset[int], ...]:
    """Return the lines that still write what a lost statement wrote, or, where none does, read it."""
    wanted = written_by(lost)
    body = backward_of(module)
    found = {s.lineno for s in body if wanted & written_by(s)}
    found = found or {s.lineno for s in body if read_in(s) & wanted}
    return (frozenset(found),) if found else ()


def _written_in_place(body: list[ast.stmt], names: Set[str], after: int) -> tuple[frozenset[int], ...]:
    """Return the lines below one that change what one of some names holds."""
    changing = [s for s in body if isinstance(s, ast.AugAssign) and s.lineno > after]
    found = frozenset(s.lineno for s in changing if written_by(s) & names)
    return (found,) if found else ()


def _text(change: Change) -> str:
    """Return the first lines of the statements that were changed."""
    marked = [s for s in in_order(list(change.statements)) if mark_of(s) is not None]
    return "; ".join(ast.unparse(s).splitlines()[0] for s in marked or change.statements)


def _is_bare_gradient(change: Change, subject: Subject) -> bool:
    """Tell whether a gradient is all that is left on the right."""
    s = change.statements[0]
    bare = isinstance(s, ast.Assign) and isinstance(s.value, ast.Name) and s.value.id in subject.gradients
    return bare and "aliased" not in change.kinds
