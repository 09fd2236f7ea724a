"""The line of a mistake, where the run tells it and the numbers do not."""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backhand.checking.mistakes.evidence import Case
from backhand.checking.mistakes.finding import IN_A_LINE, Finding
from backhand.checking.mistakes.neighbourhood import EXACT
from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.names import is_called_gradient, root
from backhand.checking.running.returning import returns
from backhand.checking.running.slicing import computes, multiplies, takes_apart
from backhand.checking.running.statements import assigned, made_of, reads, writes, writes_surely
from backhand.checking.verdicts.repairing import watched

# A run in which every change is looked at; larger inputs are cropped before.
MOST_ELEMENTS = 2**20


def where_items_are_put(case: Case) -> tuple[ast.stmt, ...]:
    """Return the one statement that puts something at indices of a gradient, and does not add it."""
    source, variable = case.chosen.backward_source, root(case.paths.get(case.name, ""))
    plain = [s for s in source.simple if isinstance(s, ast.Assign)] if source is not None else []
    put = [s for s in plain if isinstance(s.targets[0], ast.Subscript) and variable in writes_surely(s)]
    return tuple(put) if len(put) == 1 else ()


def where_it_may_be(case: Case, found: Finding) -> Finding:
    """Return a finding with the line that the run itself tells, where that is nearer than what it has."""
    found = _where_nothing_arrives(case, found)
    if found.at or not case.fitted:
        return found
    return replace(found, at=_where_it_is_put(case))


def _where_nothing_arrives(case: Case, found: Finding) -> Finding:
    """Return a finding with the line that begins a gradient of nothing that arrives, where that shows."""
    failures = case.probes.failures if case.probes is not None else ()
    told = [f for f in failures if f.kind == "ignores_upstream" and case.gradient in f.detail["gradients"]]
    begun = _begun_of_nothing(case, told[0].detail["gradients"]) if told else ()
    if not begun or begun[0] in found.at[:1]:
        return found
    words = re.sub(f"^{IN_A_LINE}[^`]*`, ", "", found.words)  # of another line
    return replace(found, words=words, at=tuple(dict.fromkeys((*begun, *found.at))))


def _begun_of_nothing(case: Case, alike: Sequence[str]) -> tuple[ast.stmt, ...]:
    """Return the statement that gives a gradient its first value, if that is made of no upstream gradient.

    If that is made of another gradient, or of one variable that all gradients that misbehave alike are made
    of, the statement where that begins. Before it comes a `return` where another gradient is multiplied by
    the upstream one.
    """
    source, outputs, fault = case.chosen.backward_source, case.first.draw.trace.outputs, case.culprit.fault
    if source is None or case.name not in case.paths:
        return ()
    arriving = {case.chosen.names.get(n, f"d{n}") for n in outputs}
    plain = [s for s in source.simple if isinstance(s, ast.Assign | ast.AugAssign)]
    plain = [s for s in plain if not _makes_room(s.value)]
    made = made_of(plain, arriving)
    if fault is not None and made.isdisjoint(reads(fault.statement)):
        in_a_loop = fault.statement in plain and fault.statement not in source.statements
        if in_a_loop or fault.gives_a_number:  # what a running gradient is made of is nearer than that
            return (fault.statement,)
    last = {r.lineno: r for r in returns(source.statements)}
    known = {*arriving, *case.first.draw.trace.values, *(n for s in source.simple for n in assigned(s))}
    variable, begun, seen = root(case.paths[case.name]), None, set[str]()
    multiplied = {s.lineno for s in plain if reads(s) & arriving}
    at: list[ast.stmt] = [r for r in last.values() if variable in reads(r) and r.lineno in multiplied]
    while variable not in seen:
        seen.add(variable)
        makers = [s for s in plain if variable in writes_surely(s) and not takes_apart(s)]
        first = next(
            (s for s in makers if made.isdisjoint(reads(s) - {variable}) and _begins(s, variable)), None
        )
        if first is None or first in case.innocent:
            break
        value = first.value
        others = {n for n in reads(first) - {variable} if is_called_gradient(n, known)}
        others = others or _shared(case, first, alike)
        if isinstance(value, ast.Name) and first.lineno in last:
            others = {value.id}
            at += [last[first.lineno]] if first.lineno in multiplied else []
        else:
            begun = first if computes(first) else begun
        variable = others.pop() if len(others) == 1 else variable
    return (*at, begun) if begun is not None else ()


