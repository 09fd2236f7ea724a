"""The measures of the benchmark of mutants, as lines of text."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

# What the checker should reach, of mutants in straight code and in loops.
TARGETS = {"detected": "100", "one right culprit": "99.5", "line shown": "99.5", "named": "97"}

Pairs = Sequence[tuple[Any, Any]]  # of Job and Outcome


def told(pairs: Pairs) -> str:
    """Return the measures of some mutants and rewrites."""
    wrong = [o for job, o in pairs if job.mutant is not None and o.what != "none"]
    right = [o for job, o in pairs if job.mutant is None and o.what != "none"]
    left_out = sum(job.mutant is not None and o.what == "none" for job, o in pairs)
    measures = {
        "detected": [o.what == "wrong" for o in wrong],
        "one right culprit": [o.what == "wrong" and o.one for o in wrong],
        "line shown": [o.what == "wrong" and o.line for o in wrong],
        "named": [o.what == "wrong" and o.named for o in wrong],
        "unexplained": [o.what == "wrong" and o.unexplained and not o.named for o in wrong],
        "named falsely": [o.what == "wrong" and not o.named and not o.unexplained for o in wrong],
        "slow or crashed": [o.what in ("slow", "crash") for o in wrong],
    }
    lines = [f"{len(wrong)} mutants ({left_out} that are none left out)"]
    for what, each in measures.items():
        target = f"  (target {TARGETS[what]}%)" if what in TARGETS else ""
        lines.append(f"{what:18} {sum(each):5}  {100 * sum(each) / max(len(each), 1):6.2f}%{target}")
    alarms = sum(o.what != "right" for o in right)
    lines.append(f"{'false alarms':18} {alarms:5}  of {len(right)} right rewrites (target 0)")
    for title, some in (("wrong", wrong), ("right", right)):
        seconds = [o.seconds for o in some] or [0.0]
        lines.append(
            f"seconds, {title:9} {statistics.median(seconds):8.3f} median {max(seconds):8.2f} at most"
        )
    return "\n".join(lines)


def by_kind(pairs: Pairs) -> str:
    """Return for each operation how many were not detected, blamed, shown, named; two at once are one."""
    table: dict[str, Counter[str]] = {}
    for job, o in pairs:
        if job.mutant is None or o.what == "none":
            continue
        two = " & " in job.operation or " / " in job.operation
        at = "two in a line" if " & " in job.operation else "two lines" if two else job.operation
        counts = table.setdefault(at, Counter())
        counts["of"] += 1
        counts["not detected"] += o.what != "wrong"
        counts["culprit"] += not o.one
        counts["line"] += not o.line
        counts["name"] += not o.named
    columns = ("of", "not detected", "culprit", "line", "name")
    lines = [f"{'what went wrong, of':28}" + "".join(f"{c:>13}" for c in columns)]
    for operation, counts in sorted(table.items(), key=lambda item: -item[1]["name"] - item[1]["culprit"]):
        lines.append(f"{operation:28}" + "".join(f"{counts[c]:13}" for c in columns))
    return "\n".join(lines)
