"""What the run itself tells of a wrong gradient: nothing there, changed through another name, not finite."""

import ast
from collections.abc import Sequence
from types import FunctionType

import torch
from torch import Tensor

from backhand.checking.meanings import KINDS
from backhand.checking.mistakes.evidence import Case
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.slips import OF_RETURNS
from backhand.checking.running.containers import is_one_tensor
from backhand.checking.running.names import nearest, root
from backhand.checking.running.program import Source, definition_of
from backhand.checking.running.returning import returns
from backhand.checking.running.slicing import computes, taken_together
from backhand.checking.running.statements import (
    assigned,
    begins_anew,
    given_to,
    line_of,
    writes,
)
from backhand.checking.running.trials import Draw
from backhand.checking.verdicts.comparing import close, fits
from backhand.checking.verdicts.repairing import Alias
from backhand.errors import in_short


def changed_through_another_name(case: Case) -> Finding | None:
    """Find a gradient that was right, until a statement changed it through a name that shares its memory."""
    repair = case.first.repair
    if repair is None or case.name not in repair.aliased:
        return None
    alias = repair.aliased[case.name]
    through = alias.through
    at = (*where_they_met(case.chosen.backward_source, alias), alias.statement)
    return Finding("aliased", {"with": through}, f"changed in place through {through}", at=at)


def one_tensor_twice(case: Case) -> Finding | None:
    """Find an item of a list that is the very tensor which is another item of it."""
    user, own = case.first.draw.user, case.first.draw.user.get(case.name)
    items = [n for n in user if n != case.name and "[" in n and root(n) == root(case.name)]
    same = [n for n in items if own is not None and own.numel() and is_one_tensor(own, user[n])]
    if not same:
        return None
    other = case.first.draw.matched[same[0]]
    source, path = case.chosen.backward_source, root(case.paths.get(case.name, ""))
    handed = [s for s in (source.simple if source is not None else ()) if path in writes(s)]
    put = [s for s in handed if given_to(s) is not None or not begins_anew(s, path)]
    words = f"it is the same tensor as {other}: what changes the one in place changes the other"
    return Finding("aliased", {"with": other}, words, at=tuple(put[:1]))


def where_they_met(source: Source | None, alias: Alias) -> tuple[ast.stmt, ...]:
    """Return the statement that gave the memory its second name: the later one of those that named it."""
    written = source.simple if source is not None else ()
    above = [s for s in written if s.lineno < alias.statement.lineno and begins_anew(s, alias.through)]
    return tuple(sorted((*above[-1:], *alias.made[-1:]), key=lambda s: s.lineno)[-1:])


def raised_above(case: Case) -> Finding | None:
    """Find the line in which a backward ended before it came to a gradient that it was to return."""
    return raised_meanwhile(case) if case.culprit.value is None else None


def raised_before_it_was_filled(case: Case) -> Finding | None:
    """Find the line in which a backward ended before it had put anything into a gradient of zeros."""
    value = case.culprit.value
    return raised_meanwhile(case) if value is not None and not bool(value.any()) else None


def raised_meanwhile(case: Case) -> Finding | None:
    """Find the line in which a backward ended, perhaps while it filled a gradient that it was to return."""
    draw, source = case.first.draw, case.chosen.backward_source
    if draw.error is None or why_it_raised(case) is not None or case.chosen.contract != "returned":
        return None
    statements = [n for s in source.statements for n in ast.walk(s)] if source is not None else []
    at = [s for s in statements if isinstance(s, ast.stmt) and s.lineno <= (draw.error_line or 0)]
    last = max((s.lineno for s in at), default=0)
    at = [s for s in at if s.lineno == last]
    return Finding("unexplained", {"ruled_out": []}, told(draw.error), at=tuple(at[:1]))