def _shared(case: Case, statement: ast.stmt, alike: Sequence[str]) -> set[str]:
    """Return what a statement reads that all these gradients are made of; of several what is made last."""
    source, paths = case.chosen.backward_source, case.paths
    tensors = [name for name, gradient in case.first.draw.matched.items() if gradient in alike]
    made = {root(paths[name]) for name in tensors if name in paths}
    simple = source.simple if source is not None else []
    read = [reads(s) for s in simple if not made.isdisjoint(writes_surely(s)) and computes(s)]
    if len(made) < 2 or not read:
        return set()
    makers = [s for s in simple if computes(s) and not takes_apart(s) and s not in case.innocent]
    open_ = {n for s in makers for n in writes_surely(s)} - made
    shared = reads(statement).intersection(*read) & open_
    return {n for n in shared if all(n in made_of(simple, [other]) for other in shared)}


def _begins(statement: ast.Assign | ast.AugAssign, variable: str) -> bool:
    """Tell whether a statement gives a variable a value or adds one to it, and does not only multiply it."""
    if isinstance(statement, ast.AugAssign):
        return isinstance(statement.op, ast.Add | ast.Sub)
    value = statement.value
    adds = isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add | ast.Sub)
    names = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
    return adds or variable not in names


def _makes_room(value: ast.expr) -> bool:
    """Tell whether an expression makes tensors for others to fill, which are made of nothing."""
    if isinstance(value, ast.Tuple | ast.List):
        return all(map(_makes_room, value.elts))
    if isinstance(value, ast.GeneratorExp | ast.ListComp):
        return _makes_room(value.elt)
    called = value.func if isinstance(value, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else ""
    return name.removeprefix("new_").startswith(("zeros", "empty"))


def _where_it_is_put(case: Case) -> tuple[ast.stmt, ...]:
    """Return the statement that puts something into just the elements that are wrong, and into few others.

    Of several the one that puts something into the fewest; nothing where that is into all.
    """
    source, scene = case.chosen.backward_source, case.fitted[0]
    path = _filled(case, case.paths.get(case.name, ""))
    is_small = isinstance(scene.value, Tensor) and scene.value.numel() <= MOST_ELEMENTS
    if source is None or not path.isidentifier() or not scene.has_its_shape or not is_small:
        return ()
    off = (scene.value - scene.expected).abs() > EXACT * scene.expected.abs().max()
    watched(case.chosen, case.first.draw, seen := _Changes(path))
    around = {s: at for s, at in seen.changed.items() if at.shape == off.shape and bool((at | ~off).all())}
    few = {s: int(at.sum()) for s, at in around.items() if not bool(at.all())}
    return (min(few, key=lambda s: few[s]),) if few and bool(off.any()) else ()


def _filled(case: Case, variable: str) -> str:
    """Return the variable that is filled for a gradient, which a number or the like then multiplies."""
    source, held = case.chosen.backward_source, case.seen.namespace if case.seen is not None else {}
    makers = [s for s in source.simple if variable in writes_surely(s)] if source is not None else []
    if len(makers) != 1 or not multiplies(makers[0]):
        return variable
    shape = case.fitted[0].expected.shape
    alike = [n for n in reads(makers[0]) if isinstance(v := held.get(n), Tensor) and v.shape == shape]
    return alike[0] if len(alike) == 1 else variable


class _Changes(Watcher):
    """Notes which elements of a variable each statement changes, once it has all of them."""

    def __init__(self, variable: str):
        self.variable = variable
        self.changed: dict[ast.stmt, Tensor] = {}
        self._before: Tensor | None = None

    def looks(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether a statement may change it."""
        return self.variable in writes(statement)

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Compare it with what it held before."""
        now = variables.get(self.variable)
        before, self._before = self._before, now.clone() if isinstance(now, Tensor) else None
        if before is None or self._before is None or before.shape != self._before.shape:
            return
        at = (before != self._before).cpu()
        self.changed[statement] = at | self.changed.get(statement, torch.zeros_like(at))
