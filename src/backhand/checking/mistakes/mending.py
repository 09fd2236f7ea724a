"""Explain a gradient by mending its statements: an edit counts if with it they give the right tensor."""

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from backhand.checking.mistakes import omissions, slips
from backhand.checking.mistakes.axes import sums
from backhand.checking.mistakes.budget import Budget
from backhand.checking.mistakes.calls import (
    beginnings,
    copies,
    dropped_calls,
    exchanged_calls,
    moved_factors,
    not_in_place,
)
from backhand.checking.mistakes.conjugates import OTHER_PART
from backhand.checking.mistakes.edits import (
    VALUES,
    Edit,
    Place,
    Rule,
    Scope,
    accumulating,
    dropped,
    edits_of,
    overwritten,
    places_of,
)
from backhand.checking.mistakes.finding import IN_A_LINE, Finding
from backhand.checking.mistakes.solving import (
    UNKNOWN,
    constant,
    first_right,
    fitting,
    is_a_multiple,
    lacks,
    told_by_values,
)
from backhand.checking.mistakes.workbench import Focus, Program
from backhand.checking.running.inlining import CALLED
from backhand.checking.running.slicing import begins_with_zeros, computes, takes_apart
from backhand.checking.running.statements import line_of, reads, root_of, simple_statements, writes_surely
from backhand.checking.verdicts.comparing import fits

Mended = tuple[Finding | None, Budget]
# What may be missing beside one of them.
BESIDE: tuple[Rule, ...] = (omissions.missing_factors, sums)
BESIDE_IN_ONE_LINE: tuple[Rule, ...] = (*BESIDE, omissions.missing_complements)
Rules = tuple[tuple[tuple[Rule, ...], bool], ...]
# The rules in their order, and whether they ask what autograd knows of this step.
OF_CALLS: tuple[Rule, ...] = (moved_factors, dropped_calls, exchanged_calls)
# The first of all: any other edit of what is changed in place may undo that as well, `-x` being a new tensor.
IN_PLACE: Rules = (((not_in_place,), False),)
SLIPS: Rules = (
    *IN_PLACE,
    # in all statements before anything else in one: a minus that one lacks may be put into any that reads it
    ((slips.minuses,), False),
    (slips.OF_WHAT_IS_THERE, False),
    (omissions.OF_WHAT_IS_MISSING, True),
    (OF_CALLS, False),
    # last: what a whole sum makes up for may be a slip in a line of its own
    ((omissions.missing_couplings,), False),
)
# Those of which no two statements are likely to be mended by chance.
LIKELY: Rules = (
    *IN_PLACE,
    (slips.OF_WHAT_IS_THERE, False),
    (BESIDE, False),
    ((omissions.missing_terms,), False),
    (OF_CALLS, False),
)
# Two edits at once are as many as the square of one: of the few that are likely, so many pairs are tried. Of
# the pairs that mended something in the textbook's mutants, half came within 250 tries, all but one in 25
# within this many, which take about half a second.
PAIRS = 2_400
# Where one statement is known to be at fault nothing else is run with it: a try takes half as long, and no
# other line can be meant. All pairs of a line of ten names come within this many, in a second.
PAIRS_AT_FAULT = 10_000


def by_accumulating(program: Program, budget: Budget) -> Mended:
    """Find an `=` that should be a `+=`, to zero if there was nothing; also of an array that is filled."""
    focus = replace(Focus.on(program, None), careful=True)
    targets = [t for s in program.temporary if isinstance(s, ast.Assign) for t in s.targets]
    filled = dict.fromkeys(root_of(t) or "" for t in targets if isinstance(t, ast.Subscript))
    copied = filter(None, map(overwritten, program.temporary))
    filled |= dict.fromkeys(root_of(call.value) or "" for call in copied)
    for variable in (program.variable, *filled):
        empty = {variable: 0.0} if variable == program.variable else {}
        for edit in accumulating(program.block, variable):
            with edit.made():
                if not focus.is_right(**empty):
                    continue
            node = edit.place.node
            if isinstance(edit.node, ast.AugAssign) and isinstance(edit.node.op, ast.Sub):
                negated = ast.Assign(node.targets, ast.UnaryOp(ast.USub(), node.value))
                with replace(edit, node=negated).made():
                    if focus.is_right(**empty):  # a minus is missing, and that is all
                        continue
            own = (s for s in program.simple if any(n is node for n in ast.walk(s)))
            return _told(program, next(own, node), edit, budget)
    return None, budget


