"""A script or a notebook as a pass: which statements are its forward, which its backward, what its inputs.

The statements are run once, as they stand. Then those on which the loss depends, and those that make
gradients after it, are cut out and become the two functions of a pass, which can be run again: in float64, on
other values, statement by statement.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.executing import Execution, Namespace
from backhand.checking.running.precision import convert
from backhand.checking.running.protocol import Pass
from backhand.checking.running.source import Line, Source, reads, simple_statements, writes, writes_surely
from backhand.errors import CheckError


@dataclass(frozen=True, eq=False)
class Cells(Source):
    """The source of several cells, numbered through; a line is told with its cell."""

    starts: tuple[tuple[int, str], ...] = ()

    def line(self, number: int) -> Line:
        """Return a line with its number within its cell."""
        plain = super().line(number)
        before = [(start, label) for start, label in self.starts if start <= number]
        if not before:
            return plain
        start, label = before[-1]
        return Line(number - start + 1, plain.text, label)


@dataclass
class Played:
    """What running the statements gave.

    Attributes:
        source: all of them.
        ran: the statements that ran, in order.
        at_loss: the variables when `loss` was last assigned before any gradient was.
        loss_statement: the statement that assigned it.
        final: the variables at the end.
        notes: what went wrong on the way.
    """

    source: Source
    loss: str
    ran: list[ast.stmt] = field(default_factory=list)
    at_loss: Namespace = field(default_factory=dict)
    loss_statement: ast.stmt | None = None
    final: Namespace = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def saw(self, statement: ast.stmt, namespace: Namespace) -> None:
        """Take note of a statement that has run."""
        self.ran.append(statement)
        looped = isinstance(statement, ast.For | ast.While)
        if self.loss in writes(statement) and not looped and not self._has_gradients(namespace):
            value = namespace.get(self.loss)
            if isinstance(value, Tensor) and value.numel() == 1:
                self.loss_statement = statement
                self.at_loss = {k: _frozen(v) for k, v in namespace.items() if not k.startswith("__")}

    def _has_gradients(self, namespace: Namespace) -> bool:
        if self.loss_statement is None:
            return False
        known = [k for k, v in self.at_loss.items() if isinstance(v, Tensor)]
        return any(isinstance(namespace.get(f"d{k}"), Tensor) for k in known if k != self.loss)


def _frozen(value: Any) -> Any:
    """Keep a parameter's value, which training may change under its name."""
    if isinstance(value, Tensor) and value.is_leaf:
        return value.detach().clone().requires_grad_(value.requires_grad)
    return value


class Statements:
    """Statements as a function: from variables to the variables that they assign."""

    def __init__(self, source: Source, constants: Namespace, names: tuple[str, ...]):
        self.source, self.constants, self.names = source, constants, names
        self.__name__ = "statements"

    def __call__(self, **given: Any) -> dict[str, Any]:
        """Run them and return what they assigned."""
        namespace = self.scope(given)
        Execution(self.source, namespace, go_on=False).run()
        return {k: namespace[k] for k in self.names if k in namespace}

    def scope(self, given: Mapping[str, Any]) -> Namespace:
        """Return the variables at the beginning."""
        dtype = torch.get_default_dtype()
        constants = {
            k: convert(v, dtype) if isinstance(v, Tensor) and k not in given and v.is_floating_point() else v
            for k, v in self.constants.items()
        }
        return {**constants, **given}


