"""Name a culprit's mistake: one list of hypotheses, simplest first; the first that reproduces it is named.

A hypothesis has a target. It is *told* by the run itself; or it *predicts* the user's tensor, by a slip put
into the right one; or it *mends* the user's statements, which then give the right tensor. It holds if it does
so on every draw. A new mistake is a row of the table.
"""

import ast
import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from backhand.checking.mistakes import (
    branches,
    facts,
    mending,
    probed,
    shapes,
    turns,
    upstreams,
    whereabouts,
)
from backhand.checking.mistakes.budget import Budget
from backhand.checking.mistakes.elsewhere import (
    another_known_value,
    another_value_of_the_forward,
    number_for_a_tensor,
    what_belongs,
)
from backhand.checking.mistakes.evidence import Case, Probes
from backhand.checking.mistakes.finding import IN_A_LINE, Finding, listed
from backhand.checking.mistakes.misplaced import by_place
from backhand.checking.mistakes.neighbourhood import EXACT
from backhand.checking.mistakes.targets import (
    Hypothesis,
    is_wrong,
    mends,
    mends_fault,
    predicts,
    predicts_fault,
    predicts_shape,
    tells,
    with_its_line,
)
from backhand.checking.mistakes.wording import in_words
from backhand.checking.mistakes.workbench import Program
from backhand.checking.report import Mistake
from backhand.checking.running.containers import flatten
from backhand.checking.running.devices import tried_first
from backhand.checking.running.names import root
from backhand.checking.running.sandbox import running
from backhand.checking.running.slicing import taken_together
from backhand.checking.running.statements import assigned, may_be_wrong, reads, writes_surely
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.fault import Fault
from backhand.checking.verdicts.localising import Judgement


def _is_not_pinned(case: Case) -> bool:
    """Tell whether the statement at fault is not known: all that make the gradient are to be looked at."""
    return case.at_fault is None


def _replaced_upstream(case: Case, budget: Budget) -> mending.Mended:
    unread = [path for path, _ in case.unread if path.isidentifier()]
    if not unread or not is_wrong(case.program):
        return None, budget
    return mending.by_other_upstream(case.program, budget, unread)


def _exchanged(case: Case, budget: Budget) -> mending.Mended:
    """Find another culprit in whose line this one's belongs, or the other way round."""
    for name in case.first.culprits.keys() - {case.name}:
        other = replace(case, name=name, judged=tuple(j for j in case.judged if name in j.culprits))
        for here, there, words in (
            (case, other, "`{}` belongs here, and stands in the line of {}"),
            (other, case, "`{}` belongs in the line of {}"),
        ):
            seen, made = there.seen, there.culprit.value
            lines = [s for s in seen.statements if isinstance(s, ast.Assign)] if seen is not None else []
            fits = made is None or made.shape == here.culprit.expected.shape
            if not lines or not fits or not is_wrong(here.program):
                continue
            words = words.format(ast.unparse(lines[0].value), other.gradient)
            hint = "Look whether the two lines are exchanged."
            finding = Finding("swapped", {"with": other.gradient}, words, hint=hint)
            found, budget = mending.by_exchange(here.program, budget, lines[0].value, finding)
            if found is not None:
                return (found if here is case else finding), budget
    return None, budget


def _zeros(case: Case, budget: Budget) -> mending.Mended:
    """Find zeros; where terms cancel but for rounding, as a softmax's do, an edit that shows why."""
    found, budget = predicts("", branches.all_zero).asked(case, budget)
    cancels = any(bool(scene.value.any()) for scene in case.fitted)
    if found is None or not cancels or not is_wrong(case.program):
        return found, budget
    mended, budget = mending.by_edit(case.program, budget)
    return mended or found, budget


def _uncut(case: Case, budget: Budget) -> mending.Mended:
    found, budget = predicts_shape("", shapes.uncut).asked(case, budget)
    at = facts.return_of(case) if case.chosen.contract == "returned" else ()
    return found if found is None else replace(found, at=at), budget