def by_copy(program: Program, budget: Budget) -> Mended:
    """Find a change in place of a tensor that is read again; the line may be that of another gradient."""
    for statement in program.simple:
        focus = Focus.on(program, statement)
        edit, budget = first_right(focus, edits_of(statement, focus.scope, (not_in_place, copies)), budget)
        if edit is not None:
            return _told(program, statement, edit, budget)
    return None, budget


def by_exchange(program: Program, budget: Budget, value: ast.expr, finding: Finding) -> Mended:
    """Find that what makes another gradient belongs in the line of this one."""
    for statement in (s for s in program.own if isinstance(s, ast.Assign)):
        edit = Edit(Place(statement, "value", None, statement.value), copy.deepcopy(value), finding)
        found, budget = first_right(Focus.on(program, statement), [edit], budget)
        if found is not None:
            return _told(program, statement, found, budget)
    return None, budget


def by_other_upstream(program: Program, budget: Budget, upstreams: Sequence[str]) -> Mended:
    """Find that one of these gradients, which the statements do not read, belongs into them."""
    # it comes in late as a rule: what stands above may be right as it is
    last_first = program.simple[::-1]
    scope = Focus.on(program, None).scope

    def rank(s: ast.stmt) -> tuple[bool, bool]:
        return s not in program.likely and not _calls_a_gradient(s, scope), s in program.innocent

    for statement in sorted(last_first, key=rank):
        focus = Focus.on(program, statement)
        edits = _other_upstreams(statement, focus.scope, upstreams)
        edit, budget = first_right(focus, edits, budget)
        if edit is not None:
            return _told(program, statement, edit, budget)
    return None, budget


def _calls_a_gradient(statement: ast.stmt, scope: Scope) -> bool:
    """Tell whether a statement gives what is no gradient, such as a slope, the name of one: `dx = slope`."""
    given = statement.value if isinstance(statement, ast.Assign) else None
    return isinstance(given, ast.Name) and not scope.is_gradient(given.id)


def _other_upstreams(statement: ast.stmt, scope: Scope, upstreams: Sequence[str]) -> Iterator[Edit]:
    """Yield the edits that put one of these gradients in a name's place, or make it a factor."""
    for rule in (slips.put_upstream, omissions.upstream_factor):
        for place in places_of(statement):
            for upstream in upstreams:
                for node, mended in rule(place, scope, upstream):
                    yield Edit(place, node, mended)


def by_dropped_term(program: Program, budget: Budget) -> Mended:
    """Find a term, in a statement or as one, without which the gradient is right."""
    focus = Focus.on(program, None)
    terms = (edits_of(s, focus.scope, (slips.drop_term,)) for s in program.block.body)
    for edits in (dropped(program.block), *terms):
        edit, budget = first_right(focus, edits, budget)
        if edit is not None:
            return edit.mends, budget
    return None, budget


def by_edit(program: Program, budget: Budget) -> Mended:
    """Find an edit of the statements that write a gradient after which it is right.

    What is there may be wrong, or something may be missing: for each of the two, all rules are tried on the
    statements of the gradient itself and on one that has spoilt another gradient, then rule by rule on those
    of its temporaries, but not on those of other gradients, which have their own verdict. What goes into a
    right gradient comes last.
    """
    return _by_rules(program, SLIPS, budget)


def by_derivative(program: Program, budget: Budget) -> Mended:
    """Find an expression in the place of which a local derivative belongs, whatever is wrong with it."""
    return _by_rules(program, (((omissions.derivatives_instead,), True),), budget)