def cut_away(case: Case) -> Finding | None:
    """Find a slice up to `-p` where p is 0, which leaves nothing: an image without padding, say."""
    seen, expected = case.seen, case.first.draw.trace.gradients.get(case.name)
    if seen is None or seen.value is None or seen.value.numel() or expected is None or not expected.numel():
        return None
    for statement in dict.fromkeys((*seen.statements, *case.suspects)):
        for node in ast.walk(statement):
            upper = node.upper if isinstance(node, ast.Slice) else None
            by = upper.operand if isinstance(upper, ast.UnaryOp) and isinstance(upper.op, ast.USub) else None
            if isinstance(by, ast.Name) and seen.namespace.get(by.id) == 0:
                text = ast.unparse(node)
                hint = f"Slice up to the size that is left, or cut only where {by.id} is not 0."
                words = f"`{text}` is empty, for {by.id} is 0"
                return Finding("partial", {"where": text}, words, at=(statement,), hint=hint)
    return None


def no_value(case: Case) -> Finding | None:
    """Find that nothing was made though nothing raised: None."""
    if case.culprit.value is not None or why_it_raised(case) is not None:
        return None
    source, path = case.chosen.backward_source, case.paths.get(case.name, "")
    written = source.simple if source is not None else ()
    last = [s for s in written if path in assigned(s)][-1:]
    purpose = f"If {case.name} is to have none, say so: no_gradient=({case.name!r},)."
    hint = f"{KINDS['zero'].hint} {purpose}" if case.chosen.contract == "returned" else ""
    return Finding("zero", {}, "None", at=tuple(last), hint=hint)


def not_carried_on(case: Case) -> Finding | None:
    """Find that a loop leaves a variable as it is that its next turn should find changed."""
    fault = case.culprit.fault
    if fault is None or not fault.is_carried:
        return None
    words = f"no turn of the loop leaves in {fault.variable} what the next one should find there"
    return Finding("missing_branch", {"branches": []}, words, at=fault.temporaries)


def unassigned(case: Case) -> Finding | None:
    """Find a variable that a gradient's line uses though nothing above has assigned it."""
    error, source, seen = why_it_raised(case), case.chosen.backward_source, case.seen
    if not isinstance(error, NameError) or seen is None:
        return None
    missing = error.name or ""
    late = source is not None and source.times_assigned(missing)
    is_gradient = missing.startswith("d")
    tensors = [name for name, value in seen.namespace.items() if isinstance(value, Tensor)]
    alike = [name for name in tensors if name.startswith("d") == is_gradient]
    known = missing in {f"d{name}" for name in case.first.draw.trace.values}
    when = "is assigned below" if late else "was never assigned"
    words = f"the line raises NameError, for {missing} {when}"
    hint = "A line can use only what stands above it" + (nearest(missing, () if known else alike) or ".")
    if is_gradient:
        outputs = case.first.draw.trace.outputs
        if missing[1:] in outputs and case.chosen.is_last(outputs):
            hint = f"Nothing comes after {missing[1:]}: its own gradient is 1, and needs no name."
        return Finding("wrong_upstream", {"used": None, "expected": missing}, words, hint=hint)
    if missing in case.first.draw.trace.values and not late and case.chosen.scope is None:
        words = f"the line raises NameError, for {missing} of the forward is no parameter of the backward"
        hint = f"What a backward needs of the forward are its parameters: add `{missing}` to them."
    return Finding("unexplained", {"ruled_out": []}, words, hint=hint)


def not_finite(case: Case) -> Finding | None:
    """Find infinities where the right gradient has none."""
    value, expected = case.culprit.value, case.culprit.expected
    if value is None or bool(torch.isfinite(value).all()) or not bool(torch.isfinite(expected).all()):
        return None
    left = _never_written(case) if bool(torch.isnan(value).any() and torch.isfinite(value).any()) else ""
    if left:
        words = f"a part of `{left}` is never written, and holds whatever lies in memory"
        return Finding("partial", {"where": None}, words)
    return Finding("nonfinite", {"origin": _first_not_finite(case)}, "NaN or infinity")


def _never_written(case: Case) -> str:
    """Return the call that made a gradient without giving it values, see `sandbox.running`."""
    nodes = (n for s in case.statements or () for n in ast.walk(s) if isinstance(n, ast.Call))
    made = (n for n in nodes if isinstance(n.func, ast.Attribute) and "empty" in n.func.attr)
    return next(map(ast.unparse, made), "")