def _added_too_early(case: Case, budget: Budget) -> mending.Mended:
    found, budget = predicts("", upstreams.added_too_early).asked(case, budget)
    if found is None:
        return None, budget
    both = {found.detail["used"], found.detail["expected"]}
    return replace(found, at=tuple(s for s in case.suspects if both <= reads(s))), budget


def _the_other_way(case: Case, budget: Budget) -> mending.Mended:
    found, budget = turns.by_direction(case.program, budget) if case.program is not None else (None, budget)
    return (found if found is None else _at_own_loop(case, found)), budget


# In the order of simplicity: of two that hold, the earlier is named and the later mentioned.
HYPOTHESES: tuple[Hypothesis, ...] = (
    tells("a change through another name", facts.changed_through_another_name),
    tells("one tensor in two places", facts.one_tensor_twice),
    tells("another variable than the right one is returned", facts.right_but_unreturned),
    tells("another place among what is returned", facts.in_another_place),
    tells("a number that is returned", facts.a_whole_number),
    tells("a line above that raised", facts.raised_above),
    tells("a slice that leaves nothing", facts.cut_away),
    tells("no value", facts.no_value),
    tells("a variable that is not there", facts.unassigned),
    tells("a variable that is not carried on", facts.not_carried_on),
    mends("no zeros where a sum begins", mending.by_beginning),
    tells("infinities", facts.not_finite),
    tells("an output that does not depend on it", facts.nothing_depends_on_it),
    mends("a change in place", mending.by_copy, lambda case: bool(case.first.draw.changed)),
    mends_fault("an edit of the line that raised", mending.by_edit, lambda case: case.fails),
    tells("exchanged names", facts.swapped),
    Hypothesis("exchanged lines", _exchanged),
    mends("`=` for `+=`", mending.by_accumulating),
    Hypothesis("another array that is filled", by_place, lambda case: is_wrong(case.program)),
    Hypothesis("an upstream gradient that is not read", _replaced_upstream, _is_not_pinned),
    mends("a slip in a line that has spoilt another gradient", mending.by_suspect),
    # the shape
    predicts_shape("a transpose", shapes.transposed),
    predicts_shape("the shape alone", shapes.right_values),
    Hypothesis("what is not cut away", _uncut, lambda case: bool(case.scenes)),
    predicts_shape("a missing sum", shapes.unreduced),
    # the numbers
    predicts("the opposite order", shapes.turned),
    tells("zeros that nothing was put into before a line raised", facts.raised_before_it_was_filled),
    Hypothesis("zeros", _zeros, lambda case: bool(case.fitted)),
    tells("another answer in each run", probed.differs_from_run_to_run),
    predicts("a sign or a factor of the whole", branches.whole_factor, also=True),
    predicts("a missing branch", partial(branches.with_coefficient, 0.0), also=True),
    predicts("a branch twice", partial(branches.with_coefficient, 2.0)),
    predicts("a branch with the opposite sign", partial(branches.with_coefficient, -1.0), also=True),
    predicts("a branch times a factor", branches.scaled),
    predicts("a branch of an upstream gradient", branches.in_upstreams),
    mends("a line that adds too late", turns.by_order),
    mends_fault("a small edit", mending.by_edit),
    tells("a number in a tensor's place", lambda case: with_its_line(case, number_for_a_tensor(case))),
    tells("digits that are missing", probed.right_but_for_digits),
    predicts_fault("the shape alone", shapes.right_values),
    tells("what is right elsewhere", lambda case: with_its_line(case, another_known_value(case))),
    predicts("a transpose", shapes.transposed, also=True),
    predicts("repeated indices", upstreams.overwritten, whereabouts.where_items_are_put),
    predicts("a block that is left out", shapes.cut_short),
    predicts("another upstream gradient", upstreams.another_upstream),
    Hypothesis(
        "an upstream gradient that is added too early", _added_too_early, lambda case: bool(case.fitted)
    ),
    predicts("a missing local derivative", upstreams.handed_on),
    predicts("a path of a branch", branches.paths),
    predicts("another point", upstreams.another_point),
    predicts("a factor too many or too few", upstreams.extra_factor),
    predicts("two factors too few", upstreams.product_left_out),
    predicts("another tensor's gradient", upstreams.another_gradient, also=True),
    tells("a guard against infinities", facts.finite_by_a_guard),
    # the statements
    mends_fault("a small edit and a factor", mending.by_edit_and_factor),
    mends_fault("two small edits of one line", partial(mending.by_two_edits, at_fault=True)),
    mends_fault("a tensor and a constant as factors", mending.by_factor_and_constant),
    mends("a small edit", mending.by_edit),
    Hypothesis("a loop that goes the wrong way", _the_other_way),
    mends("a constant factor within the line", mending.by_constant, _is_not_pinned),
    predicts("a missing branch and a slip in what is there", upstreams.besides_a_branch),
    predicts_shape("a sum too many", shapes.overreduced),
    # what is left
    predicts_fault("some rows only", shapes.partly),
    mends("a tensor and a constant as factors", mending.by_factor_and_constant, _is_not_pinned),
    mends("a local derivative", mending.by_derivative),
    mends("a small edit and a factor", mending.by_edit_and_factor, _is_not_pinned),
    mends("two small edits of one line", mending.by_two_edits, _is_not_pinned),
    tells("another value", lambda case: with_its_line(case, another_value_of_the_forward(case))),
    predicts("a term that couples elements", branches.coupling),
    tells("an upstream gradient that is not read", facts.upstream_not_read),
    predicts("some rows only", shapes.partly),
    predicts("values in other places", shapes.rearranged),
    tells("a line that raised while others had made a part", facts.raised_meanwhile),
    # what the backward does with other upstream gradients, where its numbers alone tell nothing
    tells("what fails under stress", probed.fails_under_stress),
    tells("a low precision", probed.right_but_coarsely),
    tells("other rows of its upstream gradient", probed.mixes_rows),
)