def _by_rules(program: Program, phases: Rules, budget: Budget) -> Mended:
    own = program.own
    likely = {s for s, its in program.originals.items() if its is budget.suspect} | program.likely
    suspects = [s for s in program.temporary if s in likely]
    suspected = [s for s in program.temporary if s not in program.innocent]
    for first, rest in (
        (suspects + own, suspected),
        ([], [s for s in program.temporary if s not in suspected]),
    ):
        for rules, knowing in phases:
            tries: list[tuple[ast.stmt, Sequence[Rule]]] = [(s, rules) for s in first]
            tries += [(s, (rule,)) for rule in rules for s in rest]
            found, budget = _first_of(program, tries, budget, knowing=knowing)
            if found is not None or budget.is_spent:
                return found, budget
    return None, budget


def by_edit_of(program: Program, statement: ast.stmt, budget: Budget) -> Mended:
    """Find an edit of one of the user's statements after which a gradient is right."""
    own = [s for s in program.simple if program.originals.get(s) is statement]
    for rules, knowing in () if program.is_right else LIKELY:
        found, budget = _first_of(program, [(s, rules) for s in own], budget, knowing=knowing)
        if found is not None or budget.is_spent:
            return found, budget
    return None, budget


def by_order(program: Program, kept: Mapping[ast.stmt, Sequence[str]], budget: Budget) -> Mended:
    """Find that one of the user's statements takes what is kept together, in this order, in another one."""
    for statement in program.simple:
        order = kept.get(program.originals[statement]) if statement in program.originals else None
        if order is None or not isinstance(statement, ast.Assign):
            continue
        edit = Edit(Place(statement, "value", None, statement.value), *slips.in_order(statement, order))
        found, budget = first_right(Focus.on(program, statement), [edit], budget)
        if found is not None:
            return _told(program, statement, found, budget)
    return None, budget


def by_factor_of(program: Program, statement: ast.stmt, budget: Budget) -> Mended:
    """Find the constant by which the number is off that a statement gives."""
    for own in (s for s in program.simple if program.originals.get(s) is statement):
        focus = Focus.on(program, own)
        budget = budget.less(2 * focus.cost)
        if isinstance(own, ast.Assign):
            unknown = _times_unknown(Place(own, "value", None, own.value))
            with unknown.made():
                k = constant(focus)
            if k:
                finding = _off_by(k, ast.unparse(own.value))
                return replace(finding, detail={**finding.detail, "factor": 1 / k}), budget
    return None, budget


def by_beginning(program: Program, budget: Budget) -> Mended:
    """Find what a sum begins with in place of zeros, though the line that adds to it seems at fault."""
    tries: list[tuple[ast.stmt, Sequence[Rule]]] = [(s, (beginnings,)) for s in program.simple]
    return _first_of(program, tries, budget, knowing=False)


def by_suspect(program: Program, budget: Budget) -> Mended:
    """Find an edit of the statement in which the mistake of another gradient was found."""
    return (None, budget) if budget.suspect is None else by_edit_of(program, budget.suspect, budget)


def _first_of(
    program: Program, tries: Sequence[tuple[ast.stmt, Sequence[Rule]]], budget: Budget, *, knowing: bool
) -> Mended:
    """Return the first edit by these rules of these statements after which the gradient is right."""
    focuses: dict[ast.stmt, Focus] = {}
    for statement, asked in tries:
        rules = [rule for rule in asked if (statement, rule, knowing) not in program.in_vain]
        if not rules:
            continue
        focus = focuses.get(statement) or Focus.on(program, statement, knowing=knowing)
        focuses[statement] = focus  # what stands above it is run once, for all rules
        edit, budget = first_right(focus, edits_of(statement, focus.scope, rules), budget)
        if edit is not None:
            return _told(program, statement, edit, budget)
        if budget.is_spent:
            break
        program.in_vain.update((statement, rule, knowing) for rule in rules)
    return None, budget


