"""Name a mistake by what autograd knows: what the statement's value is, beside what belongs there."""

import ast

from torch import Tensor

from backhand.checking.mistakes.evidence import Case
from backhand.checking.mistakes.finding import Finding, listed
from backhand.checking.running.known import Known, Label
from backhand.checking.running.names import operation_called
from backhand.checking.running.slicing import computes
from backhand.checking.running.statements import assigned, line_of, reads
from backhand.checking.verdicts.comparing import close
from backhand.checking.verdicts.fault import Fault


def another_known_value(case: Case) -> Finding | None:
    """Find that the statement at fault gives something that is right elsewhere: a part, or a step before."""
    fault = case.culprit.fault
    if fault is None or _is_opposite(fault):  # a minus more is no derivative that is left out
        return None
    for known in fault.taken_for:
        found = _part(known, fault.belongs) or _step(known, fault.belongs)
        if found is not None:
            return found
    return None


def number_for_a_tensor(case: Case) -> Finding | None:
    """Find that the statement at fault gives a number, the same for all elements, where a tensor belongs."""
    fault = case.culprit.fault
    if fault is None or not fault.gives_a_number:
        return None
    belongs = fault.benches[0].expected
    if belongs.numel() < 2 or not bool(belongs.any()):
        return None
    shape, is_value = tuple(belongs.shape), fault.belongs.is_value
    words = f"it is a number, where a {'tensor' if is_value else 'gradient'} of shape {shape} belongs"
    kind = "wrong_point" if is_value else "wrong_upstream"
    return Finding(kind, {"used": None, "expected": None}, words, at=(fault.statement,))


def _is_opposite(fault: Fault) -> bool:
    """Tell whether what the statement gives is what belongs there but for its sign."""
    made = [(bench.value, bench.expected) for bench in fault.benches if bench.value is not None]
    return bool(made) and all(a.shape == b.shape and close(a, -b) for a, b in made)


def another_value_of_the_forward(case: Case) -> Finding | None:
    """Find that a variable holds another tensor than that of the forward with which all is right.

    So it is where another one was saved, or was taken from there.
    """
    fault = case.culprit.fault
    if fault is None or not fault.belongs.is_value or not fault.variable:
        return None
    trace, belongs = case.first.draw.trace, fault.belongs.values[0]
    held = {n: v for n, v in {**trace.inputs, **trace.tensors}.items() if isinstance(v, Tensor)}
    alike = (n for n, v in held.items() if v.shape == belongs.shape and close(v, belongs))
    name, own = next(alike, None), held.get(fault.variable)
    value = fault.benches[0].value if fault.benches else None
    if own is not None and value is not None and own.shape == value.shape and close(value, own):
        return None  # it holds what it is called: what is made of it is at fault
    source = case.chosen.backward_source
    readers = [s for s in source.simple if fault.variable in reads(s)] if source is not None else []
    made = [s for s, _ in fault.belongs.label.operations if s is not None]
    is_its_own = any(fault.variable in assigned(s) for s in made)
    if name is None and len(readers) < 2 and not is_its_own:
        return None  # the one line that reads it may as well lack an operation
    there = f"the forward's {name}" if name else f"what {_place(fault.belongs.label)} takes or gives"
    words = f"{fault.variable} holds another tensor than {there}, which belongs there"
    detail = {"used": fault.variable, "expected": name}
    hint = "" if computes(fault.statement) else "Look at what the forward saves, and in which order."
    return Finding("wrong_point", detail, words, at=(fault.statement,), hint=hint)


def what_belongs(case: Case) -> str:
    """Say, as a clause, what the statement at fault should give; empty where that has no words."""
    fault = case.culprit.fault
    for label in fault.belongs.labels if fault is not None else ():
        line = f"; `{line_of(fault.statement)}` should give" if fault is not None else ""
        if label.kind == "result" and label.operations:
            return f"{line} the gradient of what {_place(label)} makes"
        if label.kind == "nothing":
            return f"{line} zeros, with which a sum begins"
        if label.kind in ("operand", "part"):
            return f"{line} what comes from {_told(frozenset(label.operations))}"
    return ""


def _part(known: Known, belongs: Known) -> Finding | None:
    """Find that what some uses of a tensor send back stands for what others, or all, do."""
    if known.of.isdisjoint(belongs.of):
        return None
    there, wanted = _uses(known), _uses(belongs)
    if there is None:
        return None
    if wanted is None:
        words = f"it is only what comes from {_told(there)}: other uses of the tensor are missing"
        return Finding("missing_branch", {"branches": []}, words)
    lost = wanted - there
    words = f"what comes from {_told(lost)} is missing"
    return Finding("missing_branch", {"branches": []}, words) if lost else None


def _uses(known: Known) -> frozenset[tuple[ast.stmt | None, str]] | None:
    """Return the operations whose parts are in a gradient; None where it is the sum of all."""
    parts = [label for label in known.labels if label.kind in ("operand", "part")]
    whole = any(label.kind in ("result", "input") for label in known.labels)
    return None if whole or not parts else frozenset(parts[0].operations)


def _step(known: Known, belongs: Known) -> Finding | None:
    """Find that the derivative of one operation is left out, or is there already.

    Not of one that hands on what arrives, as a `clone`: the same tensors belong in other turns.
    """
    if {*known.signatures} <= {*belongs.signatures}:
        return None
    for kind, other, left_out in (("result", "operand", True), ("operand", "result", False)):
        here = {label.operations: label for label in known.labels if label.kind == kind}
        for label in belongs.labels:
            if label.kind == other and label.operations in here:
                where = _place(label)
                told = f"the derivative of {where} is {'missing' if left_out else 'in it too early'}"
                return Finding("wrong_point", {"used": None, "expected": where}, told)
    return None


def _told(operations: frozenset[tuple[ast.stmt | None, str]]) -> str:
    return listed(sorted({_in_words(operation) for operation in operations}))


def _place(label: Label) -> str:
    return _in_words(label.operations[0])


def _in_words(operation: tuple[ast.stmt | None, str]) -> str:
    statement, name = operation
    called = operation_called(name).rsplit(".", 1)[-1]
    if statement is None:
        return f"the {called}"
    return f"the {called} in `{line_of(statement)}`"
