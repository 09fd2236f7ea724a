"""Put a finding into words: what is wrong, expected and found, the likely cause, what to try."""

from torch import Tensor

from backhand.checking.meanings import KINDS
from backhand.checking.mistakes.evidence import Case, names_read
from backhand.checking.mistakes.finding import Finding, listed
from backhand.checking.report import Mistake
from backhand.checking.verdicts.comparing import close, worst_element


def in_words(case: Case, found: Finding) -> Mistake:
    """Return the mistake with its message."""
    return Mistake(
        kind=found.kind,
        message=f"{case.gradient}: {found.words}.{_numbers(case)}{_balanced(case)}",
        hint=found.hint or KINDS[found.kind].hint,
        detail=found.detail,
        also=f"Another explanation: {found.also}." if found.also else "",
    )


def _numbers(case: Case) -> str:
    """Return where the difference is largest, with both values there."""
    user, expected = case.culprit.value, case.culprit.expected
    if user is None or user.shape != expected.shape or not expected.numel():
        return ""
    at = worst_element(user, expected)
    where = f" at [{', '.join(map(str, at))}]" if at else ""
    return f" Expected {_number(expected[at])}, found {_number(user[at])}{where}{_luck(case)}."


def _number(element: Tensor) -> str:
    """Return an element as people write it, a complex one as `1-2j`."""
    value = element.item()
    return f"{value:.6g}"


def _luck(case: Case) -> str:
    """Say why a gradient is at fault though the value that the user sees is right."""
    draw, name = case.first.draw, case.name
    if case.culprit.cancels:
        found = ", for random upstream gradients; with the true ones the difference cancels"
        return f"{found}: the printed numbers are right here, the rule is not"
    value, right = draw.user.get(name), draw.trace.gradients.get(name)
    if value is not None and right is not None and close(value, right, noise=case.culprit.noise):
        return ", for right upstream gradients; the value is right because a line above is wrong as well"
    return ""


def _balanced(case: Case) -> str:
    """Name the gradients that are right only because they are made of this wrong one."""
    matched, balanced, draw = case.first.draw.matched, case.first.balanced, case.first.draw
    own, value = matched.get(case.name, ""), draw.user.get(case.name)
    of_it = [n for n in matched if n in balanced] if value is not None else []
    made = [matched[n] for n in of_it if own in (names_read(case, n) or ())]
    if not made or value is None:
        return ""
    are = "are" if len(made) > 1 else "is"
    others = [n for n, g in draw.trace.gradients.items() if n not in draw.user and close(value, g)]
    whose = f", the gradient of {others[0]}" if others else ""
    return f" {listed(made)}, made of it, {are} right with this value{whose}."
