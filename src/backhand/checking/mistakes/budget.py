"""How much may be tried to name the mistakes of a report: a number of runs, and a time."""

import ast
import time
from dataclasses import dataclass, field, replace

from backhand.checking.running.alarms import until

# What may be spent on naming all mistakes of a report: a statement is compiled and run in some 0.1 ms, so the
# tries come to an end first, unless the tensors are large, or the forward is long and no line is known to be
# at fault: each prediction walks through its operations.
TRIES = 60_000
SECONDS = 6.0


def _until() -> float:
    """Return the processor time at which it is enough."""
    return until(SECONDS)


@dataclass(frozen=True)
class Budget:
    """How much may still be tried, for all gradients of a report together.

    Attributes:
        tries: how many statements may be compiled and run.
        until: the processor time at which it is enough.
        suspect: the statement in which a mistake was found already; it may have spoilt several gradients.
    """

    tries: int = field(default_factory=lambda: TRIES)
    until: float = field(default_factory=_until)
    suspect: ast.stmt | None = None

    @property
    def is_spent(self) -> bool:
        """Whether it is enough."""
        return self.tries <= 0 or self.is_late

    @property
    def is_late(self) -> bool:
        """Whether the time is up; what needs no tries is left out as well then."""
        return time.process_time() >= self.until

    def share(self) -> "Budget":
        """Return half of it, for one gradient: the other half is for those that follow."""
        now = time.process_time()
        return replace(self, tries=self.tries // 2, until=now + (self.until - now) / 2)

    def at_most(self, tries: int) -> "Budget":
        """Return as much of it."""
        return replace(self, tries=min(self.tries, tries))

    def less(self, tries: int) -> "Budget":
        """Return what is left after so many tries."""
        return replace(self, tries=self.tries - tries)
