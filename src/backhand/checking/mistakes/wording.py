"""Put a finding into words: what is wrong, expected and found, the likely cause, what to try."""

from backhand.checking.meanings import KINDS
from backhand.checking.mistakes.evidence import names_read
from backhand.checking.mistakes.finding import Finding, listed
from backhand.checking.report import Mistake
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close, differences, elements
from backhand.checking.verdicts.localising import Judgement


def in_words(chosen: Pass, judgement: Judgement, name: str, found: Finding) -> Mistake:
    """Return the mistake with its message, which names the line if there is a source."""
    gradient = judgement.draw.matched.get(name, f"d{name}")
    return Mistake(
        kind=found.kind,
        message=f"{gradient}: {found.words}.{_numbers(judgement, name)}{_balanced(chosen, judgement, name)}",
        hint=found.hint or KINDS[found.kind].hint,
        detail=found.detail,
        also=f"Another explanation: {found.also}." if found.also else "",
    )


def _numbers(judgement: Judgement, name: str) -> str:
    """Return where the difference is largest, with both values there."""
    culprit = judgement.culprits[name]
    user, expected = culprit.value, culprit.expected
    if user is None or user.shape != expected.shape or not expected.numel():
        return ""
    worst = int(differences(elements(user), elements(expected)).argmax())
    index = []
    for size in reversed(expected.shape):
        index.insert(0, worst % size)
        worst //= size
    at = tuple(index)
    where = f" at [{', '.join(map(str, at))}]" if at else ""
    luck = _luck(judgement, name)
    return f" Expected {float(expected[at]):.6g}, found {float(user[at]):.6g}{where}{luck}."


def _luck(judgement: Judgement, name: str) -> str:
    """Say why a gradient is at fault though the value that the user sees is right."""
    if judgement.culprits[name].cancels:
        return ", for random upstream gradients; with the true ones the difference cancels"
    value, right = judgement.draw.user.get(name), judgement.draw.trace.gradients.get(name)
    if value is not None and right is not None and close(value, right):
        return ", for right upstream gradients; the value is right because a line above is wrong as well"
    return ""


def _balanced(chosen: Pass, judgement: Judgement, name: str) -> str:
    """Name the gradients that are right only because they are made of this wrong one."""
    own = judgement.draw.matched.get(name, "")
    of_it = [n for n in judgement.draw.matched if n in judgement.balanced]
    of_it = [judgement.draw.matched[n] for n in of_it if own in (names_read(chosen, judgement, n) or ())]
    value, right = judgement.draw.user.get(name), judgement.draw.trace.gradients
    if not of_it or value is None:
        return ""
    are = "are" if len(of_it) > 1 else "is"
    others = [n for n, g in right.items() if n not in judgement.draw.user and close(value, g)]
    whose = f", the gradient of {others[0]}" if others else ""
    return f" {listed(of_it)}, made of it, {are} right with this value{whose}."
