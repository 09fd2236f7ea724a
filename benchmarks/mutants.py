"""Measure the checker on wrong and on right backwards: every pass of the project, changed automatically.

    python benchmarks/mutants.py [--show] [PASS ...]

Prints how many mutants are detected, for how many the right gradient alone is blamed, for how many the
mistake is named rightly, and how many right rewrites are called wrong. A mutant whose gradients are equal to
the original's, bit by bit in float64 on three draws, is no mutant.
"""

import importlib
import pkgutil
import sys
import time
import types
from collections import Counter

import torch
from mutating import Mutant, Subject
from rewriting import rewrites

import backhand
import backhand.passes
from backhand.checking.running.names import root
from backhand.checking.running.trials import draw
from backhand.checking.sources.protocol import resolve


def passes(names: list[str]) -> list[types.ModuleType]:
    """Return the modules of the textbook."""
    found = [m.name for m in pkgutil.iter_modules(backhand.passes.__path__)]
    return [
        importlib.import_module(f"backhand.passes.{name}") for name in found if not names or name in names
    ]


def gradients(module: types.ModuleType) -> list[dict[str, torch.Tensor]]:
    """Return the gradients of a pass on three draws, in float64."""
    chosen = resolve(module, None, None, None, None)
    generator = torch.Generator().manual_seed(1)
    runs = [draw(chosen, chosen.draw(generator), torch.float64, i) for i in range(3)]
    return [] if any(r.error is not None for r in runs) else [r.user for r in runs]


def is_equivalent(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    """Tell whether two passes give the same gradients, bit by bit."""
    if len(a) != len(b):
        return False
    return all(
        x.keys() == y.keys() and all(x[k].shape == y[k].shape and torch.equal(x[k], y[k]) for k in x)
        for x, y in zip(a, b, strict=True)
    )


def judge(mutant: Mutant, counts: Counter[str], show: bool) -> None:
    """Check one mutant and count what the checker makes of it."""
    report = backhand.check(mutant.module, stress=False)
    counts["mutants"] += 1
    warned = {w.kind for w in report.warnings}
    blamed = {root(row.gradient) for row in report.culprits}
    blamed |= {root("d" + w.detail["name"]) for w in report.warnings}
    named = {row.mistake.kind for row in report.culprits if row.mistake} | warned
    detected = not report.ok or bool(warned)
    right = bool(blamed) and blamed <= mutant.culprits
    counts["detected"] += detected
    counts["culprit right"] += right
    counts["mistake named"] += bool(named) and named <= mutant.kinds
    if show and not (detected and right and named <= mutant.kinds):
        flaw = "MISSED" if not detected else "culprit" if not right else "name"
        print(f"{flaw:8} {mutant.operation:15} {mutant.line[:90]}")
        print(
            f"{'':8} expected {sorted(mutant.culprits)} {sorted(mutant.kinds)};"
            f" found {sorted(blamed)} {sorted(named)}"
        )


def main() -> None:
    """Run the benchmark."""
    torch.set_num_threads(1)
    show = "--show" in sys.argv
    chosen = passes([a for a in sys.argv[1:] if not a.startswith("-")])
    counts: Counter[str] = Counter()
    began = time.perf_counter()
    for module in chosen:
        subject = Subject(module)
        original = gradients(module)
        for mutant in subject.mutants():
            if is_equivalent(original, gradients(mutant.module)):
                counts["equivalent"] += 1
            else:
                judge(mutant, counts, show)
        for label, rewritten, inputs in rewrites(subject):
            if not gradients(rewritten):
                continue  # it raises: no rewrite of this code
            counts["rewrites"] += 1
            report = backhand.check(rewritten, inputs=inputs, stress=False)
            if not report.ok or report.warnings:
                counts["false alarms"] += 1
                if show:
                    print(f"FALSE ALARM {module.__name__} {label}\n{report}")
        print(f"{module.__name__.rsplit('.', 1)[1]:15} {dict(counts)}", flush=True)
    total = counts["mutants"]
    print(
        f"\n{total} mutants ({counts['equivalent']} equivalent left out), {time.perf_counter() - began:.0f} s"
    )
    for what, target in (("detected", "100"), ("culprit right", "99"), ("mistake named", "95")):
        print(f"{what:15} {counts[what]:5}  {100 * counts[what] / max(total, 1):6.2f}%  (target {target}%)")
    print(
        f"{'false alarms':15} {counts['false alarms']:5}  of {counts['rewrites']} right rewrites (target 0)"
    )


if __name__ == "__main__":
    main()
