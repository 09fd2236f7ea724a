"""The backward run once more, each gradient replaced by the right one at the moment when it is complete.

A gradient is looked at after the last statement that writes it, and is replaced before anything reads it. So
each line works on right upstream gradients: what is wrong then is wrong by itself, and what was wrong only
because of a line above it is not.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.containers import as_gradient, flatten
from backhand.checking.running.instrumenting import Run, Watcher, run_function, run_statements
from backhand.checking.running.names import root
from backhand.checking.running.program import Namespace, Source
from backhand.checking.running.returning import returns
from backhand.checking.running.sandbox import running
from backhand.checking.running.statements import (
    assigned,
    may_change_in_place,
    places_written,
    running_variables,
    writes,
    writes_surely,
)
from backhand.checking.running.trials import Draw, backward_arguments
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.lives import Life, Lives, Recorder
from backhand.checking.verdicts.variables import Variables, around, at_place, extended, put_at

# What is handed on for a gradient in place of its own value, or None to leave it as it is.
Replace = Callable[[str, Tensor | None], Tensor | None]
# A line is mended on the variables of two gradients that it makes; the other turns of its loop are alike.
SNAPSHOTS = 2


@dataclass(frozen=True)
class Observed:
    """A gradient at the moment when it was complete.

    Attributes:
        value: the user's, or None where nothing was there.
        statements: those that wrote it.
        namespace: the variables at that moment, where the value was replaced; empty otherwise.
        error: the exception of the statement that should have written it, if it raised.
        step: how many statements ran before.
    """

    value: Tensor | None
    statements: tuple[ast.stmt, ...]
    namespace: Namespace = field(default_factory=dict)
    error: Exception | None = None
    step: int = 0


@dataclass(frozen=True)
class Alias:
    """A gradient that was changed after it was complete, through another name that shares its memory.

    Attributes:
        through: that name.
        statement: what changed it.
        value: what it became.
        made: the statements that wrote the gradient itself.
    """

    through: str
    statement: ast.stmt
    value: Tensor
    made: tuple[ast.stmt, ...] = ()


@dataclass(frozen=True)
class Repair:
    """What the repaired run showed, by tensor name.

    Attributes:
        observed: every gradient as its own lines make it of right upstream gradients.
        culprits: those that are wrong even so, in the order in which they are complete.
        aliased: those that a statement changed through another name.
        errors: statements that raised even so.
    """

    observed: Mapping[str, Observed]
    culprits: tuple[str, ...]
    aliased: Mapping[str, Alias]
    errors: tuple[tuple[ast.stmt, Exception], ...]

    def cause(self, name: str) -> tuple[ast.stmt, Exception] | None:
        """Return the statement that raised, so that nothing was made for a tensor, with its exception.

        Where a variable was not there it is the one that should have made that.
        """
        error = self.observed[name].error if name in self.observed else None
        followed: set[str] = set()
        while isinstance(error, NameError | KeyError):
            missing = str(error.name if isinstance(error, NameError) else next(iter(error.args), ""))
            if missing in followed:
                break
            followed.add(missing)
            error = next((e for statement, e in self.errors if _makes(statement, missing)), error)
        return next(((s, e) for s, e in self.errors if e is error), None)


def _makes(statement: ast.stmt, missing: str) -> bool:
    """Tell whether a statement assigns a variable, or puts something under such a key."""
    places = [n.slice for n in places_written(statement) if isinstance(n, ast.Subscript)]
    keys = [str(place.value) for place in places if isinstance(place, ast.Constant)]
    return missing in assigned(statement) or missing in keys


class Repairer(Watcher):
    """At the end of each life: look and replace.

    Args:
        lives: of the same backward, recorded.
        around: what the statements see besides their own variables, for the snapshots.
        replace: decides what is handed on.
        keeps: whether to keep the values and the variables, which takes time.
    """

    def __init__(
        self, variables: Variables, lives: Lives, around: Namespace, replace: Replace, *, keeps: bool = True
    ):
        self.variables: Variables = variables
        self.around: Namespace = around
        self.replace: Replace = replace
        self.keeps: bool = keeps
        self.ends: dict[int, list[tuple[str, Life, bool]]] = {}
        for tensor, its in lives.items():
            for life in its:
                self.ends.setdefault(life.last, []).append((tensor, life, life is its[-1]))
        self.observed: dict[str, Observed] = {}
        self.aliased: dict[str, Alias] = {}
        self.last: Mapping[str, Any] = {}
        self._complete: dict[str, tuple[Tensor, Tensor, int]] = {}
        self._snapshots: dict[tuple[ast.stmt, str], int] = {}
        self._error: tuple[ast.stmt, Exception] | None = None

    @property
    def asks_for_changes(self) -> bool:
        """Whether a gradient was complete that may be changed."""
        return bool(self._complete)

    def looks(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether a gradient is complete now, or may be changed after it was."""
        if self.keeps or self._error is not None or step in self.ends:
            return True
        return bool(self._complete) and may_change_in_place(statement)

    def raised(self, step: int, statement: ast.stmt, error: Exception) -> None:
        """Take note of a statement that raised."""
        self._error = statement, error

    def made_up_for(self) -> None:
        """Forget that a statement raised: what it should have made was put there."""
        self._error = None

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Look at the gradients that are complete now, and replace them."""
        self.last = variables
        error, self._error = self._error, None
        failed = error[1] if error is not None and error[0] is statement else None
        new = self._without_aliases(statement, variables)
        for tensor, life, final in self.ends.get(step, ()):
            found = None if failed else as_gradient(new.get(life.place, at_place(variables, life.place)))
            replacement = self.replace(tensor, found)
            if final:
                self._observe(tensor, life, found, replacement is not None, failed, step, variables)
            if replacement is not None:
                found = replacement
                new |= put_at(variables, life.place, found)
            if final and found is not None:
                self._complete[tensor] = (found, found.clone(), found._version)
        return new

    def _observe(
        self,
        tensor: str,
        life: Life,
        value: Tensor | None,
        replaced: bool,
        error: Exception | None,
        step: int,
        variables: Mapping[str, Any],
    ) -> None:
        kept = value.clone() if value is not None and self.keeps else value
        namespace: Namespace = {}
        made = life.statements[0], root(life.place)  # one statement may begin several gradients
        if replaced and self.keeps and self._snapshots.get(made, 0) < SNAPSHOTS:
            self._snapshots[made] = self._snapshots.get(made, 0) + 1
            namespace = self.around | snapshot(variables)
        self.observed[tensor] = Observed(kept, life.statements, namespace, error, step)

    def _without_aliases(self, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace:
        """Give a gradient back its value where a statement changed it through another name."""
        new: Namespace = {}
        if not may_change_in_place(statement):
            return new
        changed_now = [n for n, (v, _, version) in self._complete.items() if v._version != version]
        for tensor in changed_now:
            value, kept, _ = self._complete[tensor]
            path = self.variables.path[tensor]
            changed = writes_surely(statement) or writes(statement)
            if root(path) in changed:
                del self._complete[tensor]
            elif torch.equal(value, kept):
                self._complete[tensor] = (value, kept, value._version)
            else:
                made = self.observed[tensor].statements if tensor in self.observed else ()
                alias = Alias(min(changed, default=""), statement, value.clone(), made)
                self.aliased.setdefault(tensor, alias)
                fresh = kept.clone()
                new |= put_at(variables, path, fresh)
                self._complete[tensor] = (fresh, kept, fresh._version)
        return new


def snapshot(variables: Mapping[str, Any]) -> Namespace:
    """Return copies of the variables that later statements may change."""
    return {k: _copied(v) for k, v in variables.items() if not k.startswith("__")}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return value.copy() if type(value) in (list, dict) else value


def watched(chosen: Pass, draw: Draw, watcher: Watcher) -> Run:
    """Run the backward of a draw, seen by a watcher."""
    source = chosen.backward_source
    assert source is not None
    given = backward_arguments(chosen, draw.trace, lent=not draw.changed)
    with running(draw.dtype, chosen.seed_of_backward(draw.seed), draw.promote), torch.no_grad():
        if chosen.runner is not None:
            with np.errstate(all="ignore"):  # what is put there may make nonsense
                return chosen.runner.backward(given, watcher)
        if chosen.scope is not None:
            return run_statements(source, chosen.scope(given), watcher)
        return run_function(chosen.backward, source, given, watcher)


def variables_of(chosen: Pass, draw: Draw) -> Variables:
    """Return where the gradients of a draw lie in the variables of the backward."""
    assert chosen.backward_source is not None
    return Variables(chosen.backward_source, extended(draw, chosen))


def recorded(chosen: Pass, draw: Draw) -> Lives:
    """Return which statements of the backward write which gradient, and when."""
    # in a script a None is yet to be written; one that no line fails on may be meant
    none_is_left = chosen.scope is None and draw.error is not None
    recorder = Recorder(variables_of(chosen, draw), none_is_left=none_is_left)
    watched(chosen, draw, recorder)
    if changed := recorder.changed_since():
        filled = {n: draw.trace.gradients[n] for n in changed}
        recorder = Recorder(variables_of(chosen, draw), none_is_left=none_is_left, filled=filled)
        watched(chosen, draw, recorder)
    source = chosen.backward_source
    assert source is not None
    # what a variable that runs through a loop holds in between is the gradient of something else
    runs = {t for t, its in recorder.lives.items() if its[-1].statements[-1] not in source.statements}
    ends = _ends_of_loops(recorder, source)
    return {
        t: tuple(_to_the_end(recorder, t, life, ends) for life in (its[-1:] if t in runs else its))
        for t, its in recorder.lives.items()
    }


def _ends_of_loops(recorder: Recorder, source: Source) -> Mapping[str, list[int]]:
    """Return when the loops have ended that carry on a variable."""
    found: dict[str, list[int]] = {}
    for last, names in running_variables(source.statements).items():
        for name in names if last in recorder.last else ():
            found.setdefault(name, []).append(recorder.last[last])
    return found


def _to_the_end(recorder: Recorder, tensor: str, life: Life, ends: Mapping[str, list[int]]) -> Life:
    """Return a life until the loops have ended that carry on its variable, if it is this gradient only then.

    So it is where the variable has another name, as `dh_next`, in which the gradient of the first state is
    returned, or from which that is taken.
    """
    renamed, arrived = recorder.variables.is_renamed(tensor), life.later[-1:]
    steps = ends.get(root(life.place), ())
    later = [end for end in steps if (end < arrived[0].last if arrived else renamed)]
    return replace(life, last=max(life.last, *later)) if later else life


def run_replaced(
    chosen: Pass, draw: Draw, replace: Replace, lives: Lives, *, keeps: bool = True
) -> tuple[Repairer, Run]:
    """Run the backward; `replace(name, value)` decides what is handed on for each gradient."""
    repairer = Repairer(
        variables_of(chosen, draw), lives, around(chosen) if keeps else {}, replace, keeps=keeps
    )
    return repairer, watched(chosen, draw, repairer)


def repair(chosen: Pass, draw: Draw, is_right: Callable[[str, Tensor | None], bool], lives: Lives) -> Repair:
    """Return which gradients are wrong though everything above them is right.

    Args:
        chosen, draw: the backward and what it is run on.
        is_right: tells whether a value is the right one of a tensor.
        lives: recorded of the same backward.
    """
    early: dict[str, None] = {}

    def replace(name: str, value: Tensor | None) -> Tensor | None:
        if is_right(name, value):
            return None
        early[name] = None
        return draw.trace.gradients[name].clone()

    repairer, run = run_replaced(chosen, draw, replace, lives)
    observed = repairer.observed | at_return(draw, chosen.backward_source, run, repairer)
    culprits = [n for n, seen in observed.items() if not is_right(n, seen.value)]
    changed = [n for n, alias in repairer.aliased.items() if not is_right(n, alias.value)]
    culprits += [n for n in changed if n not in culprits]
    if not culprits:  # a value that was read before a later line assigned the name again
        culprits = list(early)
    return Repair(observed, tuple(culprits), repairer.aliased, tuple(run.errors))


def at_return(draw: Draw, source: Source | None, run: Run, repairer: Repairer) -> dict[str, Observed]:
    """Return gradients that are no variable of the backward, such as those of a returned function call."""
    if not isinstance(run.result, Mapping) or source is None:
        return {}
    flat, statements = flatten(run.result), tuple(returns(source.statements))
    found = {}
    for name, gradient in draw.matched.items():
        if name not in repairer.observed and gradient in flat and name in draw.trace.gradients:
            namespace = repairer.around | snapshot(repairer.last) if repairer.keeps else {}
            found[name] = Observed(as_gradient(flat[gradient]), statements, namespace, None, run.steps)
    return found
