"""Find the lines at fault: run the backward statement by statement, each gradient replaced by the right one.

A gradient is compared with autograd's at the moment it is complete, that is after the last statement that
writes it, and is replaced by autograd's before anything reads it. So each line works on right upstream
gradients: what is wrong then is wrong by itself, and what was wrong only because of a line above it is not.
"""

import ast
import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.drawing import Draw, backward_arguments
from backhand.checking.running.executing import Execution, Namespace, namespace_for, returned_variables
from backhand.checking.running.flattening import as_gradient, flatten, root
from backhand.checking.running.protocol import Pass
from backhand.checking.running.source import Source, begins_anew, writes, writes_surely
from backhand.checking.running.tracing import running
from backhand.checking.verdicts.comparing import close

Replace = Callable[[str, Tensor | None], Tensor | None]


@dataclass
class Life:
    """From one fresh assignment of a gradient to the last statement that adds to it, as step numbers."""

    first: int
    last: int
    statements: list[ast.stmt] = field(default_factory=list)


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
class Repair:
    """What the repaired run showed, by tensor name.

    Attributes:
        observed: every gradient as its own lines make it of right upstream gradients.
        culprits: those that are wrong even so.
        aliased: those that a statement changed through another name, which is given with the statement.
        errors: statements that raised even so.
    """

    observed: dict[str, Observed]
    culprits: list[str]
    aliased: dict[str, tuple[str, ast.stmt]]
    errors: list[tuple[ast.stmt, Exception]]


class Variables:
    """Where each gradient lies in the backward's own variables."""

    def __init__(self, source: Source, matched: Mapping[str, str]):
        self.path: dict[str, str] = {}
        renamed = returned_variables(source)
        last = source.statements[-1] if source.statements else None
        value = last.value if isinstance(last, ast.Return) else None
        for tensor, gradient in matched.items():
            variable, rest = root(gradient), gradient[len(root(gradient)) :]
            if isinstance(value, ast.Name):
                self.path[tensor] = f'{value.id}["{variable}"]{rest}'
            elif variable in renamed:
                self.path[tensor] = renamed[variable] + rest
            elif not isinstance(value, ast.Dict):
                self.path[tensor] = gradient

    def get(self, namespace: Namespace, tensor: str) -> Any:
        """Return the gradient of a tensor, or None where it is not there."""
        path = self.path[tensor]
        if path in namespace:
            return namespace[path]
        variable = root(path)
        return flatten({variable: namespace[variable]}).get(path) if variable in namespace else None

    def set(self, namespace: Namespace, tensor: str, value: Tensor) -> None:
        """Replace a gradient."""
        path = self.path[tensor]
        if re.fullmatch(r"\w+", path):
            namespace[path] = value
            return
        namespace["__value__"] = value
        # an item of a tuple, or of a container that is not there, is left as it is
        with contextlib.suppress(TypeError, KeyError, IndexError, NameError):
            exec(f"{path} = __value__", namespace)


def extended(draw: Draw, source: Source) -> dict[str, str]:
    """Return the matched gradients, with those added that the source writes but a raising line kept away."""
    matched = dict(draw.matched)
    if draw.error is not None:
        written = {name for s in source.statements for name in writes(s)}
        for tensor in draw.trace.tensors:
            if tensor not in matched and tensor not in draw.trace.outputs and f"d{tensor}" in written:
                matched[tensor] = f"d{tensor}"
    return matched


class _Recorder:
    """The first run: when is each gradient written, and by which statements."""

    def __init__(self, variables: Variables):
        self.variables = variables
        self.lives: dict[str, list[Life]] = {}
        self.namespace: Namespace = {}
        self.execution: Execution | None = None
        self._seen: dict[str, tuple[int, int]] = {}
        self._kept: list[Any] = []  # so that no identity is used twice

    def __call__(self, step: int, statement: ast.stmt) -> None:
        written = writes(statement)
        for tensor, path in self.variables.path.items():
            if root(path) not in written:
                continue
            value = self.variables.get(self.namespace, tensor)
            mark = (id(value), getattr(value, "_version", 0))
            raised = bool(self.execution and any(s is statement for s, _ in self.execution.errors))
            if (not raised or "[" in path) and value is not None and self._seen.get(tensor) == mark:
                continue
            if value is None and ("[" in path or not raised):
                continue
            self._seen[tensor] = mark
            self._kept.append(value)
            lives = self.lives.setdefault(tensor, [])
            if not lives or begins_anew(statement, path):
                lives.append(Life(step, step, [statement]))
            else:
                lives[-1].last = step
                if statement not in lives[-1].statements:
                    lives[-1].statements.append(statement)


class _Repairer:
    """The second run: at the end of each life, look and replace."""

    def __init__(self, variables: Variables, lives: dict[str, list[Life]], replace: Replace):
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
        self.aliased: dict[str, tuple[str, ast.stmt]] = {}
        self._complete: dict[str, tuple[Tensor, Tensor, int]] = {}

    def __call__(self, step: int, statement: ast.stmt) -> None:
        self._look_for_aliases(statement)
        errors = dict(self.execution.errors) if self.execution else {}
        for tensor, life, final in self.ends.get(step, ()):
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
        for tensor, (value, kept, version) in list(self._complete.items()):
            if value._version == version:
                continue
            path = self.variables.path[tensor]
            surely = writes_surely(statement)
            if root(path) in (surely or writes(statement)):
                del self._complete[tensor]
            elif torch.equal(value, kept):
                self._complete[tensor] = (value, kept, value._version)
            else:
                changed = sorted(surely or writes(statement))
                self.aliased.setdefault(tensor, (changed[0] if changed else "", statement))
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
    lives: dict[str, list[Life]] | None = None,
    *,
    hurried: bool = False,
) -> tuple[_Repairer, Execution, dict[str, list[Life]]]:
    """Run the backward by statements; `replace(name, value)` decides what is handed on for each gradient.

    `replace` returns the tensor to put in the gradient's place, or None to leave it.
    """
    source = chosen.backward_source
    assert source is not None
    variables = Variables(source, extended(draw, source))
    if lives is None:
        recorder = _Recorder(variables)
        recorder.namespace = _namespace(chosen, draw, source)
        _execute(source, recorder.namespace, recorder, draw)
        lives = recorder.lives
    repairer = _Repairer(variables, lives, replace)
    repairer.hurried = hurried
    repairer.namespace = _namespace(chosen, draw, source)
    execution = _execute(source, repairer.namespace, repairer, draw)
    return repairer, execution, lives


def _namespace(chosen: Pass, draw: Draw, source: Source) -> Namespace:
    given = backward_arguments(chosen, draw.trace)
    if chosen.scope is None:
        return namespace_for(chosen.backward, source, given)
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
        expected = right.get(name)
        return expected is None or (value is not None and close(value, expected, summands.get(name, 0.0)))

    def replace(name: str, value: Tensor | None) -> Tensor | None:
        if is_right(name, value):
            return None
        early.append(name)
        return right[name].clone()

    repairer, execution, _ = run_replaced(chosen, draw, replace)
    culprits = [n for n, seen in repairer.observed.items() if not is_right(n, seen.value)]
    culprits += [n for n in repairer.aliased if n not in culprits]
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