@dataclass(frozen=True)
class Named:
    """A mistake, and the statements to look at: those at fault, or all that may be.

    Attributes:
        is_told: whether the mistake itself tells them.
    """

    mistake: Mistake
    at: tuple[ast.stmt, ...]
    is_told: bool = False


def name_mistakes(
    chosen: Pass,
    blamed: Mapping[str, Sequence[Judgement]],
    probes: Probes | None = None,
) -> dict[str, Named]:
    """Return the mistake in each wrong gradient.

    Args:
        chosen: the pass.
        blamed: tensor name to the draws on which its gradient is wrong, in the order of the backward.
        probes: the backward as a function of other upstream gradients, where it was stressed.
    """
    if not blamed:
        return {}
    cases = [Case(chosen, name, tuple(judged), probes) for name, judged in blamed.items()]
    held = (v for case in cases for v in flatten(case.first.draw.seen.inputs).values())
    with tried_first(held):
        return _names(cases)


def _names(cases: Sequence[Case]) -> dict[str, Named]:
    budget = Budget()  # for all of them together
    share = budget.share()  # what it does not find in that is looked for one by one
    found, left = _by_turns([case for case in cases if facts.one_tensor_twice(case) is None], share)
    for way in (_by_order, by_one_statement):
        more, left = way([case for case in cases if case.name not in found], left)
        found |= more
    budget = replace(budget, tries=budget.tries - (share.tries - left.tries))
    named = {n: _named(case, finding) for n, (case, finding) in found.items()}
    unnamed = [case for case in cases if case.name not in named]
    for case in unnamed:
        share = budget if case is unnamed[-1] else budget.share()
        finding, left = find(case, share)
        named[case.name] = _named(case, finding)
        budget = replace(budget, tries=budget.tries - (share.tries - left.tries), suspect=left.suspect)
    return {case.name: named[case.name] for case in cases}


def _named(case: Case, finding: Finding) -> Named:
    at = finding.at or facts.at_return(case)
    lines = at or _to_look_at(case)
    lines = tuple(filter(may_be_wrong, lines)) or lines
    return Named(in_words(case, finding), lines, is_told=bool(at))


