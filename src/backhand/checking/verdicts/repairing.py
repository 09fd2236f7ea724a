"""Find the lines at fault: run the backward statement by statement, each gradient replaced by the right one.

A gradient is compared with autograd's at the moment it is complete, that is after the last statement that
writes it, and is replaced by autograd's before anything reads it. So each line works on right upstream
gradients: what is wrong then is wrong by itself, and what was wrong only because of a line above it is not.
"""

import ast
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.executing import Execution, Namespace, namespace_for
from backhand.checking.running.names import as_gradient, flatten, root
from backhand.checking.running.program import Source
from backhand.checking.running.sandbox import running
from backhand.checking.running.statements import writes, writes_surely
from backhand.checking.running.trials import Draw, backward_arguments
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close
from backhand.checking.verdicts.lives import Life, Lives, Recorder
from backhand.checking.verdicts.variables import Variables, extended

Replace = Callable[[str, Tensor | None], Tensor | None]


@dataclass
class Observed:
    """A gradient at the moment it was complete.

    Attributes:
        value: the user's, or None where nothing was there.
        namespace: the variables at that moment.
        statements: those that wrote it.
        error: the exception of the statement that should have written it, if it raised.
    """

    value: Tensor | None
    namespace: Namespace
    statements: list[ast.stmt]
    error: Exception | None = None


@dataclass
class Alias:
    """A gradient that was changed after it was complete, through another name that shares its memory.

    Attributes:
        through: that name.
        statement: what changed it.
        value: what it became.
    """

    through: str
    statement: ast.stmt
    value: Tensor


@dataclass
class Repair:
    """What the repaired run showed, by tensor name.

    Attributes:
        observed: every gradient as its own lines make it of right upstream gradients.
        culprits: those that are wrong even so.
        aliased: those that a statement changed through another name.
        errors: statements that raised even so.
    """

    observed: dict[str, Observed]
    culprits: list[str]
    aliased: dict[str, Alias]
    errors: list[tuple[ast.stmt, Exception]]


class _Repairer:
    """The second run: at the end of each life, look and replace."""

    def __init__(self, variables: Variables, lives: Lives, replace: Replace):
        self.variables = variables
        self.replace = replace
        self.ends: dict[int, list[tuple[str, Life, bool]]] = {}
        for tensor, its in lives.items():
            for life in its:
                self.ends.setdefault(life.last, []).append((tensor, life, life is its[-1]))
        self.hurried = False  # do without the variables of the moment
        self.namespace: Namespace = {}
        self.execution: Execution | None = None
        self.observed: dict[str, Observed] = {}
        self.aliased: dict[str, Alias] = {}
        self._complete: dict[str, tuple[Tensor, Tensor, int]] = {}

    def __call__(self, step: int, statement: ast.stmt) -> None:
        self._look_for_aliases(statement)
        ends = self.ends.get(step, ())
        errors = dict(self.execution.errors) if ends and self.execution else {}
        for tensor, life, final in ends:
            value = as_gradient(self.variables.get(self.namespace, tensor))
            error = errors.get(statement)
            replacement = self.replace(tensor, None if error else value)
            if final:
                kept = None if error or value is None else value if self.hurried else value.clone()
                seen = Observed(kept, {}, life.statements, error)
                if replacement is not None and not self.hurried:
                    seen.namespace = _snapshot(self.namespace)
                self.observed[tensor] = seen
            if replacement is not None:
                value = replacement
                self.variables.set(self.namespace, tensor, value)
            if final and value is not None:
                self._complete[tensor] = (value, value.clone(), value._version)

    def _look_for_aliases(self, statement: ast.stmt) -> None:
        changed_now = [n for n, (v, _, version) in self._complete.items() if v._version != version]
        for tensor in changed_now:
            value, kept, _ = self._complete[tensor]
            path = self.variables.path[tensor]
            surely = writes_surely(statement)
            if root(path) in (surely or writes(statement)):
                del self._complete[tensor]
            elif torch.equal(value, kept):
                self._complete[tensor] = (value, kept, value._version)
            else:
                changed = sorted(surely or writes(statement))
                alias = Alias(changed[0] if changed else "", statement, value.clone())
                self.aliased.setdefault(tensor, alias)
                fresh = kept.clone()
                self.variables.set(self.namespace, tensor, fresh)
                self._complete[tensor] = (fresh, kept, fresh._version)


