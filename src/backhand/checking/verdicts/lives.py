"""When each gradient is complete: from one fresh assignment to the last statement that adds to it."""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.statements import assigned, begins_anew, writes
from backhand.checking.verdicts.comparing import close
from backhand.checking.verdicts.variables import Variables


@dataclass(frozen=True)
class Life:
    """From a fresh assignment of a gradient to the moment when it is complete.

    Attributes:
        last: the step after which it is complete.
        place: where it lies then, as an expression over the backward's variables. It may go elsewhere from
            there: of `dh = dy @ W.T; dhs[t] = dh` it is `dh`, which may be read before it is in `dhs`.
        statements: those that made it, in the order in which they ran.
        later: the same value, complete only where it gets another name, as by `dh = dh_next`, and last where
            it comes to its own place, if it was made elsewhere.
    """

    last: int
    place: str
    statements: tuple[ast.stmt, ...]
    later: tuple["Life", ...] = ()


Lives = Mapping[str, tuple[Life, ...]]
NONE: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class _Made:
    """When, where and by which statement a tensor was made, in the version that it had then.

    Attributes:
        renamed: its life from where it got another name, if it did.
    """

    value: Any
    version: int
    step: int
    place: str
    statement: ast.stmt
    renamed: tuple[Life, ...] = ()


class Recorder(Watcher):
    """Watches a run: when is each gradient written, and by which statements.

    Args:
        variables: where the gradients lie.
        none_is_left: whether one that is left at None is complete there.
        filled: the right values of gradients that change through other names of their memory, as `dq` does by
            `for part in dq.split(4): part.add_(...)`. So they are made, unless they were right before: that
            is a mistake, and no part of a life.
    """

    def __init__(
        self, variables: Variables, *, none_is_left: bool = False, filled: Mapping[str, Tensor] = NONE
    ):
        self.variables = variables
        self._none_is_left = none_is_left
        self._filled = dict(filled)
        # as the last statement with its name left each
        self._latest: dict[str, tuple[Tensor, int]] = {}
        self._copies: dict[str, Tensor] = {}
        self._lives: dict[str, list[Life]] = {}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._made: dict[int, _Made] = {}  # by identity, each tensor kept so that no identity is used twice
        self._kept: list[Any] = []
        self._holder: dict[int, str] = {}
        self._raised: ast.stmt | None = None
        self._empty: dict[str, Life] = {}  # of gradients that were set to None
        self.last: dict[ast.stmt, int] = {}  # the step in which each statement ran last

    @property
    def lives(self) -> Lives:
        """What was seen; a gradient that is left at None is complete where it was set to that.

        One that gets a value after all is not, for a line may ask whether it is still None.
        """
        left = {tensor: (life,) for tensor, life in self._empty.items() if tensor not in self._lives}
        return {tensor: tuple(its) for tensor, its in self._lives.items()} | left

    def raised(self, step: int, statement: ast.stmt, error: Exception) -> None:
        """Take note of a statement that raised, and so wrote nothing."""
        self._raised = statement

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Look at what a statement has written."""
        self.last[statement] = step
        if self._raised is statement:
            self._raised = None
            for tensor in self.variables.aimed_at(statement, variables):
                self._goes_on(tensor, step, statement, self.variables.path[tensor])
            for name in assigned(statement):  # what it still holds is none that it should hold from here on
                self._made.pop(id(variables.get(name)), None)
            return
        self._note_makers(step, statement, variables)
        for tensor in self.variables.held_by(assigned(statement)) if self._none_is_left else ():
            path = self.variables.path[tensor]
            if path in variables and variables[path] is None:  # the items of a new list are yet to come
                self._empty[tensor] = Life(step, path, (statement,))
        for tensor, value in self._changed(statement, variables):
            self._seen[tensor] = _mark(value)
            self._kept.append(value)
            self._wrote(tensor, value, step, statement)
            self._note(tensor, value)
        for tensor in self.changed_since() & self._filled.keys() if self._filled else ():
            value, copy = self._latest[tensor][0], self._copies[tensor]
            self._note(tensor, value)
            if close(copy, self._filled[tensor]):
                del self._filled[tensor]
            elif not torch.equal(value, copy):  # else: another part of the same memory has changed
                self._goes_on(tensor, step, statement, self.variables.path[tensor])

    def _note(self, tensor: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self._latest[tensor] = value, value._version
            if tensor in self._filled:
                self._copies[tensor] = value.clone()

    def changed_since(self) -> frozenset[str]:
        """Return the gradients that have changed since the last statement that names them."""
        return frozenset(t for t, (value, version) in self._latest.items() if value._version != version)

    def _note_makers(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        for name in writes(statement):
            value = variables.get(name)
            if isinstance(value, Tensor):
                known = self._made.get(id(value))
                if known is None or known.version != value._version:
                    self._made[id(value)] = _Made(value, value._version, step, name, statement)
                elif name != known.place and name in assigned(statement):
                    renamed = Life(step, name, (statement,))
                    self._made[id(value)] = replace(known, renamed=(renamed,))

    def _changed(self, statement: ast.stmt, variables: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        """Return the gradients that have another value than before, with it."""
        held = self.variables.held_by(writes(statement))
        values = self.variables.values(variables, held)
        return [(t, v) for t, v in values.items() if v is not None and self._seen.get(t) != _mark(v)]

    def _wrote(self, tensor: str, value: Any, step: int, statement: ast.stmt) -> None:
        holder = self._holder.setdefault(id(value), tensor)
        path = self.variables.path[tensor]
        made = self._made.get(id(value))
        if made is None or made.step == step or holder != tensor or made.version != value._version:
            self._goes_on(tensor, step, statement, path)
            return
        # it was complete under another name before it came here
        renamed = tuple(life for life in made.renamed if life.last != step)
        later = (*renamed, Life(step, path, (statement,)))
        self._goes_on(tensor, made.step, statement, made.place, (made.statement,), later)

    def _goes_on(
        self,
        tensor: str,
        step: int,
        statement: ast.stmt,
        place: str,
        makers: tuple[ast.stmt, ...] = (),
        later: tuple[Life, ...] = (),
    ) -> None:
        its = self._lives.setdefault(tensor, [])
        anew = not its or begins_anew(statement, self.variables.path[tensor])
        before = its.pop().statements if its and not anew else ()
        its.append(Life(step, place, tuple(dict.fromkeys((*before, *makers, statement))), later))


def later_ways(lives: Lives) -> list[Lives]:
    """Return lives that end where a gradient gets another name, or its own place, not where it is made.

    So it is where that tensor is right for something else, as in `dr = inner` for `dr = memory * inner`, or
    `dh = dh_next` for `dh = dhs[t] + dh_next`. The last way is that of the places.
    """
    if not any(life.later for its in lives.values() for life in its):
        return []
    return [
        {t: tuple(life.later[which] if life.later else life for life in its) for t, its in lives.items()}
        for which in (0, -1)
    ]


def _mark(value: Any) -> tuple[int, ...]:
    """Return what tells a value from the one before it, changed in place or not."""
    if isinstance(value, list):  # a tensor is to be made of it yet
        return (id(value), len(value), *(id(end) for end in value[:1]))
    return id(value), getattr(value, "_version", 0)
