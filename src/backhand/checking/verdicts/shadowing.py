"""Watchers that do what a repairer does, and note what each statement gives, or put something else there."""

import ast
import copy
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from backhand.checking.running.complexes import is_differentiable
from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.known import signature
from backhand.checking.running.program import Namespace
from backhand.checking.running.slicing import sets_a_number
from backhand.checking.running.statements import (
    assigned,
    given_to,
    is_compound,
    may_change_in_place,
    root_of,
    writes_surely,
)
from backhand.checking.verdicts.repairing import Repairer, snapshot

# A statement, and the variable that it assigns; empty for what it adds to something, or puts into it. Or the
# last one of a loop, and a variable that the next turn takes over.
Target = tuple[ast.stmt, str]
# What is put in the place of a value, by the turn and the value.
Give = Callable[[int, Any], Any]
VALUE = "__value__"


def is_carried(target: Target) -> bool:
    """Tell whether a target is what a loop's next turn takes over, and no statement gives it at the end."""
    return target[1] != "" and target[1] not in writes_surely(target[0])


def is_sum(target: Target) -> bool:
    """Tell whether a target is what a statement adds to something, in whatever order its turns come."""
    return target[1] == "" and isinstance(target[0], ast.AugAssign)


@dataclass(frozen=True)
class Event:
    """What a target gives in one turn.

    Attributes:
        step: how many statements ran before.
        shape, sign: of the tensor, see `signature`; None and 0 where the statement raised.
    """

    step: int
    shape: torch.Size | None
    sign: float


def event_of(step: int, value: Any) -> Event:
    """Return what a value is, as an event."""
    if is_differentiable(value) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return Event(step, value.shape, signature(value))
    return Event(step, None, 0.0)