def _by_order(cases: Sequence[Case], budget: Budget) -> tuple[dict[str, tuple[Case, Finding]], Budget]:
    """Find the gradients that are wrong as a line takes what the forward keeps in another order."""
    found: dict[str, tuple[Case, Finding]] = {}
    for case in cases:
        kept = facts.taken_in_another_order(case)
        if not kept or case.program is None:
            continue
        with _as_it_ran(case):
            finding, budget = mending.by_order(case.program, kept, budget)
        if finding is not None:
            found[case.name] = case, finding
    return found, budget


def _by_turns(cases: Sequence[Case], budget: Budget) -> tuple[dict[str, tuple[Case, Finding]], Budget]:
    """Find the gradients that are wrong for the head of a loop: none of its lines is.

    To turn a loop round may make up for another slip in one gradient, but not in several.
    """
    found, budget = _by_head(cases, turns.by_turns, budget)
    if not found and len(cases) > 1:
        all_of_them, budget = _by_head(cases, turns.by_direction, budget)
        found = all_of_them if len(all_of_them) == len(cases) else {}
    for _, finding in list(found.values())[:1]:  # the items that the turn left out should have made
        filled = {name for s in finding.at for name in writes_surely(s)}
        empty = (case for case in cases if case.culprit.value is None and case.name not in found)
        found |= {c.name: (c, finding) for c in empty if root(c.paths.get(c.name, "")) in filled}
    return found, budget


def _by_head(
    cases: Sequence[Case], mender: Callable[[Program, Budget], mending.Mended], budget: Budget
) -> tuple[dict[str, tuple[Case, Finding]], Budget]:
    found: dict[str, tuple[Case, Finding]] = {}
    for case in cases:
        if case.program is None:
            continue
        with _as_it_ran(case):
            finding, budget = mender(case.program, budget)
        if finding is not None:
            found[case.name] = case, _at_own_loop(case, finding)
    return found, budget


def _at_own_loop(case: Case, found: Finding) -> Finding:
    """Return a finding in the head of a program's loop with the user's own, of which that is a part."""
    source = case.chosen.backward_source
    statements = source.statements if source is not None else ()
    loops = [n for top in statements for n in ast.walk(top) if isinstance(n, ast.For | ast.While)]
    return replace(found, at=tuple(loop for loop in loops if loop.lineno == found.at[0].lineno))


def by_one_statement(cases: Sequence[Case], budget: Budget) -> tuple[dict[str, tuple[Case, Finding]], Budget]:
    """Find the one statement in which a slip explains several wrong gradients, which are all made of it.

    For some that were not made at all, as a line raised, it can be only what takes several values at once.
    """
    every = [case for case in cases if case.program is not None and not _is_exchanged(case)]
    whole = [case for case in every if _is_made_by_statements(case)]
    if len(whole) < len(every):
        found, budget = _by_one_of(every, budget, lambda s: bool(taken_together(s)))
        if found or budget.is_spent:
            return found, budget
    return _by_one_of(whole, budget)


def _is_exchanged(case: Case) -> bool:
    """Tell whether a gradient and another one have each other's value, and may be given or returned so."""
    is_called_so = case.paths.get(case.name) in (f"d{case.name}", f"d_{case.name}")
    own = case.seen.statements if case.seen is not None else ()
    is_given_so = any(map(taken_together, own))
    return facts.swapped(case) is not None and (is_given_so or not is_called_so)


