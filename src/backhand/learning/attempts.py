"""Judging a learner's file: a verdict for every gradient that the exercise asks for."""

import io
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from backhand.checking.judging import check
from backhand.checking.meanings import VERDICTS
from backhand.checking.report import Report, Row, Verdict
from backhand.checking.running.names import root
from backhand.checking.running.program import Source, source_of
from backhand.errors import CheckError
from backhand.learning.blanking import asked, needed_in_a_loop
from backhand.learning.course import Exercise
from backhand.learning.loading import Problem, in_one_line, load
from backhand.learning.training import Training, train_with
from backhand.learning.unfinished import only_begun, unfinished, waiting_lines

# Of several tensors under one name, as the states of a recurrent layer are, the first of these is told.
WORST: tuple[Verdict, ...] = ("todo", "wrong", "shape", "follows", "right", "vacuous")
# So many different lines of what a learner's file prints are kept: it runs several times in a check.
PRINTED = 8
WIDTH = 200
LONGEST = 10_000


@dataclass(frozen=True)
class Gradient:
    """The verdict on one gradient of an exercise.

    Attributes:
        name, shape: as the exercise asks for it: `dW`, `(k, m)`.
        verdict: as in a report, but a gradient that is left out is `todo`.
        row: the report's row; None where nothing could be judged.
        waits_for: an unfinished gradient that this one uses, or an empty string.
        so_far: it is right as far as it goes, and what is missing has its place further down.
    """

    name: str
    shape: str
    verdict: Verdict
    row: Row | None = None
    waits_for: str = ""
    so_far: bool = False

    @property
    def reason(self) -> str:
        """Why it is not right, in words; empty where it is, and where nothing is written yet."""
        if self.so_far and self.row is not None:
            through = " and ".join(_branches(self.row))
            after = f", once {self.waits_for} is there" if self.waits_for else ""
            return f"right so far; add what comes through {through}{after}"
        if self.waits_for:
            return f"uses {self.waits_for}, which is still missing"
        if self.verdict == "todo":
            return ""
        if self.row is not None and self.row.mistake is not None:
            return self.row.mistake.message
        return self.row.note if self.row is not None else ""


@dataclass(frozen=True)
class Attempt:
    """A learner's file, judged.

    Attributes:
        gradients: one for each that the exercise asks for, in the order of the backward.
        report: what the checker found; None if the file could not be run.
        problem: why the file could not be judged, or why it does not count; empty if it could.
        training: for an exercise that trains, what came of it once all gradients are right.
        printed: the first lines that the file printed, each once.
    """

    exercise: Exercise
    path: Path
    gradients: tuple[Gradient, ...]
    report: Report | None = None
    problem: str = ""
    training: Training | None = None
    printed: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Tell whether the exercise is solved."""
        if self.problem or self.report is None or not self.report.ok or not _all_right(self.gradients):
            return False
        return not self.exercise.trains or (self.training is not None and self.training.matches)

    @property
    def credit(self) -> float:
        """The part of the gradients whose own line is right, from 0 to 1; 1 only where it is solved.

        Right gradients with a failure besides, such as an input that is changed, lose as a wrong shape does.
        """
        earned = sum(VERDICTS[g.verdict].credit for g in self.gradients)
        most = len(self.gradients) - (0 if self.done else 1 - VERDICTS["shape"].credit)
        return min(earned, most) / len(self.gradients)

    @property
    def next_gradient(self) -> Gradient | None:
        """The gradient to work on: the first culprit, else the first that is missing or only so far right.

        In a loop one comes after those that it is made of, whatever the order in which they are returned.
        """
        open_ = [g for g in self.gradients if not g.waits_for]
        culprit = next((g for g in open_ if VERDICTS[g.verdict].at_fault), None)
        missing = [g for g in open_ if g.verdict == "todo"]
        names = {g.name for g in missing}
        ready = [g for g in missing if not needed_in_a_loop(self.exercise, g.name) & names]
        return culprit or next(iter(ready or missing), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a program to read, such as a grader."""
        return {
            "number": self.exercise.number,
            "name": self.exercise.name,
            "file": str(self.path),
            "done": self.done,
            "credit": round(self.credit, 4),
            "problem": self.problem or None,
            "failures": [m.message for m in self.report.stress] if self.report else [],
            "trains": self.training.matches if self.training else None,
            "gradients": [
                {
                    "name": g.name,
                    "verdict": g.verdict,
                    "mistake": g.row.mistake.kind if g.row and g.row.mistake else None,
                    "reason": g.reason or None,
                    "credit": VERDICTS[g.verdict].credit,
                }
                for g in self.gradients
            ],
        }