def by_constant(program: Program, budget: Budget) -> Mended:
    """Find a constant that some expression lacks; last, for with one a line may make up for another."""
    for statement in (*program.own, *program.temporary):
        focus = Focus.on(program, statement)
        for place in places_of(statement):
            if budget.is_spent:
                return None, budget
            if place.role != "value" or not isinstance(place.node, VALUES):
                continue
            budget = budget.less(2 * focus.cost)
            unknown = _times_unknown(place)
            with unknown.made():
                k = constant(focus)
            if k is not None:
                mended = replace(unknown, mends=_off_by(k, ast.unparse(place.node)))
                return _told(program, statement, mended, budget)
    return None, budget


def by_factor_and_constant(program: Program, budget: Budget) -> Mended:
    """Find a tensor and a constant that some expression lacks as factors, both at once."""
    for statement in program.own:
        focus = Focus.on(program, statement)
        if is_a_multiple(focus):  # a tensor of one element would only be a part of the constant
            continue
        edits = edits_of(statement, focus.scope, (omissions.missing_factors,))
        for edit, may_be in told_by_values(focus, edits, but_for_a_factor=True):
            if budget.is_spent:
                return None, budget
            if edit.mends.kind == "scale" or not isinstance(edit.node, ast.expr):
                continue  # a number as a factor is a constant itself
            budget = budget.less(2 * focus.cost)
            if not may_be:
                continue
            unknown = ast.BinOp(edit.node, ast.Mult(), ast.Name(UNKNOWN, ast.Load()))
            with replace(edit, node=unknown).made():
                k = constant(focus)
            if k is not None:
                words = f"{edit.mends.words}; besides, a constant factor of {k:.6g} is missing"
                return _told(program, statement, edit.told(words), budget)
    return None, budget


def _times_unknown(place: Place) -> Edit:
    return Edit(place, ast.BinOp(place.node, ast.Mult(), ast.Name(UNKNOWN, ast.Load())), Finding("scale"))


def _off_by(k: float, text: str) -> Finding:
    if k == -1:
        return Finding("sign", {"branches": []}, f"`{text}` has the opposite sign")
    if k == 0:
        return Finding("repeated_branch", {"branches": []}, f"the term `{text}` is one too many")
    words = f"`{text}` is off by a constant factor: it is {1 / k:.6g} times what it should be"
    return Finding("scale", {"factor": 1 / k, "guess": ""}, words)


def by_edit_and_factor(program: Program, budget: Budget) -> Mended:
    """Find an edit after which one factor or term is all that is missing: two slips in one line."""
    for statement in program.own:
        focus = Focus.on(program, statement)
        if is_a_multiple(focus):
            continue
        rules = *slips.OF_WHAT_IS_THERE, omissions.missing_complements
        for edit in edits_of(statement, focus.scope, rules):
            if budget.is_spent:
                return None, budget
            budget = budget.less(focus.cost)
            with edit.made():
                lacking = lacks(focus, edit.mends.detail.get("expected"))
            if lacking is not None:
                words = f"two slips in one line: {edit.mends.words}, and {lacking}"
                return _told(program, statement, edit.told(words), budget)
    return None, budget


def by_two_edits(program: Program, budget: Budget, *, at_fault: bool = False) -> Mended:
    """Find two slips in one statement, of the kinds that are made most often.

    Two wrong names only where it is known that it is at fault: they would make anything of anything.
    """
    left = budget.at_most(PAIRS_AT_FAULT if at_fault else PAIRS)
    pairs: list[tuple[Rule, Sequence[Rule]]] = [(slips.other_names, (slips.other_names,))] if at_fault else []
    pairs += [(rule, slips.FEW[i:]) for i, rule in enumerate(slips.FEW[:-1])]
    pairs += [(rule, BESIDE_IN_ONE_LINE) for rule in slips.FEW]
    for statement in (*program.own, *program.temporary):
        if any(isinstance(node, ast.IfExp) for node in ast.walk(statement)):
            continue  # two edits make any condition of any other
        focus = Focus.on(program, statement)
        firsts = ((f, others) for rule, others in pairs for f in edits_of(statement, focus.scope, (rule,)))
        for first, others in firsts:
            with first.made():
                second, after = _beside(focus, statement, first, others, left)
            budget, left = budget.less(left.tries - after.tries), after
            if second is not None:
                both = replace(first, mends=_both(first.mends, second.mends))
                return _told(program, statement, both, budget)
            if left.is_spent:
                return None, budget
    return None, budget


