"""What a check says of one mutant or rewrite, held against what is true of it."""

import time
import types
from dataclasses import dataclass
from typing import Any

from mutating import Mutant
from playing import are_close, are_equal, gradients_of
from slips import MUST_DIFFER

import backhand


@dataclass(frozen=True)
class Outcome:
    """What came of one check.

    Attributes:
        what: `wrong` or `right` as the checker has it; `none` where there was nothing to check (no mutant, no
            rewrite); `slow` where it took too long; `crash` where the checker raised.
        one: exactly one gradient is blamed, and rightly.
        line: a changed line is among those shown for it.
        named: the kinds that were told are all true.
        unexplained: no kind was told.
        seconds: the check's processor time.
        told: what was found, and what was expected.
    """

    what: str
    one: bool = False
    line: bool = False
    named: bool = False
    unexplained: bool = False
    seconds: float = 0.0
    told: str = ""

    def word(self) -> str:
        """Return the outcome in a word or two."""
        return self.what if self.what != "wrong" or self.one else "wrong, other culprit"

    def flaws(self, is_mutant: bool) -> str:
        """Return what is not as it should be, or an empty string."""
        if self.what == "none":
            return ""
        if not is_mutant:
            return "" if self.what == "right" else f"FALSE ALARM {self.told}"
        if self.what != "wrong":
            return f"{'MISSED' if self.what == 'right' else self.what.upper()} {self.told}"
        lacks = [
            w for w, has in (("culprit", self.one), ("line", self.line), ("name", self.named)) if not has
        ]
        return f"{', '.join(lacks)} {self.told}" if lacks else ""


def judged_mutant(mutant: Mutant, original: Any) -> Outcome:
    """Check one mutant."""
    changed = gradients_of(mutant.module)
    if are_equal(original, changed) or (changed is None and not mutant.raises):
        return Outcome("none")
    if mutant.operation in MUST_DIFFER and are_close(original, changed):
        return Outcome("none")
    if any(are_equal(original, gradients_of(part)) for part in mutant.parts):
        return Outcome("none")
    began = time.process_time()
    try:
        report = backhand.check(mutant.module, stress=False)
    except Exception as error:  # whatever it is, it is the checker's fault
        return Outcome("crash", told=f"`{mutant.line[:90]}` {type(error).__name__}: {error}")
    seconds = time.process_time() - began
    warned = {"d" + w.detail["name"]: w.kind for w in report.warnings if "name" in w.detail}
    rows = {_root(row.gradient): row.mistake for row in report.culprits}
    blamed = set(rows) | {_root(g) for g in warned}
    kinds = {row.mistake.kind for row in report.culprits if row.mistake} | {w.kind for w in report.warnings}
    shown = {line.number for row in report.culprits for line in row.lines}
    shown |= {line.number for row in report.rows if row.gradient in warned for line in row.lines}
    raised = report.raised.line if report.raised is not None else None
    if raised is not None:
        shown.add(raised.number)
    at_line = all(group & shown for group in mutant.lines)
    if raised is not None and not blamed:  # the exception's line is all there is to be told
        one, named = at_line, at_line
    else:
        one = bool(blamed) and blamed <= mutant.culprits and len(blamed) <= mutant.most
        named = bool(kinds) and kinds <= mutant.kinds | _true_besides(original, changed)
    return Outcome(
        "right" if report.ok and not warned else "wrong",
        one=one,
        line=one and at_line,
        named=named,
        unexplained=kinds <= {"unexplained"},
        seconds=seconds,
        told=f"`{mutant.line[:90]}` expected {_listed(mutant.culprits)} {_listed(mutant.kinds)} at"
        f" {[sorted(g) for g in mutant.lines]}; found {_listed(blamed)} {_listed(kinds)} at {sorted(shown)}"
        f"{' raised' if report.raised else ''} ({seconds:.2f} s)",
    )


def judged_rewrite(module: types.ModuleType, inputs: Any, original: Any) -> Outcome:
    """Check one right rewrite."""
    if not are_close(original, gradients_of(module)):
        return Outcome("none")
    began = time.process_time()
    try:
        report = backhand.check(module, inputs=inputs, stress=False)
    except Exception as error:  # whatever it is, it is the checker's fault
        return Outcome("crash", told=f"{type(error).__name__}: {error}")
    seconds = time.process_time() - began
    right = report.ok and not report.warnings
    return Outcome("right" if right else "wrong", seconds=seconds, told="" if right else f"\n{report}")


def _true_besides(original: Any, changed: Any) -> set[str]:
    """Return what is true of gradients whatever was done: that they are not finite, or zero."""
    runs = changed or ()
    infinite = any(not g.isfinite().all() for run in runs for g in run.values())
    pairs = [(a[n], b[n]) for a, b in zip(original, runs, strict=False) for n in a.keys() & b.keys()]
    zero = any(bool(a.any()) and not bool(b.any()) for a, b in pairs)
    return {kind for kind, is_true in (("nonfinite", infinite), ("zero", zero)) if is_true}


def _root(name: str) -> str:
    return name.split("[", 1)[0]


def _listed(names: Any) -> str:
    return "{" + ", ".join(sorted(names)) + "}"