def judge_file(exercise: Exercise, path: Path) -> Attempt:
    """Judge one file of a course; nothing in it makes this raise, and nothing that it prints shows."""
    output = _Beginning()
    with redirect_stdout(output), redirect_stderr(_Beginning()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attempt = _judge(exercise, path)
    lines = dict.fromkeys(line.rstrip()[:WIDTH] for line in output.getvalue().splitlines())
    return replace(attempt, printed=tuple(lines)[:PRINTED])


class _Beginning(io.StringIO):
    """Keeps the beginning of what is written: a learner's loop may print without end."""

    def write(self, text: str, /) -> int:
        super().write(text[: max(0, LONGEST - self.tell())])
        return len(text)


def unjudged(exercise: Exercise, path: Path, problem: str) -> Attempt:
    """Return the attempt at a file that could not be judged: every gradient is missing."""
    missing = tuple(Gradient(name, shape, "todo") for name, shape in asked(exercise).items())
    return Attempt(exercise, path, missing, problem=problem)


def _judge(exercise: Exercise, path: Path) -> Attempt:
    try:
        module, open_stages = load(exercise, path)
        report = _report(exercise, module)
    except (Problem, CheckError) as error:
        return unjudged(exercise, path, str(error))
    except (Exception, SystemExit) as error:  # `exit()` in the backward; the learner's code may do anything
        return unjudged(exercise, path, in_one_line(error, path))
    source = source_of(module.backward)
    names = asked(exercise)
    waiting = _waiting(source, report, set(names)) if source is not None else {}
    so_far = {r.gradient for r in report.rows if _is_right_so_far(r, waiting, open_stages)}
    gradients = tuple(_gradient(name, shape, report, waiting, so_far) for name, shape in names.items())
    problem = _raised(report, waiting_lines(source, waiting) if source is not None else set())
    training = None
    if exercise.trains and report.ok and _all_right(gradients):
        training = train_with(module)
    return Attempt(exercise, path, gradients, report, problem, training)


def _report(exercise: Exercise, module: ModuleType) -> Report:
    inputs = exercise.solution.inputs
    if exercise.numpy:
        from backhand.checking.sources.pairs import check_pair  # who learns over torch does without

        return check_pair(module.forward, module.backward, inputs)
    return check(module.forward, module.backward, inputs=inputs, out=getattr(exercise.solution, "out", None))


def _waiting(source: Source, report: Report, names: set[str]) -> dict[str, str]:
    """Return the gradients that are still to be written, each with what it waits for, if it does.

    Zeros that a loop is to add to are no mistake before it does.
    """
    begun = only_begun(source, names)
    rows = [row for row in report.rows if root(row.gradient) in begun and row.mistake is not None]
    zeros = {root(row.gradient): "" for row in rows if row.mistake and row.mistake.kind == "zero"}
    return zeros | unfinished(source, names)


def _raised(report: Report, waiting: set[int]) -> str:
    """Return what the backward raised, unless it is only that a gradient has no value yet."""
    raised = report.raised
    if raised is None or (raised.line is not None and raised.line.number in waiting):
        return ""
    where = f"line {raised.line.number}: `{raised.line.text}` raised " if raised.line else ""
    return f"{where}{raised.error}"


def _all_right(gradients: Sequence[Gradient]) -> bool:
    return all(g.verdict in ("right", "vacuous") for g in gradients)


def _is_right_so_far(row: Row, waiting: Mapping[str, str], open_stages: frozenset[str]) -> bool:
    """Tell whether all that a gradient lacks are branches that are still to be written further down."""
    branches = _branches(row)
    return bool(branches) and (row.gradient in open_stages or all(f"d{b}" in waiting for b in branches))


def _gradient(
    name: str, shape: str, report: Report, waiting: Mapping[str, str], so_far: Collection[str]
) -> Gradient:
    """Return the verdict on a gradient: the worst of its rows, where a list holds several."""
    rows = [row for row in report.rows if root(row.gradient) == name or row.gradient == name]
    if not rows or name in waiting:
        return Gradient(name, shape, "todo", rows[0] if rows else None, waiting.get(name, ""))
    if name in so_far:
        missing = next((f"d{b}" for b in _branches(rows[0]) if f"d{b}" in waiting), "")
        return Gradient(name, shape, "todo", rows[0], missing, so_far=True)
    verdicts: list[Verdict] = [_of_row(row, report, {*waiting, *so_far}) for row in rows]
    worst = min(verdicts, key=WORST.index)
    return Gradient(name, shape, worst, rows[verdicts.index(worst)])


def _branches(row: Row) -> Sequence[str]:
    """Return the consumers whose branches are missing, if that is what is wrong with a gradient."""
    mistake = row.mistake
    return mistake.detail["branches"] if mistake is not None and mistake.kind == "missing_branch" else ()


def _of_row(row: Row, report: Report, waiting: Collection[str]) -> Verdict:
    """Return the verdict on one row.

    One that was not reached, because a line before it waits for an unfinished gradient, inherits no mistake:
    its own line was run all the same, and is right.
    """
    if row.verdict == "skipped":
        return "todo"
    unreached = row.verdict == "follows" and row.got is None
    mistaken = any(root(culprit.gradient) not in waiting for culprit in report.culprits)
    return "right" if unreached and waiting and not mistaken else row.verdict