def _both(first: Finding, second: Finding) -> Finding:
    """Return the mistake of a line in which there are two."""
    one, other = ((found.detail.get("used"), found.detail.get("expected")) for found in (first, second))
    if one[0] is not None and one == other[::-1]:
        words = f"{one[0]} and {one[1]} are exchanged"
        return Finding("swapped", {"with": one[1]}, words, hint="Each stands where the other one belongs.")
    same = second.words == first.words
    again = "so it is elsewhere in it" if same else second.words
    return replace(first, words=f"two slips in one line: {first.words}, and {again}")


def _beside(
    focus: Focus, statement: ast.stmt, made: Edit, rules: Sequence[Rule], budget: Budget
) -> tuple[Edit | None, Budget]:
    """Find a second edit beside one that is made; which other name a place needs, its value tells."""
    rest = [rule for rule in rules if rule is not slips.other_names]
    found, budget = first_right(focus, edits_of(statement, focus.scope, rest), budget)
    places = list(places_of(statement)) if len(rest) < len(rules) else []
    if not rest:  # of two names the order does not matter
        places = places[next((i + 1 for i, place in enumerate(places) if place.node is made.node), 0) :]
    for place in places if found is None else ():
        named = list(slips.other_names(place, focus.scope))
        alike = fitting(focus, place) if named else None
        budget = budget.less(3 * focus.cost if named else 0)
        kept = (each for each in named if alike is None or each[1].detail.get("expected") in alike)
        found, budget = first_right(focus, (Edit(place, *each) for each in kept), budget)
        if found is not None:
            break
    return found, budget


def _told(program: Program, statement: ast.stmt, edit: Edit, budget: Budget) -> Mended:
    """Return what an edit mends, with its statement if that is a temporary; it is suspected from now on."""
    found, node = edit.mends, edit.place.node
    if isinstance(statement, ast.FunctionDef):  # which the statements call: one of its own is meant
        within = simple_statements(statement.body)
        statement = next((s for s in within if any(n is node for n in ast.walk(s))), statement)
    original = program.originals.get(statement)
    if statement not in program.own:
        call = getattr(getattr(statement, "value", None), CALLED, None)
        line = ast.unparse(call).splitlines()[0] if call is not None else line_of(statement)
        found = replace(found, words=f"{IN_A_LINE}{line}`, {found.words}")
    # what is put right where a temporary is read may as well be wrong where that is made
    read = {node.id} if isinstance(node, ast.Name) else _factors(node) if _is_scaled(edit) else set()
    if "axes" in edit.mends.detail:  # a sum that is missing may have been meant in any line above
        read = reads(statement)
    makers = [s for s in program.temporary if read & writes_surely(s)]
    first = _made_wrong(program, statement, makers, edit) or statement
    at = [program.originals.get(s) for s in (first, statement, *makers)] if original is not None else []
    at = [s for s in dict.fromkeys(at) if s is not None]
    return replace(found, at=tuple(at)), replace(budget, suspect=at[0] if at else None)


def _made_wrong(
    program: Program, statement: ast.stmt, makers: Sequence[ast.stmt], edit: Edit
) -> ast.stmt | None:
    """Return the statement that is likely to have made what an edit puts right where it is read."""
    if not isinstance(edit.place.node, ast.Name):  # of a product the one factor of which nothing is known
        makers = [s for s in makers if s in (program.unknown or ())]
        return makers[0] if len(makers) == 1 and computes(makers[0]) else None
    makers = [s for s in makers if not begins_with_zeros(s)] or makers  # what fills it
    maker = makers[0] if len(makers) == 1 and not takes_apart(makers[0]) else None
    if maker is not None and _is_made_wrong(program, maker, edit):
        return maker
    return _made_before(program, statement, edit)


