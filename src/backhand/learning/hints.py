"""Hints in steps for the gradient to work on: first a question, then the rule, then the answer."""

from dataclasses import dataclass

from backhand.checking.explaining import explain
from backhand.learning.attempts import Attempt
from backhand.learning.blanking import answer


@dataclass(frozen=True)
class Hint:
    """One step: what kind it is, and its lines."""

    kind: str
    text: str


def hints(attempt: Attempt) -> tuple[Hint, ...]:
    """Return the hints for the gradient that an attempt has to mend or write next, the mildest first."""
    gradient = attempt.next_gradient
    if gradient is None:
        return ()
    row = gradient.row
    mistake = row.mistake if row is not None else None
    question = attempt.exercise.question
    if mistake is not None and mistake.hint:
        question = f"{mistake.hint}\n{question}"
    steps = [Hint("question", f"{gradient.name}: {question}")]
    if row is not None and row.used_by:
        steps.append(Hint("rule", explain(row)))
    steps.append(Hint("answer", "\n".join(answer(attempt.exercise, gradient.name))))
    return tuple(steps)
