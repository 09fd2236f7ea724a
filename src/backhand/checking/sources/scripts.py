"""A script or a notebook as passes: which statements are its forward, which its backward, what its inputs.

The statements are run once, as they stand. Then those on which the loss depends, and those that make
gradients after it, are cut out and become the two functions of a pass, which can be run again: in float64, on
other values, statement by statement.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from traceback import walk_tb
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.precision import converted
from backhand.checking.running.program import Namespace
from backhand.checking.running.statements import needs, reads, simple_statements, writes, writes_surely
from backhand.checking.running.trials import StatementError
from backhand.checking.sources.cells import Cells
from backhand.checking.sources.chapters import chapters, filled, is_definition, needed_for, tainted, trains
from backhand.checking.sources.playing import Loss, Played
from backhand.checking.sources.protocol import Pass
from backhand.errors import CheckError


class Statements:
    """Statements as a function: from variables to the variables that they assign."""

    def __init__(self, source: Cells, constants: Namespace):
        self.source: Cells = source
        self.constants: Namespace = constants
        simple = source.simple
        self.names: tuple[str, ...] = tuple(
            dict.fromkeys(n for s in simple for n in sorted(writes_surely(s)))
        )
        self.__name__ = "statements"

    def __call__(self, **given: Any) -> dict[str, Any]:
        """Run them and return what they assigned."""
        namespace = self.scope(given)
        raised: StatementError | None = None
        for code in self._codes:  # as in a notebook: a cell that raises ends, those below it run
            try:
                exec(code, namespace)
            except Exception as error:  # the user's code may raise anything
                # of the script itself, not of the function that it called
                lines = [n for f, n in walk_tb(error.__traceback__) if f.f_code is code]
                raised = raised or StatementError(error, namespace, lines[0] if lines else 0)
        if raised is not None:
            raise raised from raised.error
        return {k: namespace[k] for k in self.names if k in namespace}

    @cached_property
    def _codes(self) -> list[CodeType]:
        """The statements of each cell, compiled."""
        cells = groupby(self.source.statements, self.source.cell)
        file = self.source.file or "<cell>"
        return [compile(ast.Module(list(its), []), file, "exec") for _, its in cells]

    def scope(self, given: Mapping[str, Any]) -> Namespace:
        """Return the variables at the beginning."""
        dtype = torch.get_default_dtype()  # the one in which this run is made
        constants = {
            k: converted(v, dtype) if isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in self.constants.items()
            if k not in given
        }
        return _at_home({**constants, **given})


def _at_home(namespace: Namespace) -> Namespace:
    """Let the script's own functions read these variables, not those of the script's first run."""
    for name, value in namespace.items():
        if isinstance(value, FunctionType) and value.__module__ == "__main__":
            own = FunctionType(value.__code__, namespace, name, value.__defaults__, value.__closure__)
            own.__kwdefaults__ = value.__kwdefaults__
            namespace[name] = own
    return namespace


@dataclass(frozen=True)
class Chapter:
    """A part of a script whose gradients are judged together.

    Attributes:
        chosen: the pass that makes them.
        gradients: the gradients that its own statements assign, not those that they only use.
        statements: its own statements.
    """

    chosen: Pass
    gradients: frozenset[str]
    statements: tuple[ast.stmt, ...]

    @property
    def assigning(self) -> list[ast.stmt]:
        """The statements that assign its gradients."""
        return [s for s in self.statements if writes_surely(s) & self.gradients]


def as_chapters(played: Played) -> list[Chapter]:
    """Return the passes that are hidden in a script: one for each exercise of each loss.

    Raises:
        CheckError: there is no loss, or there are no gradients.
    """
    if not played.losses:
        raise CheckError(
            _why_no_loss(played)
            or f"no statement assigns {played.loss!r}, a scalar tensor: name the loss so, or say "
            "--loss NAME; if a loop or a function assigns it, the gradients belong there too."
        )
    found: list[Chapter] = []
    taken: set[ast.stmt] = set()  # a gradient is that of the last loss before it that depends on its tensor
    for loss in reversed(played.losses):
        start = played.ran.index(loss.statement) + 1
        after = [s for s in _until_training(played.ran[start:], played.loss) if s not in taken]
        its = _chapters(played, loss, played.ran[:start], after)
        taken |= {s for chapter in its for s in chapter.assigning}
        found += its
    found.sort(key=lambda chapter: played.ran.index(chapter.assigning[0]))
    if not found:
        some = next((k for k, v in played.losses[0].values.items() if _is_leaf(v)), "logits")
        raise CheckError(f"nothing after `{played.loss}` assigns a gradient, such as d{some}.")
    return found


def _why_no_loss(played: Played) -> str:
    """Say that a statement would assign the loss, if there is one."""
    its = (s for s in played.source.statements if played.loss in writes_surely(s) and not is_definition(s))
    statement = next(its, None)
    if statement is None:
        return ""
    place = played.source.place(statement)
    if played.loss in played.final:
        over_numpy = isinstance(played.final[played.loss], np.ndarray | np.generic)
        how = f": over NumPy, let a function give it with its gradients, `return {played.loss}, dW`"
        return f"{place} assigns {played.loss!r}, but no scalar tensor{how * over_numpy}."
    return f"{place} assigns {played.loss!r}, but it did not come to that."


def _chapters(
    played: Played, loss: Loss, before: Sequence[ast.stmt], after: Sequence[ast.stmt]
) -> list[Chapter]:
    inputs = _inputs(played, loss, before, after)
    made = tainted(before, inputs)
    leading = needed_for(tainted(_without_gradients(before, played.loss), inputs), [played.loss])
    inputs = {k: v for k, v in inputs.items() if any(k in reads(s) for s in leading)}
    values = set(inputs) | {n for s in leading for n in writes_surely(s)}
    gradients = {f"{d}{v}" for v in values for d in ("d", "d_")} - values
    # a statement that binds a value of the forward anew would change what the gradients are of
    after = [s for s in after if not _binds_anew(s) & values]
    found: list[Chapter] = []
    for own in chapters(after, gradients):
        assigned = frozenset(g for s in own for g in writes_surely(s) & gradients)
        if assigned:
            used = needed_for(after[: after.index(own[0])], _open(own, assigned), given=values)
            used += needed_for(own, assigned, given=values, kept_whole=assigned)
            chosen = _pass(played, loss, inputs, (leading, made), used)
            found.append(Chapter(chosen, assigned, tuple(own)))
    return found


def _binds_anew(statement: ast.stmt) -> set[str]:
    """Return the variables to which a statement gives new values; in a loop, `h = hs[t]` and `t` get none."""
    inner = [s for s in simple_statements([statement]) if s is statement or not _looks_up(s)]
    return {name for s in inner for name in writes_surely(s)}


def _looks_up(statement: ast.stmt) -> bool:
    """Tell whether a statement only gives another name to what lies somewhere."""
    if not isinstance(statement, ast.Assign):
        return False
    value = statement.value
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    while any(isinstance(p, ast.Subscript | ast.Attribute) for p in parts):
        parts = [p.value if isinstance(p, ast.Subscript | ast.Attribute) else p for p in parts]
    return all(isinstance(p, ast.Name) for p in parts)


def _without_gradients(before: Sequence[ast.stmt], loss: str) -> list[ast.stmt]:
    """Return the statements without the exercises above: their helpers may have names of the forward's."""
    names = {n for s in before for n in writes_surely(s)}
    gradients = {f"{d}{n}" for n in names for d in ("d", "d_")}
    forward = set(needed_for(before, [loss]))
    return [s for s in before if s in forward or not writes_surely(s) & gradients]