def _made_before(program: Program, statement: ast.stmt, edit: Edit) -> ast.stmt | None:
    """Return what has made the variable that a statement then only multiplies by a name, which is off.

    Either may be, and what makes it does more.
    """
    scales = isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Mult | ast.Div)
    if not scales or edit.mends.kind not in ("scale", "sign") or not isinstance(edit.place.node, ast.Name):
        return None
    variable = root_of(statement.target) if isinstance(statement, ast.AugAssign) else None
    above = [s for s in program.simple[: program.simple.index(statement)] if variable in writes_surely(s)]
    return above[0] if len(above) == 1 and computes(above[0]) else None


def _is_made_wrong(program: Program, maker: ast.stmt, edit: Edit) -> bool:
    """Tell whether an edit puts another value in the place of a variable, and not another variable.

    Then what is wrong is how it was made: it is read where it belongs. Not so if it is read elsewhere too,
    where what it holds is right. Nor where only a factor is missing beside it, which is multiplied where
    it is read.
    """
    node = edit.place.node
    names = [n.id for n in ast.walk(program.block) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    if not isinstance(node, ast.Name) or names.count(node.id) > 1:
        return False
    put = {n.id for n in ast.walk(edit.node) if isinstance(n, ast.Name)}
    if isinstance(edit.node, ast.Name):
        return edit.node.id.startswith("__")
    held = program.benches[0].namespace
    if isinstance(held.get(node.id), int | float) or _is_scaled(edit) or _is_made_of_itself(program, edit):
        return True
    if isinstance(edit.node, ast.Attribute) and edit.node.attr in OTHER_PART:
        return computes(maker)  # what is real is made so where it is made
    is_open = maker not in program.innocent if program.unknown is None else maker in program.unknown
    if not is_open or not computes(maker) or isinstance(edit.node, ast.Attribute | ast.Subscript):
        return False
    return not _is_factor(edit, node.id) and _fit_into(held.get(node.id), [held.get(n) for n in put])


def _is_made_of_itself(program: Program, edit: Edit) -> bool:
    """Tell whether an edit makes `1 - s` or `s * (1 - s)` of an `s` that is no gradient: a local derivative.

    Of a gradient either line may lack a factor.
    """
    name = edit.place.node.id if isinstance(edit.place.node, ast.Name) else None
    read = {n.id for n in ast.walk(edit.node) if isinstance(n, ast.Name)}
    is_itself = read == {name} and not isinstance(edit.node, ast.Name)
    return is_itself and not Focus.on(program, None).scope.is_gradient(name or "")


def _is_factor(edit: Edit, name: str) -> bool:
    """Tell whether an edit multiplies a variable by something, or doubles it."""
    put = edit.node
    names = {n.id for n in ast.walk(put) if isinstance(n, ast.Name)}
    return isinstance(put, ast.BinOp) and (isinstance(put.op, ast.Mult | ast.Div) or names == {name})


def _fit_into(value: Any, others: Sequence[Any]) -> bool:
    """Tell whether what is made of some tensors, element by element, has the shape of one of them."""
    tensors = [v for v in others if isinstance(v, Tensor)]
    return isinstance(value, Tensor) and all(fits(v, value) for v in tensors)


def _is_scaled(edit: Edit) -> bool:
    """Tell whether an edit multiplies what is there by a number that is found."""
    return any(isinstance(n, ast.Name) and n.id == UNKNOWN for n in ast.walk(edit.node))


def _factors(node: ast.AST) -> set[str]:
    """Return the names of which something is the product; nothing where it is made in another way."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        return _factors(node.left) | _factors(node.right)
    return {node.id} if isinstance(node, ast.Name) else set()
