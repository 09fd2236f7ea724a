"""A statement at fault: what it gives in some of its turns, what belongs there, and what it is made of."""

import ast
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from backhand.checking.running.arrays import is_object
from backhand.checking.running.known import Known
from backhand.checking.running.program import Namespace, Source
from backhand.checking.running.slicing import (
    begins_with_zeros,
    computes,
    makes_numbers,
    multiplies,
    sets_a_number,
)
from backhand.checking.running.statements import may_be_wrong, reads, writes_surely
from backhand.checking.verdicts.recognising import Recogniser
from backhand.checking.verdicts.shadowing import Target, event_of, is_carried

# So many turns are enough to tell what a line does; all others are alike.
BENCHES = 2
# What begins a variable and what carries it on; with more, they are no help to look at.
MAKERS = 2


@dataclass(frozen=True)
class Bench:
    """One turn of a statement.

    Attributes:
        namespace: the variables before it.
        value: what it made; None where it raised.
        expected: what belongs there.
    """

    namespace: Namespace
    value: Tensor | None
    expected: Tensor

    @property
    def tensors(self) -> int:
        """How many of the variables hold tensors."""
        return sum(isinstance(value, Tensor) for value in self.namespace.values())


@dataclass(frozen=True)
class Fault:
    """A statement that is wrong, given right upstream gradients.

    Attributes:
        target: it, and the variable that it assigns; empty where it adds to something, or puts into it.
        belongs: what autograd knows to belong there.
        taken_for: what its own value is known as, if it is known.
        benches: some of the turns in which it is wrong.
        others: one in which it is right, if there is one before.
        temporaries: the statements that make what it is made of, of what is not known to be right.
    """

    target: Target
    belongs: Known
    taken_for: tuple[Known, ...]
    benches: tuple[Bench, ...]
    others: tuple[Bench, ...] = ()
    temporaries: tuple[ast.stmt, ...] = ()

    @property
    def gives_a_number(self) -> bool:
        """Whether it gives a number, that is the same for all elements."""
        made = self.benches[0].value if self.benches else None
        return made is not None and not made.dim() and sets_a_number(self.statement)

    @property
    def statement(self) -> ast.stmt:
        """The statement; of a variable that is not carried on the one that began it."""
        return self.temporaries[0] if self.is_carried and self.temporaries else self.target[0]

    @property
    def suspects(self) -> tuple[ast.stmt, ...]:
        """The statement, below the one that makes its factor where it does nothing but multiply.

        Of a local derivative nothing is known, right or wrong: the line that makes it does more. So does the
        one that fills what is handed on.
        """
        makers = [s for s in self.temporaries if writes_surely(s) & reads(self.statement)]
        makers = [s for s in makers if computes(s) and not begins_with_zeros(s) and not self._measures(s)]
        if self.is_carried or len(makers) != 1 or not multiplies(self.statement):
            return (self.statement,)
        return (makers[0], self.statement)

    def _measures(self, statement: ast.stmt) -> bool:
        """Tell whether a statement makes nothing but numbers, as `n = x.size(0)` does."""
        held = self.benches[0].namespace if self.benches else {}
        return makes_numbers(statement, held)

    @property
    def is_carried(self) -> bool:
        """Whether a loop should have given its variable a new value, and no statement of it is at fault."""
        return is_carried(self.target)

    @property
    def variable(self) -> str:
        """What it assigns, if it assigns a variable."""
        return self.target[1]


@dataclass(frozen=True)
class Explained:
    """Wrong gradients, in the order in which they are complete, and the statements that make them wrong."""

    gradients: tuple[str, ...]
    faults: tuple[Fault, ...]


def origins(source: Source, target: Target, variables: Namespace, recogniser: Recogniser) -> list[ast.stmt]:
    """Return the statements, in their order, that make what one reads, but for what is known.

    Of a variable that is not carried on they are those that give it a value at all. Outside of loops they
    stand above what reads it: a variable may be made in steps, the last of them by the one at fault.
    """
    written = [s for s in source.simple if may_be_wrong(s)]
    if is_carried(target):
        return [s for s in written if target[1] in writes_surely(s)]
    is_straight = target[0] in source.statements and target[0] in source.places
    found: set[ast.stmt] = set()
    left = [target[0]]
    while left:
        reader = left.pop()
        held = {n: variables.get(n) for n in reads(reader)}
        for name in (n for n, value in held.items() if not is_object(value) and not callable(value)):
            makers = {s for s in written if name in writes_surely(s)}
            if is_straight:
                makers = {s for s in makers if source.places[s] < source.places[reader]}
            is_known = _is_known(variables.get(name), recogniser)
            is_counter = len(makers) > 1 and isinstance(variables.get(name), int)
            is_few = is_straight or (len(makers) <= MAKERS and target[0] not in makers)
            if is_few and not is_known and not is_counter:
                left += makers - found
                found |= makers
    return sorted(found, key=lambda s: source.places[s])


def _is_known(value: Any, recogniser: Recogniser) -> bool:
    """Tell whether a tensor is known, or each of several: the inputs with which a forward is run again."""
    if isinstance(value, list | tuple):
        return bool(value) and all(
            isinstance(v, Tensor)
            and (_is_known(v, recogniser) or recogniser.is_of_the_forward(event_of(0, v)))
            for v in value
        )
    event = event_of(0, value)
    return event.sign != 0 and recogniser.is_known(event)