def _snapshot(namespace: Namespace) -> Namespace:
    return {
        k: v.clone() if isinstance(v, Tensor) else v for k, v in namespace.items() if not k.startswith("__")
    }


def run_replaced(
    chosen: Pass,
    draw: Draw,
    replace: Replace,
    lives: Lives | None = None,
    *,
    hurried: bool = False,
) -> tuple[_Repairer, Execution, Lives]:
    """Run the backward by statements; `replace(name, value)` decides what is handed on for each gradient.

    `replace` returns the tensor to put in the gradient's place, or None to leave it.
    """
    source = chosen.backward_source
    assert source is not None
    variables = Variables(source, extended(draw, source))
    lives = recorded(chosen, draw) if lives is None else lives
    repairer = _Repairer(variables, lives, replace)
    repairer.hurried = hurried
    repairer.namespace = namespace_of(chosen, draw)
    execution = _execute(source, repairer.namespace, repairer, draw)
    return repairer, execution, lives


def recorded(chosen: Pass, draw: Draw) -> Lives:
    """Return which statements of the backward write which gradient, and when."""
    source = chosen.backward_source
    assert source is not None
    recorder = Recorder(Variables(source, extended(draw, source)))
    recorder.namespace = namespace_of(chosen, draw)
    _execute(source, recorder.namespace, recorder, draw)
    return recorder.lives


def namespace_of(chosen: Pass, draw: Draw, used: Container[str] | None = None) -> Namespace:
    """Return the variables with which the backward of a draw starts; of its arguments those that are used."""
    assert chosen.backward_source is not None
    given = backward_arguments(chosen, draw.trace, used)
    if chosen.scope is None:
        return namespace_for(chosen.backward, chosen.backward_source, given)
    with running(draw.dtype, draw.seed + 1, draw.promote):
        return chosen.scope(given)


def _execute(source: Source, namespace: Namespace, observe: Any, draw: Draw) -> Execution:
    execution = Execution(source, namespace, observe)
    observe.execution = execution
    with running(draw.dtype, draw.seed + 1, draw.promote), torch.no_grad():
        return execution.run()


def repair(chosen: Pass, draw: Draw, summands: Mapping[str, float]) -> Repair:
    """Return which gradients are wrong though everything above them is right."""
    right = draw.trace.gradients
    culprits: list[str] = []
    early: list[str] = []

    def is_right(name: str, value: Tensor | None) -> bool:
        if name not in right or value is None:
            return name not in right
        return close(value, right[name]) or close(value, right[name], summands[name])

    def replace(name: str, value: Tensor | None) -> Tensor | None:
        if is_right(name, value):
            return None
        early.append(name)
        return right[name].clone()

    repairer, execution, _ = run_replaced(chosen, draw, replace)
    culprits = [n for n, seen in repairer.observed.items() if not is_right(n, seen.value)]
    changed = [n for n, alias in repairer.aliased.items() if not is_right(n, alias.value)]
    culprits += [n for n in changed if n not in culprits]
    _judge_at_return(draw, execution, repairer, is_right, culprits)
    if not culprits:  # a value that was read before a later line assigned the name again
        culprits = list(dict.fromkeys(early))
    return Repair(repairer.observed, culprits, repairer.aliased, execution.errors)


def _judge_at_return(
    draw: Draw,
    execution: Execution,
    repairer: _Repairer,
    is_right: Callable[[str, Tensor | None], bool],
    culprits: list[str],
) -> None:
    """Judge gradients that are no variable of the backward: expressions within its return statement."""
    if not isinstance(execution.result, Mapping):
        return
    flat = flatten(execution.result)
    statements: list[ast.stmt] = [s for s in execution.source.statements if isinstance(s, ast.Return)]
    for name, gradient in draw.matched.items():
        if name in repairer.observed or gradient not in flat or name not in draw.trace.gradients:
            continue
        value = as_gradient(flat[gradient])
        repairer.observed[name] = Observed(value, _snapshot(repairer.namespace), statements)
        if not is_right(name, value):
            culprits.append(name)