def _first_not_finite(case: Case) -> str:
    """Return the first tensor in which something is not finite: of the forward, or of the backward."""
    draw, repair = case.first.draw, case.first.repair
    for tensor, value in draw.trace.tensors.items():
        if not bool(torch.isfinite(value).all()):
            return tensor
    for tensor, observed in (repair.observed if repair is not None else {}).items():
        if observed.value is not None and not bool(torch.isfinite(observed.value).all()):
            return draw.matched.get(tensor, f"d{tensor}")
    return case.gradient


def finite_by_a_guard(case: Case) -> Finding | None:
    """Find numbers where the right gradient has none, as a clamp or an epsilon in the backward makes them."""
    value, expected = case.culprit.value, case.culprit.expected
    if value is None or value.shape != expected.shape:
        return None
    if not bool((value.isfinite() & ~expected.isfinite()).any()):
        return None
    hint = "A guard belongs in the forward too; or choose inputs away from where it is infinite."
    return Finding("nonfinite", {"origin": case.name}, "finite where the right gradient is not", hint=hint)


def nothing_depends_on_it(case: Case) -> Finding | None:
    """Find a gradient of what the output does not depend on."""
    if case.name in case.first.draw.trace.tensors:
        return None
    if case.name in case.chosen.no_gradient:
        return Finding("repeated_branch", {"branches": []}, "it is to have no gradient, and has one")
    return Finding("repeated_branch", {"branches": []}, "the output does not depend on this tensor")


def swapped(case: Case) -> Finding | None:
    """Find another culprit that has this one's gradient while this one has its.

    Both must be wrong as the user sees them: where one of the two is right given a wrong upstream gradient, a
    factor stands in one line that belongs in the next.
    """
    own, draw = case.culprit, case.first.draw
    for other, culprit in case.first.culprits.items():
        if other == case.name or own.value is None or culprit.value is None:
            continue
        if close(own.value, culprit.expected) and close(culprit.value, own.expected):
            gradient = draw.matched.get(other, f"d{other}")
            if case.first.right.get(other) or case.first.right.get(case.name):
                return _too_early(case, other, gradient)
            at = return_of(case) if case.chosen.contract == "returned" else ()
            return Finding("swapped", {"with": gradient}, f"it and {gradient} have each other's value", at=at)
    return None


def in_another_place(case: Case) -> Finding | None:
    """Find that a gradient is returned in another one's place, which has another or None."""
    draw, value = case.first.draw, case.first.draw.user.get(case.name)
    fits_not = value is not None and not fits(value, case.culprit.expected)  # a right one may be there twice
    others = draw.trace.wanted if fits_not else case.first.culprits
    for other in others if case.chosen.contract == "returned" else ():
        if other == case.name:
            continue
        gradient = draw.matched.get(other, f"d{other}")
        if _is_that_of(case.name, other, draw):
            if other not in case.first.culprits:
                put = _left_by(case, case.name)
                if _is_computed(case, other, put):
                    return None  # a slip in its line says more
                words = f"it is {gradient}, {'put there too' if put else 'returned twice'}"
                hint = "Each input has a gradient of its own there."
                return Finding("swapped", {"with": gradient}, words, at=put or return_of(case), hint=hint)
            if left := [s for name in (case.name, other) for s in _left_by(case, name)]:
                words = f"it is {gradient}: the two stand in each other's place"
                first = min(left, key=lambda s: s.lineno)  # one mistake, told where the first of the two is
                return Finding("swapped", {"with": gradient}, words, at=(first,))
            if taken := _taken_together(case, case.name, other):
                line = line_of(taken)
                words = f"it is {gradient}: `{line}` takes them in another order than the call gives them"
                at = (taken, *_returns_of_called(case, taken))
                return Finding("swapped", {"with": gradient}, words, at=at, hint=OF_RETURNS)
            words = f"it is {gradient}: the gradients are returned in another order than the inputs"
            return Finding("swapped", {"with": gradient}, words, at=return_of(case))
        if case.culprit.value is None and _is_that_of(other, case.name, draw):
            words = f"None, for {gradient} is returned as it: they have another order than the inputs"
            return Finding("swapped", {"with": gradient}, words, at=return_of(case))
    return None


