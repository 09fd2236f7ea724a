"""A statement that puts something into another array than that of a wrong gradient, for which it is meant."""

import ast
from collections.abc import Iterator
from dataclasses import replace

from backhand.checking.mistakes.budget import Budget
from backhand.checking.mistakes.edits import Edit, Place
from backhand.checking.mistakes.evidence import Case
from backhand.checking.mistakes.finding import instead
from backhand.checking.mistakes.mending import Mended
from backhand.checking.mistakes.solving import first_right
from backhand.checking.mistakes.workbench import Focus
from backhand.checking.running.program import Source
from backhand.checking.running.statements import reads, root_of


def by_place(case: Case, budget: Budget) -> Mended:
    """Find a statement with which the gradient is right if what it puts somewhere in vain is put there."""
    source, program = case.chosen.backward_source, case.program
    if source is None or program is None or not program.path.isidentifier():
        return None, budget
    for statement in _in_vain(source, program.variable):
        whole = case.program_with(statement)
        copies = {own: copied for copied, own in whole.originals.items()} if whole is not None else {}
        if whole is None or statement not in copies:
            continue
        place, target = _root_place(copies[statement]), _target(statement)
        assert target is not None
        there = program.variable + ast.unparse(target).removeprefix(place.node.id)
        mended = instead(target, ast.parse(there, mode="eval").body)
        hint = f"Nothing reads {place.node.id} after that line."
        edit = Edit(place, ast.Name(program.variable, place.node.ctx), replace(mended, hint=hint))
        found, budget = first_right(Focus.on(whole, None), [edit], budget)
        if found is not None:
            return replace(found.mends, at=(statement,)), budget
    return None, budget


def _in_vain(source: Source, variable: str) -> Iterator[ast.stmt]:
    """Yield the statements that add to, or put into elements of, what nothing reads afterwards."""
    nodes = [n for top in source.statements for n in ast.walk(top)]
    loops = [frozenset(ast.walk(n)) for n in nodes if isinstance(n, ast.For | ast.While)]
    for statement in source.simple:
        target = _target(statement)
        filled = root_of(target) if target is not None else variable
        within = [loop for loop in loops if statement in loop]
        others = (s for s in source.simple if s is not statement)
        later = (s for s in others if s.lineno > statement.lineno or any(s in loop for loop in within))
        if filled not in (None, variable) and not any(filled in reads(s) for s in later):
            yield statement


def _target(statement: ast.stmt) -> ast.expr | None:
    """Return what a statement adds to, or puts something into, in a variable; None where it does neither."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AugAssign):
        targets = [statement.target]
    (target,) = targets if len(targets) == 1 else (None,)
    held = target
    while isinstance(held, ast.Subscript):
        held = held.value
    is_filled = isinstance(statement, ast.AugAssign) or held is not target
    return target if is_filled and isinstance(held, ast.Name) else None


def _root_place(statement: ast.stmt) -> Place:
    """Return where the name of the variable stands that a statement fills."""
    parent, slot, index, node = statement, "target", None, _target(statement)
    if isinstance(statement, ast.Assign):
        slot, index = "targets", 0
    while isinstance(node, ast.Subscript):
        parent, slot, index, node = node, "value", None, node.value
    return Place(parent, slot, index, node)
