"""The targets of a hypothesis: told by the run, predicting a tensor, or mending statements to be right."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from backhand.checking.mistakes.branches import doubled
from backhand.checking.mistakes.budget import Budget
from backhand.checking.mistakes.evidence import Case
from backhand.checking.mistakes.finding import IN_A_LINE, Finding
from backhand.checking.mistakes.mending import PAIRS, Mended, by_dropped_term
from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.mistakes.workbench import Program
from backhand.checking.running.names import root
from backhand.checking.running.statements import line_of, writes_surely

# Two draws agree on a factor to what either of them may be off.
TWICE = 2.0


@dataclass(frozen=True)
class Hypothesis:
    """One way in which a gradient can have become wrong.

    Attributes:
        name: what is said to be ruled out where it does not hold.
        asked: looks whether it holds, and returns what is left of the budget.
        when: whether it can apply at all.
        also: whether it is worth mentioning beside a simpler one that holds as well.
        predicts: whether it tells what the gradient is, and not which statement made it so.
    """

    name: str
    asked: Callable[[Case, Budget], Mended]
    when: Callable[[Case], bool] = lambda case: True
    also: bool = False
    predicts: bool = False


def _as_read(case: Case, found: Finding) -> Finding | None:
    """Return a prediction as the statements can have made it true, or None; without source, as it is.

    They must read what is said to be used; and a branch is there twice only if a term of theirs can go, else
    it is multiplied by two.
    """
    if case.read is None:
        return found
    if found.kind == "repeated_branch" and case.program is not None:
        return found if by_dropped_term(case.program, Budget())[0] is not None else doubled(found)
    used = found.detail.get("used")
    if not isinstance(used, str) or not used[:1].isidentifier():
        return found
    tensors = {gradient: tensor for tensor, gradient in case.first.draw.matched.items()}
    variable = root(case.paths.get(tensors.get(used, ""), used)).removesuffix(".T")
    return found if variable in case.read else None


def _predicted(finder: Callable[[Scene], Finding | None], scenes: Sequence[Scene]) -> Finding | None:
    """Return what a finder finds on every one of these scenes."""
    found = finder(scenes[0]) if scenes else None
    if found is None or not all(_agrees(found, finder(s), s) for s in scenes[1:]):
        return None
    return found


def _agrees(found: Finding, other: Finding | None, scene: Scene) -> bool:
    """Tell whether two draws gave the same explanation: the same kind, and the same constant factor."""
    if other is None or other.kind != found.kind:
        return False
    a, b = found.detail.get("factor"), other.detail.get("factor")
    return a is None or b is None or abs(a - b) <= TWICE * scene.exact * abs(a)


def tells(name: str, fact: Callable[[Case], Finding | None]) -> Hypothesis:
    """Return a hypothesis that the run itself tells."""
    return Hypothesis(name, lambda case, budget: (fact(case), budget))


def predicts(
    name: str,
    finder: Callable[[Scene], Finding | None],
    where: Callable[[Case], tuple[ast.stmt, ...]] = lambda case: (),
    *,
    also: bool = False,
) -> Hypothesis:
    """Return a hypothesis that predicts the user's tensor, brought into the right shape if need be.

    Args:
        name, also: see `Hypothesis`.
        finder: tells what holds of one run.
        where: the statements that can have made it so, where there are few.
    """

    def asked(case: Case, budget: Budget) -> Mended:
        found = _predicted(finder, case.fitted)
        found = _as_read(case, found) if found is not None else None
        if found is not None and not case.scenes[0].has_its_shape:
            shape = tuple(case.scenes[0].value.shape)
            found = replace(found, words=f"{found.words}; besides, its shape is {shape}")
        if found is not None and (at := where(case)):
            found = replace(found, at=at)
        return found, budget

    return Hypothesis(name, asked, lambda case: bool(case.fitted), also, predicts=True)


def predicts_shape(name: str, finder: Callable[[Scene], Finding | None]) -> Hypothesis:
    """Return a hypothesis that predicts a tensor of a wrong shape."""
    return Hypothesis(
        name,
        lambda case, budget: (_predicted(finder, case.scenes), budget),
        lambda case: bool(case.scenes) and not case.scenes[0].has_its_shape,
    )


def mends(
    name: str,
    mender: Callable[[Program, Budget], Mended],
    when: Callable[[Case], bool] = lambda case: True,
) -> Hypothesis:
    """Return a hypothesis that mends the user's statements.

    Where it is known which one is at fault, little is tried in the others.
    """

    def asked(case: Case, budget: Budget) -> Mended:
        assert case.program is not None
        share = budget if case.at_fault is None else budget.at_most(PAIRS)
        found, left = mender(case.program, share)
        return found, replace(budget.less(share.tries - left.tries), suspect=left.suspect)

    return Hypothesis(name, asked, lambda case: when(case) and is_wrong(case.program))


def mends_fault(
    name: str,
    mender: Callable[[Program, Budget], Mended],
    when: Callable[[Case], bool] = lambda case: True,
) -> Hypothesis:
    """Return a hypothesis that mends the one statement at fault, where that is known: cheap, and exact."""

    def asked(case: Case, budget: Budget) -> Mended:
        assert case.at_fault is not None
        found, budget = mender(case.at_fault, budget)
        return with_its_line(case, found), budget

    return Hypothesis(name, asked, lambda case: when(case) and is_wrong(case.at_fault))


def is_wrong(program: Program | None) -> TypeGuard[Program]:
    """Tell whether statements are there that are wrong as they are: else no edit tells what made them so."""
    return program is not None and not program.is_right


def predicts_fault(name: str, finder: Callable[[Scene], Finding | None]) -> Hypothesis:
    """Return a hypothesis that predicts what the statement at fault gives, where that is known."""
    return Hypothesis(
        name,
        lambda case, budget: (with_its_line(case, _predicted(finder, case.at_turns)), budget),
        lambda case: bool(case.at_turns),
    )


def with_its_line(case: Case, found: Finding | None) -> Finding | None:
    """Return a finding with the line at fault, where that is not the gradient's own, nor told already."""
    fault = case.culprit.fault
    if found is None or fault is None or found.words.startswith(IN_A_LINE):
        return found
    if root(case.paths.get(case.name, "")) in writes_surely(fault.statement):
        return found
    line = line_of(fault.statement)
    return replace(found, words=f"{IN_A_LINE}{line}`, {found.words}")