def _is_computed(case: Case, other: str, put: Sequence[ast.stmt]) -> bool:
    """Tell whether a gradient is not another one's variable, but made once more by a line of its own."""
    source, variable = case.chosen.backward_source, root(case.paths.get(case.name, ""))
    if source is None or variable == root(case.paths.get(other, "")):
        return False
    at = {r.lineno for r in returns(source.statements)}
    made = [s for s in put or source.simple if put or variable in assigned(s)][-1:]
    made = [s for s in made if not isinstance(getattr(s, "value", None), ast.Name | ast.Dict)]
    return any(computes(s) and s.lineno not in at for s in made)


def _taken_together(case: Case, name: str, other: str) -> ast.stmt | None:
    """Return the statement that takes two gradients, in their own names, from what one call returns.

    Only where both are returned as that left them: else the `return` may as well be meant.
    """
    source, both = case.chosen.backward_source, [case.paths.get(n, "") for n in (name, other)]
    if source is None or not all(p in (f"d{n}", f"d_{n}") for p, n in zip(both, (name, other), strict=True)):
        return None
    makers = [s for s in source.simple if {*both} & writes(s)]
    return makers[0] if len(makers) == 1 and _takes_apart_a_call(makers[0], both) else None


def _returns_of_called(case: Case, statement: ast.stmt) -> tuple[ast.stmt, ...]:
    """Return the last `return` of the function, of the same file, that a statement calls."""
    source, called = case.chosen.backward_source, getattr(getattr(statement, "value", None), "func", None)
    name = called.id if isinstance(called, ast.Name) else ""
    function = case.seen.namespace.get(name) if case.seen is not None else None
    if source is None or not isinstance(function, FunctionType):
        return ()
    definition = definition_of(function, source)
    return tuple(returns(definition.body)[-1:]) if definition is not None else ()


def _takes_apart_a_call(statement: ast.stmt, names: Sequence[str]) -> bool:
    is_call = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call)
    return is_call and {*names} <= assigned(statement)


def _left_by(case: Case, name: str) -> tuple[ast.stmt, ...]:
    """Return what put a gradient on an object, as `self.dW = ...`, or into a dictionary, `grads["W"] = ...`.

    Nothing if it is returned.
    """
    source, variable = case.chosen.backward_source, root(case.paths.get(name, ""))
    makers = [s for s in (source.simple if source is not None else ()) if variable in assigned(s)]
    last = makers[-1] if makers else None
    taken = last.value if isinstance(last, ast.Assign) else None  # at the end, to be judged
    if source is None or not isinstance(taken, ast.Attribute | ast.Subscript):
        return ()
    place = ast.unparse(taken)
    made = [s for s in source.simple if isinstance(s, ast.Assign)]
    return tuple(s for s in made if place in map(ast.unparse, s.targets) or _displays(s, taken))[-1:]


def _displays(statement: ast.Assign, item: ast.expr) -> bool:
    """Tell whether a statement makes the dictionary of an item with that: `grads = {"W": dW}`."""
    if not isinstance(item, ast.Subscript) or not isinstance(statement.value, ast.Dict):
        return False
    keys = [ast.unparse(key) for key in statement.value.keys if key is not None]
    is_that = [*map(ast.unparse, statement.targets)] == [ast.unparse(item.value)]
    return is_that and ast.unparse(item.slice) in keys


def right_but_unreturned(case: Case) -> Finding | None:
    """Find that the right gradient is made, and another variable returned."""
    made = case.first.unreturned.get(case.name)
    if made is None:
        return None
    is_named = case.chosen.contract == "named"
    so = "which is returned under another name" if is_named else "which nothing reads"
    words = f"another value is returned for {case.name}; the right one stands in `{made}`, {so}"
    put = _left_by(case, case.name)
    hint = f"Look at what stands in the {'line' if put else '`return`'}."
    return Finding("swapped", {"with": made}, words, at=put or return_of(case), hint=hint)


def a_whole_number(case: Case) -> Finding | None:
    """Find that a size, or another whole number, is returned for the gradient of a tensor."""
    given = case.first.draw.given.get(case.gradient)
    if case.chosen.contract != "returned" or type(given) is not int or not case.culprit.expected.dim():
        return None
    words = f"the number {given} is returned for the gradient of {case.name}"
    detail = {"used": case.gradient, "expected": None}
    return Finding(
        "wrong_point", detail, words, at=return_of(case), hint="Look at what stands in the `return`."
    )