def _by_one_of(
    cases: Sequence[Case], budget: Budget, may_be: Callable[[ast.stmt], bool] = lambda _: True
) -> tuple[dict[str, tuple[Case, Finding]], Budget]:
    if len(cases) < 2:
        return {}, budget
    first, *others = cases
    read = [frozenset((*case.makers, *case.numbers)) for case in others]
    source = first.chosen.backward_source
    places = source.places if source is not None else {}
    made_of = filter(may_be, dict.fromkeys((*first.makers, *first.numbers)))
    # what takes several values at once is soon tried; then the nearest to all of them first
    for statement in sorted(made_of, key=lambda s: (not taken_together(s), -places.get(s, -1))):
        if isinstance(getattr(statement, "value", None), ast.Tuple):
            continue  # several lines in one, each with a slip of its own
        if statement in first.innocent or not all(statement in theirs for theirs in read):
            continue
        found, budget = _by_statement(cases, statement, budget)
        if found or budget.is_spent:
            return found, budget
    for statement in filter(may_be, first.numbers):
        if statement not in first.innocent and all(statement in theirs for theirs in read):
            found, budget = _by_number(cases, statement, budget)
            if found or budget.is_spent:
                return found, budget
    return {}, budget


def _by_number(
    cases: Sequence[Case], statement: ast.stmt, budget: Budget
) -> tuple[dict[str, tuple[Case, Finding]], Budget]:
    """Find that a statement gives a number that is off by one factor for all of these gradients."""
    found: dict[str, tuple[Case, Finding]] = {}
    factors: list[float] = []
    for case in cases:
        assert case.program is not None
        with _as_it_ran(case):
            finding, budget = mending.by_factor_of(case.program, statement, budget)
        if finding is None:
            return {}, budget
        factors.append(finding.detail["factor"])
        found[case.name] = case, replace(finding, at=(statement,))
    return (found if max(factors) - min(factors) <= EXACT * abs(factors[0]) else {}), budget


def _by_statement(
    cases: Sequence[Case], statement: ast.stmt, budget: Budget
) -> tuple[dict[str, tuple[Case, Finding]], Budget]:
    """Find a slip in a statement that explains each of these gradients, or none."""
    found: dict[str, tuple[Case, Finding]] = {}
    for case in cases:
        assert case.program is not None
        with _as_it_ran(case):
            finding, budget = mending.by_edit_of(case.program, statement, budget)
        if finding is None:
            return {}, budget
        found[case.name] = case, replace(finding, at=tuple(dict.fromkeys((*finding.at, statement))))
    return found, budget


def _is_made_by_statements(case: Case) -> bool:
    """Tell whether a gradient has a value, in its shape, which statements have given it."""
    whole = case.culprit.value is not None and bool(case.scenes) and case.scenes[0].has_its_shape
    return whole and case.raised is None


def find(case: Case, budget: Budget) -> tuple[Finding, Budget]:
    """Return the first hypothesis that holds, and what is left of the budget."""
    with _as_it_ran(case):
        tried: list[str] = []
        for i, hypothesis in enumerate(HYPOTHESES):
            if (hypothesis.predicts and budget.is_late) or not hypothesis.when(case):
                continue
            found, budget = hypothesis.asked(case, budget)
            if found is not None and not _is_made_up_below(case, found):
                if hypothesis.predicts and not found.at:
                    found = _pinned(case, found, budget)
                found = whereabouts.where_it_may_be(case, found)
                return _with_more(case, found, HYPOTHESES[i + 1 :]), budget
            tried += [] if budget.is_spent else [hypothesis.name]
    raised = facts.where_it_raised(case) or (case.raised if case.fails else None)
    nothing = (
        "no simple slip was found in the time for it" if budget.is_late else "no simple slip reproduces it"
    )
    words = (facts.told(raised[1]) if raised is not None else nothing) + what_belongs(case)
    at = raised[:1] if raised is not None else ()
    return Finding("unexplained", {"ruled_out": list(dict.fromkeys(tried))}, words, at=at), budget


