"""`check_file`: a Python file or a notebook as it is, or, without one, the project's own 26 gradients."""

import ast
import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

from backhand.checking.judging import check
from backhand.checking.merging import check_played
from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report
from backhand.checking.running.alarms import OutOfTimeError, limited
from backhand.checking.running.endings import from_outside, what_raised, where_raised
from backhand.checking.running.importing import imports_from
from backhand.checking.running.sandbox import sandbox
from backhand.checking.running.statements import writes_surely
from backhand.checking.sources.batches import Checked, Options, still_running
from backhand.checking.sources.cells import written
from backhand.checking.sources.chapters import is_definition
from backhand.checking.sources.declaring import calls_layers, classes_with_backwards, declared, is_over_numpy
from backhand.checking.sources.fetched import files_from
from backhand.checking.sources.notebooks import notebook_cells
from backhand.checking.sources.playing import play
from backhand.checking.sources.reading import parsed, read, read_as_far_as_possible
from backhand.checking.sources.subjects import Subject, subjects_of
from backhand.errors import BackhandError, CheckError, in_short
from backhand.renderers import rendered

# Seconds for judging what the cells gave, beside the limit of a cell: that runs the code some tens of times.
JUDGING = 60.0
Watch = Callable[[str], None]


def check_file(
    path: str | Path | None = None,
    *,
    loss: str = "loss",
    stop_after: int | None = None,
    time_limit: float | None = None,
    data: str | Path | None = None,
    draws: int = 3,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    watch: Callable[[str], None] = lambda _: None,
) -> Report:
    """Check what a file holds: a pass, a custom Function, or a script or notebook with gradients by hand.

    Args:
        path: a `.py` file with `forward`, `backward` and `inputs`; with a `torch.autograd.Function`, its
            `reference` and `inputs`, as `check_function` takes them; or with plain statements; or an `.ipynb`
            notebook, which is run cell by cell in its own folder. None checks `passes.mlp_chunked`.
        loss: the name of the scalar in which a script's or notebook's forward ends.
        stop_after: the number of the last code cell to run, counted from 1.
        time_limit: seconds of processor time after which a cell is left, and a pass or a Function given up.
        data: a folder in which files are looked for that a notebook opens and that are not there.
        draws: how many independent sets of inputs to try.
        seed: of the draws.
        dtype, rtol, atol: of the comparison, as `check` and `check_function` take them; not for scripts.
        watch: called with what is done next: a cell's name, or what is judged.

    Raises:
        CheckError: the file cannot be read or run, or holds nothing to check, or several things.

    >>> import tempfile
    >>> script = Path(tempfile.mkdtemp()) / "script.py"
    >>> code = "x = torch.randn(4, requires_grad=True)", "loss = x.square().sum()", "dx = x"
    >>> _ = script.write_text("\\n".join(("import torch", *code)))
    >>> report = check_file(script)
    >>> report["x"].mistake.kind, report["x"].lines[0].number
    ('scale', 4)
    """
    folder = None if data is None else Path(data)
    options = Options(loss, stop_after, time_limit, draws, seed, dtype, rtol, atol, folder)
    if path is None:  # what the project itself is about
        from backhand.passes import mlp_chunked

        return check(mlp_chunked, **options.of_the_check)
    with opened(Path(path), options, watch) as subjects:
        if len(subjects) > 1:
            names = listed([subject.name for subject in subjects])
            raise CheckError(f"{path} holds several, {names}: backhand.check_files judges each of them.")
        return subjects[0].check()


@contextlib.contextmanager
def opened(path: Path, options: Options, watch: Watch = lambda _: None) -> Iterator[list[Subject]]:
    """Give what a file has to be checked; what it sets when it is imported holds meanwhile.

    Raises:
        CheckError: the file cannot be read or run.
    """
    if path.suffix not in (".py", ".ipynb"):
        raise CheckError(f"{path} is no .py file and no .ipynb notebook.")
    text = read(path)
    if path.suffix == ".ipynb":
        cells = notebook_cells(text, path)
        kept = cells[: options.stop_after]
        if calls_layers(_trees(cells), options.loss):
            yield from _called(kept, path, options, watch)
            return
        if is_over_numpy(_trees(cells)) and len(kept) == len(cells):
            yield from _looped(kept, path, options, watch)
            return
        yield [_script(kept, path, options, watch, goes_on=len(kept) < len(cells))]
        return
    tree = _parsed(text, path)
    found = declared(tree)
    # a script that computes a loss is a script, whatever it defines on the way; a `loss` within a definition,
    # as in the forward of a Function or in its reference, is one of that alone
    scripted = any(options.loss in writes_surely(s) for s in tree.body if not is_definition(s))
    if found.layers and not (scripted and found.over_torch):
        from backhand.checking.sources.coursework import layers_opened  # who checks torch does without

        _refuse_precision(path, options, "has layers over NumPy")
        with _in_time(options.time_limit), layers_opened(path, options) as layers:
            yield layers
        return
    nothing = not (found.passes or found.kernels)
    if nothing and calls_layers([tree], options.loss):
        yield from _called([(path.name, text)], path, options, watch)
        return
    if nothing and is_over_numpy([tree]):
        yield from _looped([(path.name, text)], path, options, watch)
        return
    if nothing and not scripted and (classes := classes_with_backwards(tree)):
        kind = "are classes" if len(classes) > 1 else "is a class"
        raise CheckError(
            f"{path}: {listed(classes)} {kind} over torch with a backward; classes are judged over NumPy. "
            "Write forward and backward as two functions, or as a torch.autograd.Function beside a reference."
        )
    if "" not in found.passes and (scripted or nothing):
        _refuse_precision(path, options, "is a script")
        yield [_script([(path.name, text)], path, options, watch, goes_on=False)]
        return
    with sandbox(), imports_from(path.parent), _in_time(options.time_limit):
        yield subjects_of(_module(path), path, found, options.of_the_check)