def _is_that_of(name: str, other: str, draw: Draw) -> bool:
    """Tell whether what is returned for one tensor is the right gradient of another one."""
    value, right = draw.user.get(name), draw.trace.gradients.get(other)
    if value is None or right is None or not bool(right.any()):
        return False
    if value.shape != right.shape and fits(value, right):  # autograd has summed it
        right = right.sum_to_size(value.shape)
    return close(value, right)


def taken_in_another_order(case: Case) -> dict[ast.stmt, tuple[str, ...]]:
    """Return the statements that take values in another order than the forward keeps them, with that.

    By their names: it keeps `(x, w)`, or saves `x, w`, and a statement takes `w, x`.
    """
    forward, source = case.chosen.forward_source, case.chosen.backward_source
    nodes = [n for s in (forward.statements if forward is not None else ()) for n in ast.walk(s)]
    rows = [n.args if isinstance(n, ast.Call) else getattr(n, "elts", ()) for n in nodes]
    kept = [tuple(getattr(item, "id", "") for item in row) for row in rows]
    found = {}
    for s in source.simple if source is not None else ():
        is_call = isinstance(getattr(s, "value", None), ast.Call)
        taken = () if is_call else tuple(taken_together(s))
        others = [row for row in kept if sorted(row) == sorted(taken)] if len(taken) > 1 else []
        if others and taken not in others:
            found[s] = others[0]
    return found


def at_return(case: Case) -> tuple[ast.stmt, ...]:
    """Return the `return` statement where it alone can be at fault: what it returns is right for another.

    Or nothing computes it, as what was saved in the forward.
    """
    source, path = case.chosen.backward_source, root(case.paths.get(case.name, ""))
    if case.chosen.contract != "returned" or source is None or case.culprit.value is None:
        return ()
    makers = [s for s in source.simple if path in writes(s)]
    is_innocent = all(s in case.innocent or not computes(s) for s in makers)
    return return_of(case) if makers and is_innocent else ()


def return_of(case: Case) -> tuple[ast.stmt, ...]:
    """Return the last `return` of the backward."""
    source = case.chosen.backward_source
    return tuple(returns(source.statements)[-1:]) if source is not None else ()


def _too_early(case: Case, other: str, gradient: str) -> Finding | None:
    """Return that the derivative of this line's tensor by the other is multiplied in a line too early."""
    if case.name in case.first.draw.trace.consumers(other):
        words = f"it is {gradient} already: the derivative of {case.name} is multiplied in a line too early"
        return Finding("wrong_upstream", {"used": gradient, "expected": case.gradient}, words)
    if other in case.first.draw.trace.consumers(case.name):
        words = f"it hands {gradient} on as it is, for that holds the derivative of {other} already"
        return Finding("wrong_point", {"used": None, "expected": other}, words)
    return None


def upstream_not_read(case: Case) -> Finding | None:
    """Find an upstream gradient that the statements of this gradient never read.

    Not where the one at fault is known: then it is not the reason that others are read. Nor of what is only
    fetched from an object within an object: a call has left it there, and what that reads is not seen.
    """
    if case.at_fault is not None or all(map(_fetches, case.suspects)):
        return None
    for path, consumer in case.unread:
        words = f"{path}, the gradient that comes from {consumer}, is not used"
        return Finding("wrong_upstream", {"used": None, "expected": path}, words)
    return None


def _fetches(statement: ast.stmt) -> bool:
    parts = ast.Attribute, ast.Subscript
    value = statement.value if isinstance(statement, ast.Assign) else None
    within = isinstance(value, parts) and isinstance(value.value, parts)
    return within or isinstance(statement, ast.Return)


def why_it_raised(case: Case) -> Exception | None:
    """Return why a line made no gradient: for a variable that is not there, what its own line raised."""
    raised = where_it_raised(case)
    return raised[1] if raised is not None else None


def where_it_raised(case: Case) -> tuple[ast.stmt, Exception] | None:
    """Return the line for which no gradient was made, with what it raised."""
    if case.culprit.value is not None or case.first.repair is None:
        return None
    return case.first.repair.cause(case.name)


def told(error: Exception, line: str = "the line") -> str:
    """Return what a line raised, as a clause."""
    return f"{line} raises {in_short(error)}"