def _pinned(case: Case, found: Finding, budget: Budget) -> Finding:
    """Return what was predicted of a gradient with the statement in which a slip explains it as well.

    Only where several may be at fault: a fused line is made of temporaries that nobody judges. What stands
    outside of the statement at fault and what that is made of may make up for it, but is not where it is. Of
    a loop the branches that are missing are those of its turns, and the slip says more than they.
    """
    named = found.detail.get("branches")
    of_turns = found.kind == "missing_branch" and any("[" in name for name in named or ())
    several = len(case.suspects) > 1 and not facts.at_return(case)
    is_within = bool(named) or found.kind == "wrong_point" or found.detail.get("expected") is not None
    if not is_within or not (of_turns or several) or not is_wrong(case.program):
        return found
    slip, _ = mending.by_edit(case.program, budget.at_most(mending.PAIRS if of_turns else 8 * mending.PAIRS))
    if of_turns:
        return found if slip is None else slip
    fault = case.culprit.fault
    is_known = fault is not None and not _is_before_the_end(case, fault)
    may_be = (fault.statement, *fault.temporaries) if fault is not None and is_known else case.suspects
    if slip is None or not slip.at or not {*slip.at} <= {*may_be}:
        return found
    adds = slip.kind == found.kind and slip.words not in found.words
    words = f"{found.words}: {slip.words}" if adds else found.words
    return replace(found, at=slip.at, words=words)


def _is_made_up_below(case: Case, found: Finding) -> bool:
    """Tell whether a branch is no more missing than others, and all is right with it for what is done below.

    What takes away a wrong part of a gradient takes nothing from one that is right already.
    """
    named = found.detail.get("branches")
    told = re.sub(f"^{IN_A_LINE}[^`]*`, ", "", found.words)
    if not named or told != f"the branch through {listed(named)} is missing":
        return False
    known = [s for s in case.fitted if set(named) <= s.parts.keys()]
    return not all(s.same(s.value, s.expected - sum(s.parts[c] for c in named)) for s in known)


def _is_before_the_end(case: Case, fault: Fault) -> bool:
    """Tell whether a gradient as a whole is said to belong where more is done to its variable yet.

    What takes away what a right gradient has nothing of, such as its mean, leaves that as it is.
    """
    source, variable = case.chosen.backward_source, fault.variable
    if source is None or fault.belongs.label.kind != "input":
        return False
    later = (s for s in source.simple if s.lineno > fault.statement.lineno)
    return any(variable in reads(s) & writes_surely(s) for s in later)


def _to_look_at(case: Case) -> tuple[ast.stmt, ...]:
    """Return the statements that may be at fault; what a gradient begins with, often zeros, comes last.

    A `return` is none of them: what it hands on was made above it.
    """
    seen = case.seen
    fault = case.culprit.fault
    parts = [s for s in (seen.statements if seen is not None else ()) if case.gradient not in assigned(s)]
    parts = [*(fault.temporaries if fault is not None else ()), *parts, *case.suspects]
    return tuple(s for s in parts if not isinstance(s, ast.Return))


@contextlib.contextmanager
def _as_it_ran(case: Case) -> Iterator[None]:
    """Run statements as the draw was run; an edit may well make nonsense, which is no reason to warn."""
    draw = case.first.draw
    as_then = running(draw.dtype, case.chosen.seed_of_backward(draw.seed), draw.promote)
    with warnings.catch_warnings(action="ignore"), torch.no_grad(), as_then:
        yield


def _with_more(case: Case, found: Finding, later: Sequence[Hypothesis]) -> Finding:
    """Return a finding with what the line raised, and with another explanation that holds as well."""
    error = facts.why_it_raised(case)
    if case.raised is not None and case.culprit.value is not None:  # others gave it one, as within a loop
        error = error or case.raised[1]
    if error is not None and "raises" not in found.words and found.kind != "zero":
        errors = case.first.repair.errors if case.first.repair is not None else ()
        told = found.at if found.words.startswith(IN_A_LINE) else ()  # of another line than the gradient's
        elsewhere = [s.lineno for s, e in errors if e is error and told and s not in told]
        where = f"line {elsewhere[0]}" if elsewhere else "the line"
        return replace(found, words=f"{found.words} ({facts.told(error, where)})")
    others = (h.asked(case, Budget())[0] for h in later if h.also and h.when(case))
    other = next((o for o in others if o is not None and o.kind != found.kind), None)
    return replace(found, also=other.words) if other is not None else found