def as_pass(played: Played, names: Mapping[str, str] | None = None) -> Pass:
    """Return the pass that is hidden in a script.

    Raises:
        CheckError: there is no loss, or there are no gradients.
    """
    if played.loss_statement is None:
        raise CheckError(f"no statement assigns {played.loss!r}, a scalar tensor: name the loss so.")
    at = played.ran.index(played.loss_statement)
    before, after = played.ran[: at + 1], _until_training(played.ran[at + 1 :], played.loss)
    inputs = _inputs(played, after)
    forward = _forward(before, set(inputs), played.loss)
    used = {n for s in forward for n in reads(s)}
    inputs = {k: v for k, v in inputs.items() if k in used}
    values = set(inputs) | {n for s in forward for n in writes_surely(s)}
    backward = _backward(after, values, played.at_loss, names or {})
    if not backward:
        raise CheckError(f"nothing after `{played.loss}` assigns a gradient, such as d{sorted(values)[0]}.")
    constants = played.final | played.at_loss
    first = _source(played.source, forward)
    second = _source(played.source, backward)
    run_first = Statements(first, constants, _in_order(forward))
    run_second = Statements(second, constants, _in_order(backward))
    return Pass(
        forward=run_first,
        backward=run_second,
        inputs=inputs,
        out=() if played.loss == "loss" else (played.loss,),
        names=dict(names or {}),
        wanted=None,
        optional=frozenset(),
        forward_source=first,
        backward_source=second,
        scope=run_second.scope,
    )


def _in_order(statements: Sequence[ast.stmt]) -> tuple[str, ...]:
    """Return the names that statements assign, as they come."""
    return tuple(
        dict.fromkeys(n for s in simple_statements(list(statements)) for n in sorted(writes_surely(s)))
    )


def _source(whole: Source, statements: Sequence[ast.stmt]) -> Source:
    names = frozenset(n for s in simple_statements(list(statements)) for n in writes_surely(s))
    starts = whole.starts if isinstance(whole, Cells) else ()
    return Cells(tuple(statements), whole.lines, whole.first, whole.file, names, starts)


def _until_training(statements: Sequence[ast.stmt], loss: str) -> list[ast.stmt]:
    """Return the statements before the first loop that assigns the loss again: training is not judged."""
    kept = []
    for s in statements:
        if isinstance(s, ast.For | ast.While) and loss in writes(s):
            break
        kept.append(s)
    return kept


def _inputs(played: Played, after: Sequence[ast.stmt]) -> dict[str, Tensor]:
    """Return the leaves that require a gradient; without any, the tensors whose gradient is assigned."""
    values = {k: v for k, v in played.at_loss.items() if isinstance(v, Tensor) and v.is_floating_point()}
    leaves = {k: v for k, v in values.items() if v.requires_grad and v.is_leaf}
    if leaves:
        used = set().union(*(reads(s) for s in played.ran))
        return {k: v for k, v in leaves.items() if k in used}
    written = {n for s in after for n in writes(s)}
    made = {n for s in played.ran for n in writes_surely(s) if reads(s) & set(values)}
    return {k: v.detach() for k, v in values.items() if f"d{k}" in written and k not in made}


def _forward(before: Sequence[ast.stmt], inputs: set[str], loss: str) -> list[ast.stmt]:
    """Return the statements that lead from the inputs to the loss, in order."""
    tainted, candidates = set(inputs), []
    for s in before:
        if isinstance(s, ast.Expr | ast.FunctionDef | ast.Import | ast.ImportFrom):
            continue
        if reads(s) & tainted and not writes(s) & inputs:
            tainted |= writes_surely(s)
            candidates.append(s)
    needed, kept = {loss}, []
    for s in reversed(candidates):
        if writes_surely(s) & needed:
            kept.append(s)
            needed |= reads(s)
    return kept[::-1]


def _backward(
    after: Sequence[ast.stmt], values: set[str], at_loss: Namespace, names: Mapping[str, str]
) -> list[ast.stmt]:
    """Return the statements that make gradients, and those that make what they use."""
    wanted = {f"d{v}" for v in values} | {f"d_{v}" for v in values} | set(names)
    known = set(values)
    needed: set[str] = set(wanted)
    kept = []
    for s in reversed(after):
        if isinstance(s, ast.FunctionDef | ast.Import | ast.ImportFrom):
            continue
        if writes_surely(s) & needed and not writes_surely(s) & known:
            kept.append(s)
            needed |= {n for n in reads(s) if n not in at_loss}
    return kept[::-1]