def _open(own: Sequence[ast.stmt], assigned: frozenset[str]) -> set[str]:
    """Return the variables that a chapter's statements use without having made them."""
    return _taken_from_above(needed_for(own, assigned, kept_whole=assigned))


def _taken_from_above(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the variables that statements use without having made them."""
    made: set[str] = set()
    found: set[str] = set()
    for s in statements:
        found |= needs(s) - made
        made |= writes_surely(s)
    return found


def _pass(
    played: Played,
    loss: Loss,
    inputs: dict[str, Tensor],
    forwards: tuple[list[ast.stmt], list[ast.stmt]],
    backward: list[ast.stmt],
) -> Pass:
    """Return the pass; its forward also makes what the backward uses though the loss does not need it."""
    leading, made = forwards
    values = {n for s in leading for n in writes_surely(s)} | set(inputs)
    backward = [filled(s, values, played.loss) for s in backward]
    used = set(needed_for(made, _taken_from_above(backward) - values))
    forward = [s for s in made if s in used or s in leading]
    constants = played.final | loss.values
    run_first = Statements(_source(played.source, forward), constants)
    run_second = Statements(_source(played.source, backward), constants)
    return Pass(
        forward=run_first,
        backward=run_second,
        inputs=inputs,
        out=() if played.loss == "loss" else (played.loss,),
        names={},
        wanted=None,
        optional=frozenset(),
        forward_source=run_first.source,
        backward_source=run_second.source,
        scope=run_second.scope,
    )


def _source(whole: Cells, statements: Sequence[ast.stmt]) -> Cells:
    names = frozenset(n for s in simple_statements(list(statements)) for n in writes_surely(s))
    return whole.of(statements, names)


def _until_training(statements: Sequence[ast.stmt], loss: str) -> list[ast.stmt]:
    """Return the statements before the first loop that assigns the loss again: training is not judged."""
    at = next((i for i, s in enumerate(statements) if trains(s, loss)), len(statements))
    return list(statements[:at])


def _is_leaf(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and value.is_leaf


def _inputs(
    played: Played, loss: Loss, before: Sequence[ast.stmt], after: Sequence[ast.stmt]
) -> dict[str, Tensor]:
    """Return the leaves that require a gradient; without any, the tensors whose gradient is assigned."""
    values = {k: v for k, v in loss.values.items() if isinstance(v, Tensor) and v.is_floating_point()}
    leaves = {k: v for k, v in values.items() if _is_leaf(v)}
    if leaves:  # those that the script never reads are left from something else
        used = set().union(*(reads(s) for s in played.ran))
        return {k: v for k, v in leaves.items() if k in used}
    written = {n for s in after for n in writes(s)}
    made = {n for s in before for n in writes_surely(s) if reads(s) & set(values)}
    return {k: v.detach() for k, v in values.items() if f"d{k}" in written and k not in made}