def _called(
    cells: list[tuple[str, str]], path: Path, options: Options, watch: Watch
) -> Iterator[list[Subject]]:
    """Give what a file calls over NumPy."""
    from backhand.checking.sources.coursework import calls_opened  # who checks torch does without

    _refuse_precision(path, options, "calls layers over NumPy")
    with calls_opened(cells, path, options, watch) as subjects:
        yield subjects


def _looped(
    cells: list[tuple[str, str]], path: Path, options: Options, watch: Watch
) -> Iterator[list[Subject]]:
    """Give the loop of a script or a notebook over NumPy, which stands in no function; else the script."""
    from backhand.checking.sources.looped import Loop, loop_opened  # who checks torch does without

    read_cells = [(label, tree, text) for (label, text), tree in zip(cells, _trees(cells), strict=True)]
    loop = Loop.among([s for _, tree, _ in read_cells for s in tree.body], options.loss)
    if loop is None:
        yield [_script(cells, path, options, watch, goes_on=False)]
        return
    _refuse_precision(path, options, "is over NumPy")
    with loop_opened(read_cells, loop, path, options) as subjects:
        yield subjects


def _trees(cells: Sequence[tuple[str, str]]) -> list[ast.Module]:
    return [read_as_far_as_possible(label, text)[0] for label, text in cells]


def _refuse_precision(path: Path, options: Options, what: str) -> None:
    if (options.dtype, options.rtol, options.atol) != (None, None, None):
        raise CheckError(f"{path} {what}; dtype, rtol and atol are for a pass or a custom Function.")


def _parsed(text: str, path: Path) -> ast.Module:
    """Return a file's statements; of a script those that can be read, though a line is unfinished."""
    try:
        return parsed(text, str(path))
    except CheckError as error:
        if not isinstance(error.__cause__, SyntaxError):
            raise
        tree, _ = read_as_far_as_possible(path.name, text)
        found = declared(tree)
        if found.passes or found.kernels or not tree.body:
            raise
        return tree


def _module(path: Path) -> ModuleType:
    """Import a file under its own name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # the user's code may raise anything
        if from_outside(error):
            raise
        raise CheckError(f"{path} {what_raised(error)}") from error
    return module


def _script(
    cells: list[tuple[str, str]], path: Path, options: Options, watch: Watch, *, goes_on: bool
) -> Subject:
    """Return cells to be run in the file's own folder, and judged while all that they set still holds."""

    def run_and_judge() -> Report:
        file = written(cells, str(path), told=path.suffix == ".ipynb")
        folder = None if options.data is None else options.data.resolve()
        if folder is not None and not folder.is_dir():
            raise CheckError(f"{options.data} is no folder.")
        with sandbox(path.resolve().parent), files_from(folder):
            played = play(file, options.loss, options.time_limit, watch)
            with _in_time(options.time_limit and options.time_limit + JUDGING):
                return check_played(
                    played,
                    path.name,
                    draws=options.draws,
                    seed=options.seed,
                    goes_on=goes_on,
                    watch=watch,
                )

    return Subject(path.name, run_and_judge)


@contextlib.contextmanager
def _in_time(seconds: float | None) -> Iterator[None]:
    """Give up after a time."""
    try:
        with limited(seconds):
            yield
    except OutOfTimeError as error:
        raise CheckError(still_running(where_raised(error) or "the code", seconds)) from error


def check_apart(path: Path, options: Options, page: bool) -> tuple[Checked, ...]:
    """Check all that a file holds: what runs in a process of its own, for `check_files`."""
    watching = rendered("check.progress", sys.stderr) if options.progress else _unwatched()
    try:
        with watching as watch, opened(path, options, watch) as subjects:
            several = len(subjects) > 1
            found: list[Checked] = []
            for subject in subjects:
                found.append(_checked(path, subject if several else replace(subject, name=""), page))
            return tuple(found)
    except BackhandError as error:
        return (Checked(path, problem=str(error)),)
    except Exception as error:  # a bug of the checker: shown whole, and told in a line
        traceback.print_exc()
        return (Checked(path, problem=f"{path}: the check itself failed, {in_short(error)}."),)


@contextlib.contextmanager
def _unwatched() -> Iterator[Watch]:
    yield lambda _: None


def _checked(path: Path, subject: Subject, page: bool) -> Checked:
    try:
        report = subject.check()
    except CheckError as error:
        return Checked(path, subject.name, problem=str(error))
    drawn = report.to_html() if page else ""
    # the sheet is large, and drawn by now
    return Checked(path, subject.name, replace(report, sheet=None), page=drawn)