class Shadow(Watcher):
    """Does what a repairer does."""

    def __init__(self, repairer: Repairer):
        self.repairer = repairer

    @property
    def asks_for_changes(self) -> bool:
        """Whether that asks."""
        return self.repairer.asks_for_changes

    def looks(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether that looks."""
        return self.repairer.looks(step, statement)

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Let it look and replace."""
        return self.repairer.ran(step, statement, variables)

    def raised(self, step: int, statement: ast.stmt, error: Exception) -> None:
        """Tell it."""
        self.repairer.raised(step, statement, error)


class Putting(Shadow):
    """Puts other tensors in the place of what some statements give, turn by turn."""

    def __init__(self, repairer: Repairer, puts: Mapping[Target, Give]):
        super().__init__(repairer)
        self.puts = puts
        self._turns = dict.fromkeys(puts, 0)
        self._places: dict[ast.stmt, list[str]] = {}  # the variables that are put after a statement
        for statement, name in puts:
            if name:
                self._places.setdefault(statement, []).append(name)
        self._added = -1  # the last step in which something was added
        self._raised = -1  # and in which one raised

    def looks(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether something is put there, or a gradient is complete."""
        return statement in self._places or step == self._raised or self.repairer.looks(step, statement)

    def takes(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether something is put there."""
        return (statement, "") in self.puts

    def added(self, step: int, statement: ast.stmt, value: Any) -> Any:
        """Put one in the place of what is added."""
        self._added = step
        target = statement, ""
        return self._next(target, value) if target in self.puts else value

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Put one in the place of what was assigned, or should have been added."""
        own = self._places.get(statement, ())
        put = {name: self._next((statement, name), variables.get(name)) for name in own}
        put = {name: value for name, value in put.items() if value is not None}
        if step == self._raised > self._added and (statement, "") in self.puts:
            value = self._next((statement, ""), None)
            put |= _done_with(statement, value, variables) if isinstance(value, Tensor) else {}
        if put:
            self.repairer.made_up_for()
        if not self.repairer.looks(step, statement):
            return put
        # as a view: to look at every variable would take longer than the statement
        return put | super().ran(step, statement, ChainMap(put, variables) if put else variables)  # type: ignore[arg-type]

    def raised(self, step: int, statement: ast.stmt, error: Exception) -> None:
        """Take note of a turn that gave nothing."""
        super().raised(step, statement, error)
        self._raised = step

    def _next(self, target: Target, value: Any) -> Any:
        turn = self._turns[target]
        self._turns[target] += 1
        return self.puts[target](turn, value)


class Adding(Shadow):
    """Lets a statement that puts something into elements of an array add it to what it has put there before.

    Args:
        repairer: that it does as well.
        statement: an assignment to one item.
    """

    def __init__(self, repairer: Repairer, statement: ast.Assign):
        super().__init__(repairer)
        (item,) = statement.targets
        assert isinstance(item, ast.Subscript)
        self.statement = statement
        self._array: str = root_of(item) or ""
        read = ast.fix_missing_locations(ast.Expression(ast.Subscript(item.value, item.slice, ast.Load())))
        adds = ast.AugAssign(item, ast.Add(), ast.Name(VALUE, ast.Load()))
        added = ast.fix_missing_locations(ast.Module([ast.copy_location(adds, statement)], []))
        self._read, self._add = compile(read, "<item>", "eval"), compile(added, "<item>", "exec")
        self._before: Tensor | None = None

    def looks(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether it is this one, or that looks."""
        return statement is self.statement or super().looks(step, statement)

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Add what stood there after its last turn."""
        held = variables.get(self._array)
        if statement is self.statement and isinstance(held, Tensor):
            if self._before is not None:
                kept = eval(self._read, {**variables, self._array: self._before})
                exec(self._add, {**variables, VALUE: kept})
            self._before = held.clone()
        return super().ran(step, statement, variables) if self.repairer.looks(step, statement) else {}


def _done_with(statement: ast.stmt, value: Tensor, variables: Mapping[str, Any]) -> Namespace:
    """Do what a statement does, add something or put it somewhere, with a value for the one that raised.

    Return the variables that it leaves.
    """
    call = given_to(statement)
    done = copy.copy(statement)
    if call is not None:
        arguments = [*call.args[:-1], ast.Name(VALUE, ast.Load())]
        done.value = ast.Call(call.func, arguments, call.keywords)  # type: ignore[attr-defined]
    else:
        done.value = ast.Name(VALUE, ast.Load())  # type: ignore[attr-defined]
    namespace = {**variables, VALUE: value}
    try:
        exec(compile(ast.fix_missing_locations(ast.Module([done], [])), "<put>", "exec"), namespace)
    except Exception:  # the place itself may be what raised
        return {}
    # the others see what they hold changed
    return {name: namespace[name] for name in writes_surely(statement) if name in namespace}


class Log(Putting):
    """Notes what each statement gives.

    Args:
        carried: by the last statement of a loop the variables that its next turn takes over, whatever gave
            them their value.
        counters: the variables that count the turns of loops.
    """

    def __init__(
        self,
        repairer: Repairer,
        puts: Mapping[Target, Give],
        carried: Mapping[ast.stmt, Sequence[str]] | None = None,
        counters: Sequence[str] = (),
    ):
        super().__init__(repairer, puts)
        self.carried: Mapping[ast.stmt, Sequence[str]] = carried or {}
        self.events: dict[Target, list[Event]] = {}
        self.counted: dict[str, dict[int, Any]] = {name: {} for name in counters}  # by step what each holds

    def looks(self, step: int, statement: ast.stmt) -> bool:
        """Look at all."""
        return True

    def takes(self, step: int, statement: ast.stmt) -> bool:
        """Look at all."""
        return True

    def added(self, step: int, statement: ast.stmt, value: Any) -> Any:
        """Note what is added, or put into a container."""
        value = super().added(step, statement, value)
        if is_differentiable(value):
            self.note(step, (statement, ""), value)
        return value

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Note what was assigned, before it is mended."""
        for name, held in self.counted.items():
            held[step] = variables.get(name)
        new = super().ran(step, statement, variables)
        gives = step != self._raised and not is_compound(statement)  # what that holds gives by itself
        assigned = dict(assigned_tensors(statement, variables)) if gives else {}
        carried = {name: variables.get(name) for name in self.carried.get(statement, ())}
        for name, value in {**carried, **assigned}.items():
            given = new.get(name, value) if (statement, name) in self.puts else value
            if may_be_gradient(given, name):
                self.note(step, (statement, name), given)
        return new

    def raised(self, step: int, statement: ast.stmt, error: Exception) -> None:
        """Note that a turn gave nothing."""
        super().raised(step, statement, error)
        for target in targets_of(statement):
            its = self.events.setdefault(target, [])
            if its and its[-1].step == step:  # it was made, and did not fit where it went
                its.pop()
            its.append(Event(step, None, 0.0))

    def note(self, step: int, target: Target, value: Tensor) -> None:
        """Note what a target gives."""
        its = self.events.setdefault(target, [])
        if not its or its[-1].step != step:
            its.append(event_of(step, value))


class Before(Putting):
    """Takes the variables before some turns of a statement, and what it makes of them.

    Args:
        steps: those turns.
        target: the statement.
        counters: the variables that count the turns of loops.
    """

    def __init__(
        self,
        repairer: Repairer,
        puts: Mapping[Target, Give],
        steps: Sequence[int],
        target: Target,
        counters: Sequence[str],
    ):
        super().__init__(repairer, puts)
        self.counters: Sequence[str] = counters
        self.steps: set[int] = set(steps)
        self.target: Target = target
        self.before: list[Namespace] = []
        self.made: list[Tensor | None] = []

    def looks(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether it is one of the turns, or the next one is."""
        return step in self.steps or step + 1 in self.steps or step == 0 or super().looks(step, statement)

    def takes(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether it is one of the turns."""
        return step in self.steps or super().takes(step, statement)

    def added(self, step: int, statement: ast.stmt, value: Any) -> Any:
        """Take what is added."""
        if step in self.steps and self.target == (statement, ""):
            self.made.append(value.clone())
        return super().added(step, statement, value)

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Take the variables, and what was assigned."""
        if step in self.steps and self.before:  # the head of a loop has counted since the statement above
            there = {n: variables[n] for n in self.counters if n in variables}
            self.before[-1] |= snapshot({n: v for n, v in there.items() if n not in writes_surely(statement)})
        if step in self.steps and self.target[1]:
            value = as_tensor(variables.get(self.target[1])) if step != self._raised else None
            self.made.append(value.clone() if isinstance(value, Tensor) else None)
        elif step in self.steps and step == self._raised > self._added:
            self.made.append(None)  # nothing was added
        if step == 0 and 0 in self.steps and not may_change_in_place(statement):
            self.before.append(snapshot({k: v for k, v in variables.items() if k not in assigned(statement)}))
        new = super().ran(step, statement, variables)
        if step + 1 in self.steps:
            self.before.append(snapshot({**variables, **new}))
        return new


def targets_of(statement: ast.stmt) -> Iterator[Target]:
    """Yield what a statement gives tensors to."""
    if isinstance(statement, ast.AugAssign) or given_to(statement) is not None:
        yield statement, ""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        for node in _nodes(statement):
            yield statement, node.id if isinstance(node, ast.Name) else ""


def assigned_tensors(statement: ast.stmt, variables: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the variables to which a statement has given a floating-point tensor, or whose tensor it changed.

    A number that it computes or writes out is one of no axes, what is counted or measured is none.
    What it adds to a variable, or puts into a container, is seen before.
    """
    for name in writes_surely(statement):
        value = variables.get(name)
        value = as_tensor(value) if sets_a_number(statement) else value
        if may_be_gradient(value, name):
            yield name, value


def as_tensor(value: Any) -> Any:
    """Return a number as a tensor of no axes, which may stand where a gradient belongs; others as is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return torch.tensor(float(value), dtype=torch.float64) if is_number else value


def may_be_gradient(value: Any, name: str) -> TypeGuard[Tensor]:
    """Tell whether a variable holds a floating-point tensor, or a mask though it is called a gradient."""
    if not isinstance(value, Tensor):
        return False
    return is_differentiable(value) or (value.dtype == torch.bool and name.startswith("d"))


def _nodes(statement: ast.Assign | ast.AnnAssign) -> Iterable[ast.expr]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return [n for t in targets for n in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
