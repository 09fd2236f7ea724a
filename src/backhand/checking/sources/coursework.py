"""Files over NumPy, opened: the layers that they have, with the tests beside them, or the calls they make."""

import contextlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report
from backhand.checking.running.importing import imports_from
from backhand.checking.running.sandbox import sandbox
from backhand.checking.sources.batches import Options
from backhand.checking.sources.calls import Run, Tests, is_of_tests, run_cells, run_tests
from backhand.checking.sources.fetched import files_from
from backhand.checking.sources.layers import layers_of
from backhand.checking.sources.modules import module_of, roots_of
from backhand.checking.sources.subjects import Subject
from backhand.errors import CheckError


@contextlib.contextmanager
def layers_opened(path: Path, draws: int, seed: int) -> Iterator[list[Subject]]:
    """Give the layers that a file has; what it imports stays importable meanwhile."""
    with sandbox(), contextlib.ExitStack() as folders:
        for folder in roots_of(path):
            folders.enter_context(imports_from(folder))
        tests = Tests(path)
        layers = layers_of(module_of(path), draws=draws, seed=seed, recorded=tests.of)
        if not layers:
            raise CheckError(
                f"{path} has no backward that computes something, only what is to be derived from."
            )
        yield layers


@contextlib.contextmanager
def calls_opened(
    cells: Sequence[tuple[str, str]], path: Path, options: Options, watch: Callable[[str], None]
) -> Iterator[list[Subject]]:
    """Give what a notebook, a script or a file of tests has and calls, judged on what it gives it.

    Args:
        cells: of a notebook with their labels, or a single one.
        path: the file.
        options: how it is checked.
        watch: called with the cell that is run next.

    Raises:
        CheckError: nothing was called.
    """
    path = path.resolve()  # the folder is another one within
    with sandbox(path.parent), files_from(options.data), contextlib.ExitStack() as stack:
        for folder in roots_of(path) if path.suffix == ".py" else ():
            stack.enter_context(imports_from(folder))
        if is_of_tests(path):
            run = Run(run_tests(path), {})
        else:
            run = run_cells(cells, path, options.time_limit, watch)
        module = ModuleType("__main__")
        labels = {label for label, _ in cells} if path.suffix == ".ipynb" else set()
        vars(module).update(run.space)
        found = layers_of(module, draws=options.draws, seed=options.seed, recorded=run.recorded.get)
        names = {subject.name for subject in found}
        found += [
            Subject(title, partial(seen.check, draws=options.draws, seed=options.seed))
            for title, seen in run.recorded.items()
            if title not in names
        ]
        found = [replace(s, check=partial(_placed, s.check, path, labels)) for s in found]
        found += [Subject(label, partial(_refuse, f"{label} {why}")) for label, why in run.raised.items()]
        if not found:
            raise CheckError(f"{path}: no backward over NumPy is called after its forward.")
        yield found


def _placed(check: Callable[[], Report], path: Path, labels: Container[str]) -> Report:
    """Return a report that says in which cell its lines stand, or in which other file."""
    report = check()
    files = [(row.lines[0].file if row.lines else None) or "" for row in report.rows]
    rows = [replace(r, cell=f if f in labels else "") for r, f in zip(report.rows, files, strict=True)]
    others = {Path(f).name for f in files if f and f not in labels and Path(f).resolve() != path}
    notes = [f"The lines are those of {listed(sorted(others))}."] if others else []
    return replace(report, rows=tuple(rows), notes=(*report.notes, *notes))


def _refuse(why: str) -> Report:
    raise CheckError(why)
