"""Measure the checker on wrong and on right backwards: passes changed automatically, one slip at a time.

    python benchmarks/mutants.py [--show] [--sample N] [--seed S] [--jobs N] [PASS ...]

The passes are the textbook's and those of subjects/. Printed are, for straight code and for backwards with
loops, how many mutants are detected; for how many exactly one right gradient is blamed; for how many the
changed line is shown with it; for how many the mistake is named rightly (else `unexplained`, which is honest,
or a name that is not true); how many right rewrites are called wrong; and the processor time of a check.

A mutant whose gradients are equal to the original's, bit by bit in float64 on three draws, is no mutant. Of
two mistakes at once each must be one by itself. A rewrite that is not right to float64's rounding is none.
A sample is drawn of all mutants and, in the same share, of all rewrites.
"""

import argparse
import importlib
import pkgutil
import random
import time
import types
from collections import Counter
from dataclasses import dataclass
from typing import Any

import subjects
import torch
from fanning import SLOW, fanned
from judging import Outcome, judged_mutant, judged_rewrite
from mutating import Mutant, mutants_of
from playing import gradients_of
from rewriting import rewrites
from subject import Subject
from totals import by_kind, told

import backhand.passes

LIMIT = 60.0  # seconds of processor time a check may take; nobody would wait longer


@dataclass(frozen=True)
class Job:
    """A mutant, or a rewrite, to be checked."""

    subject: str
    loop: bool
    operation: str
    original: Any
    mutant: Mutant | None = None
    rewrite: tuple[types.ModuleType, Any] | None = None


def passes(names: list[str]) -> list[types.ModuleType]:
    """Return the modules of the textbook and of the subjects that draw inputs, all or those named."""
    found = [
        (package.__name__, m.name)
        for package in (backhand.passes, subjects)
        for m in pkgutil.iter_modules(package.__path__)
    ]
    modules = (importlib.import_module(f"{where}.{n}") for where, n in found if not names or n in names)
    return [module for module in modules if hasattr(module, "inputs")]


def jobs_of(module: types.ModuleType, seed: int) -> list[Job]:
    """Return everything to be checked of one pass."""
    subject, original = Subject(module), gradients_of(module)
    assert original is not None, module
    about = (module.__name__.rsplit(".", 1)[1], subject.has_loop)
    mutants = [Job(*about, m.operation, original, mutant=m) for m in mutants_of(subject, seed)]
    rewritten = [
        Job(*about, label, original, rewrite=(changed, inputs))
        for label, changed, inputs in rewrites(subject)
    ]
    return mutants + rewritten


def do(job: Job) -> Outcome:
    """Check one mutant or rewrite, in a process of its own."""
    if job.mutant is not None:
        return judged_mutant(job.mutant, job.original)
    assert job.rewrite is not None
    return judged_rewrite(*job.rewrite, job.original)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("passes", nargs="*", metavar="PASS", help="only these")
    parser.add_argument("--show", action="store_true", help="print what failed")
    parser.add_argument("--sample", type=int, metavar="N", help="check N of them, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample, and of two mistakes at once")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many processes")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    jobs = [job for module in passes(chosen.passes) for job in jobs_of(module, chosen.seed)]
    if chosen.sample is not None and chosen.sample < len(jobs):
        kept = sorted(random.Random(chosen.seed).sample(range(len(jobs)), chosen.sample))
        jobs = [jobs[i] for i in kept]
    outcomes: list[Outcome] = [Outcome("slow", seconds=LIMIT)] * len(jobs)
    for number, result in fanned(do, jobs, chosen.jobs, LIMIT):
        outcomes[number] = Outcome("slow", seconds=LIMIT) if result is SLOW or result == SLOW else result
        if chosen.show and (flaws := outcomes[number].flaws(jobs[number].mutant is not None)):
            print(f"{jobs[number].subject}: {jobs[number].operation}: {flaws}", flush=True)
    pairs = list(zip(jobs, outcomes, strict=True))
    for name in dict.fromkeys(job.subject for job in jobs):
        counts = Counter(outcome.word() for job, outcome in pairs if job.subject == name)
        print(f"{name:20} {dict(sorted(counts.items()))}")
    for loop, title in ((False, "straight code"), (True, "loops")):
        some = [(job, outcome) for job, outcome in pairs if job.loop is loop]
        print(f"\n{title}\n{told(some)}")
        print(by_kind(some))
    print(f"\n{len(jobs)} checked in {time.perf_counter() - began:.0f} s, {chosen.jobs} at a time")


if __name__ == "__main__":
    main()
