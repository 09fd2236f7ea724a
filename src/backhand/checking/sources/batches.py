"""`check_files`: several files and folders, each file in a process of its own."""

import atexit
import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from backhand.apart import Apart, EndedError
from backhand.checking.report import Report
from backhand.checking.sources.declaring import computes_gradients, declared
from backhand.checking.sources.notebooks import notebook_cells
from backhand.checking.sources.reading import parsed, read
from backhand.errors import CheckError

if TYPE_CHECKING:  # who asks only waits, and shows what was found: PyTorch is for the other process
    import torch

# Seconds for a cell, or a pass, of several files where no limit is given: a notebook that trains takes
# minutes, and one file whose loop never ends must not keep the others waiting for ever.
LONGEST = 600.0
# What most checks import late, and what `loss.backward()` does: a file each would pay for it.
PRELOADED = ("numpy.random", "torch.fx.experimental.symbolic_shapes")


@dataclass(frozen=True)
class Options:
    """How files are checked; see `check_file`."""

    loss: str = "loss"
    stop_after: int | None = None
    time_limit: float | None = None
    draws: int = 3
    seed: int = 0
    dtype: "torch.dtype | None" = None
    rtol: float | None = None
    atol: float | None = None
    data: Path | None = None
    progress: bool = False

    @property
    def of_the_check(self) -> dict[str, Any]:
        """What `check` and `check_function` take."""
        return {name: getattr(self, name) for name in ("draws", "seed", "dtype", "rtol", "atol")}


@dataclass(frozen=True)
class Checked:
    """What became of a file, or of one of several things in it.

    Attributes:
        path: the file.
        name: of a pass or a Function, where the file has several; otherwise empty.
        report: what was found; None where nothing was judged.
        problem: why not, in one line; empty otherwise.
        page: the report as an HTML page, if it was asked for.
    """

    path: Path
    name: str = ""
    report: Report | None = None
    problem: str = ""
    page: str = ""

    @property
    def title(self) -> str:
        """The file, with the name of what was checked where it has several."""
        return f"{self.path}: {self.name}" if self.name else str(self.path)

    @property
    def state(self) -> Literal["right", "wrong", "todo", "not judged"]:
        """In two words what became of it; what is right so far, but not judged to its end, is not right."""
        if self.report is None:
            return "not judged"
        if not self.report.ok:
            return "wrong" if self.report.wrong else "todo"
        return "not judged" if self.report.unfinished else "right"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a program to read: that of the report, if there is one, and what it is of."""
        found = self.report.to_dict() if self.report is not None else {"ok": False}
        return {"file": str(self.path), "name": self.name or None, "problem": self.problem or None, **found}


def check_files(
    paths: Iterable[str | Path],
    *,
    jobs: int = 1,
    loss: str = "loss",
    stop_after: int | None = None,
    time_limit: float | None = None,
    draws: int = 3,
    seed: int = 0,
    dtype: "torch.dtype | None" = None,
    rtol: float | None = None,
    atol: float | None = None,
    data: str | Path | None = None,
    page: bool = False,
    progress: bool = False,
) -> Iterator[Checked]:
    """Check files and folders, each file in a process of its own: one that dies or hangs ends only itself.

    Of a folder, those files are taken that hold something to check; a file may hold several Functions or
    passes. Where the system cannot fork, the files are checked in this process.

    Args:
        paths: files as `check_file` takes them, and folders.
        jobs: how many files are checked at once.
        loss, stop_after, draws, seed, dtype, rtol, atol, data: as for `check_file`.
        time_limit: as for `check_file`; with several files ten minutes where it is None.
        page: also draw each report as an HTML page.
        progress: of a check that takes longer than two seconds, say on standard error what it does.

    Returns:
        What became of each, in the order of the files, as soon as it is known.

    Raises:
        CheckError: there is nothing to check.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.py").write_text("raise SystemExit")
    >>> [checked.state for checked in check_files([folder / "a.py"])]
    ['not judged']
    """
    if jobs < 1:
        raise CheckError(f"jobs is {jobs!r}; expected at least 1.")
    files = list(dict.fromkeys(file for path in paths for file in _files(Path(path), loss)))
    if not files:
        raise CheckError("there is nothing to check: no file with a backward by hand.")
    if time_limit is None and len(files) > 1:
        time_limit = LONGEST
    folder = None if data is None else Path(data)
    options = Options(loss, stop_after, time_limit, draws, seed, dtype, rtol, atol, folder, progress)
    return _each(files, min(jobs, len(files)), partial(_in_its_process, options=options, page=page))


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; one that no file can have is none."""
    return os.path.isdir(path)  # noqa: PTH112  (Path.is_dir raises where the name is too long)


def _files(path: Path, loss: str) -> Iterator[Path]:
    """Yield a file as it is, and of a folder those that hold something to check, sorted."""
    if not is_folder(path):
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
        inside = [Path(folder, f) for f in sorted(files) if f.endswith((".py", ".ipynb"))]
        yield from (file for file in inside if _holds_something(file, loss))


def _holds_something(file: Path, loss: str) -> bool:
    """Tell by its text whether a file has a pass, a custom Function or a loss with gradients by hand."""
    try:
        text = read(file)
        if file.suffix == ".ipynb":
            trees = []
            for _, cell in notebook_cells(text, file):
                with contextlib.suppress(CheckError):  # the others may do
                    trees.append(parsed(cell, str(file)))
            return computes_gradients(trees, loss)
        tree = parsed(text, str(file))
    except CheckError:  # told when it is checked
        return True
    found = declared(tree)
    declares = bool(found.passes or found.kernels or found.layers)
    return declares or computes_gradients([tree], loss)


def _each(files: list[Path], jobs: int, check: Any) -> Iterator[Checked]:
    """Yield what becomes of each file, in order, while `jobs` of them are checked."""
    free: SimpleQueue[Apart] = SimpleQueue()
    workers = [_idle.pop() if _idle else Apart(*PRELOADED[: len(files)]) for _ in range(jobs)]
    for worker in workers:
        free.put(worker)

    def one(file: Path) -> tuple[Checked, ...]:
        worker = free.get()
        try:
            return check(worker, file)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for found in pool.map(one, files):
                yield from found
        except BaseException:  # Ctrl-C, or nobody wants to know more
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.close()
            raise
    _idle.extend(workers)


_idle: list[Apart] = []  # for the next call, which need not wait for PyTorch again


@atexit.register
def _end_all() -> None:
    for worker in _idle:
        worker.close()


def _in_its_process(worker: Apart, file: Path, *, options: Options, page: bool) -> tuple[Checked, ...]:
    try:
        return worker.call("backhand.checking.sources.files:check_apart", file, options, page, file=file)
    except EndedError as ended:
        where = f"{file}, line {ended.line}" if ended.line else str(file)
        if ended.timed is not None:
            return (Checked(file, problem=still_running(where, options.time_limit)),)
        return (Checked(file, problem=f"{where}: {ended.reason}, so nothing was judged."),)


def still_running(where: str, seconds: float | None) -> str:
    """Return in one line that something took too long."""
    return f"{where} was still running after {seconds:g} s, so nothing was judged. Does a loop never end?"
