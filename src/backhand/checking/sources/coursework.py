"""Files over NumPy, opened: the layers that they have, with the tests beside them, or the calls they make.

What a notebook's cells, a script or test functions give to a forward are inputs that the author has thought
of. An exception in them is none of the checker's business: what was called before it counts.
"""

import ast
import contextlib
import io
import linecache
import re
import time
import unittest
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import FunctionType, ModuleType

from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report
from backhand.checking.running.alarms import OutOfTimeError, limited
from backhand.checking.running.endings import from_outside
from backhand.checking.running.importing import imports_from, is_the_users
from backhand.checking.running.program import Namespace, parameters_of
from backhand.checking.running.sandbox import sandbox
from backhand.checking.sources.batches import Options
from backhand.checking.sources.colab import Absent, lacks_colab, put_colab
from backhand.checking.sources.declaring import BACKWARD
from backhand.checking.sources.fetched import files_from, how_to_get, texts_stand_in
from backhand.checking.sources.layers import layers_of
from backhand.checking.sources.modules import begun_module, module_of, roots_of
from backhand.checking.sources.overnumpy import noting
from backhand.checking.sources.reading import parsed, read, read_as_far_as_possible
from backhand.checking.sources.subjects import Subject
from backhand.checking.sources.watching import Seen, SeenLayer, Watching
from backhand.errors import CheckError, in_short

# Processor seconds for a cell where no limit is given, and for a file of tests: the calls that are looked for
# come early, and what trains a network for an hour after them says nothing new.
LONGEST_CELL, LONGEST_TESTS = 60.0, 10.0
# Processor seconds for which a statement may call the same backward again: tests may, on other numbers.
SOON = 0.3
# Where tests of a file lie, seen from its folder.
FOLDERS = (".", "tests", "test", "../tests", "../test")
IS_TEST = re.compile(r"tests?(_\w*)?\.py|\w+_tests?\.py")

Recorded = Mapping[str, Seen | SeenLayer]


@dataclass(frozen=True)
class Run:
    """What a file has called.

    Attributes:
        recorded: the calls by the name of what was called; of several under a name the last version's.
        space: the variables at the end.
        raised: the cells with a backward that raised, or were left; what they did, in words.
        notes: what did not run to its end, and what stood in for something.
    """

    recorded: Recorded
    space: Namespace
    raised: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class EnoughError(BaseException):
    """A loop has shown what it calls; not an `Exception`, which the user's code may catch."""


class Running:
    """Runs statements of a file, and leaves those that train when they come to their first backward again.

    Attributes:
        watching: notes the calls.
        notes: what was left, and what stood in for something.
    """

    def __init__(self) -> None:
        self.watching: Watching = Watching(begun=self._leave_soon)
        self.notes: dict[str, None] = {}
        self._first: tuple[object, float] | None = None

    def _leave_soon(self, backward: object) -> None:
        now = time.thread_time()
        if self._first is None:
            self._first = backward, now
        elif self._first[0] == backward and now > self._first[1] + SOON:
            raise EnoughError

    def run(self, statement: ast.stmt, label: str, space: Namespace, *before: ast.stmt) -> None:
        """Run a statement among the variables of a file; those before it say how it is to be read."""
        self._first = None
        try:
            exec(compile(ast.Module([*before, statement], []), label, "exec"), space)
        except EnoughError:
            where = f"{Path(label).name}, line {statement.lineno}"
            self.notes[f"{where}: what trains there was left after its first calls."] = None
        self.watching.watch(space)

    @contextlib.contextmanager
    def texts(self) -> Iterator[None]:
        """Let a text that is not there be a short one."""
        missing: list[str] = []
        with texts_stand_in(missing):
            yield
        self.notes |= {f"{text} is not there: a short text stood in for it.": None for text in missing}


def run_cells(
    cells: Sequence[tuple[str, str]], file: Path, seconds: float | None, watch: Callable[[str], None]
) -> Run:
    """Run cells as Python one after the other, a script as a single one, and note their calls.

    Args:
        cells: label and text of each; the label is the file in which its lines are told to stand.
        file: the path.
        seconds: after so many of processor time a cell is left.
        watch: called with the label of what is run next.
    """
    space: Namespace = {"__name__": "__main__", "__file__": str(file), "__builtins__": __builtins__}
    space |= {"get_ipython": Absent(), "display": Absent()}  # what a notebook has
    running, raised = Running(), {}
    with warnings.catch_warnings(action="ignore"), running.texts():
        for label, text in cells:
            watch(label)
            linecache.cache[label] = (len(text), None, text.splitlines(keepends=True), label)
            try:
                with limited(seconds or LONGEST_CELL):
                    _run_cell(label, text, space, running)
            except OutOfTimeError:
                raised[label] = f"took more than {seconds or LONGEST_CELL:g} s and was left."
            except BaseException as error:  # the user's code may raise anything
                if from_outside(error):
                    raise
                raised[label] = f"raised {in_short(error)}."
    running.watching.release(space)
    concerned = {label for label, text in cells if re.search(BACKWARD, text)}
    raised = {n: why for n, why in raised.items() if n in concerned}
    return Run(_by_title(running.watching), space, raised, tuple(running.notes))


def _run_cell(label: str, text: str, space: Namespace, running: Running) -> None:
    tree, _ = read_as_far_as_possible(label, text)
    lacking: list[ModuleNotFoundError] = []
    for statement in tree.body:
        try:
            running.run(statement, label, space)
        except ModuleNotFoundError as error:
            if lacks_colab(statement, error):
                put_colab()
                running.run(statement, label, space)
            elif isinstance(statement, ast.Import | ast.ImportFrom):  # those below it do not need it
                lacking.append(error)
            else:
                raise
        except Exception as error:
            raise (lacking or [error])[0] from None
    if lacking:
        raise lacking[0]


def _by_title(watching: Watching) -> dict[str, Seen | SeenLayer]:
    return {seen.title: seen for seen in watching.take()}


def run_tests(file: Path) -> Recorded:
    """Run the test functions of a file, and return the calls that they make.

    Raises:
        CheckError: it cannot be imported.
    """
    watching = Watching()
    with contextlib.ExitStack() as stack:
        for folder in roots_of(file):
            stack.enter_context(imports_from(folder))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.enter_context(contextlib.suppress(OutOfTimeError))
        stack.enter_context(limited(LONGEST_TESTS))
        module = module_of(file)
        spaces = [vars(module), *(vars(m) for m in vars(module).values() if isinstance(m, ModuleType))]
        spaces = [space for space in spaces if is_the_users(space)]
        for space in spaces:
            watching.watch(space)
        try:
            for test in _tests(module):
                _run_test(test)
        finally:
            for space in spaces:
                watching.release(space)
    return _by_title(watching)


def _run_test(test: Callable[[], object]) -> None:
    try:
        test()
    except BaseException as error:  # a test may well fail
        if from_outside(error):
            raise


def _tests(module: ModuleType) -> Iterator[Callable[[], object]]:
    """Yield what a module has to be called: its test functions, and those of its test classes."""
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(value)
            yield lambda suite=suite: suite.run(unittest.TestResult())
        elif isinstance(value, type) and name.startswith("Test"):
            for method in (n for n in dir(value) if n.startswith("test")):
                yield lambda value=value, method=method: _called(value, method)
        elif isinstance(value, FunctionType) and name.startswith("test") and not _asks(value):
            yield value


def _called(tests: type, method: str) -> None:
    own = tests()
    if hasattr(own, "setup_method"):
        own.setup_method()
    getattr(own, method)()


def is_of_tests(file: Path) -> bool:
    """Tell whether a file has the name of a file of tests."""
    return IS_TEST.fullmatch(file.name) is not None


def _asks(function: FunctionType) -> bool:
    """Tell whether a test has to be given something: a fixture, or what it is parametrized with."""
    return any(p.default is p.empty for p in parameters_of(function).values())


@dataclass(frozen=True)
class Tests:
    """The tests of a file of layers that lie in its folder; run once, and only when somebody asks.

    Attributes:
        path: the file with the layers.
    """

    path: Path

    def of(self, name: str) -> Seen | SeenLayer | None:
        """Return a call that they make of a function or of a class, by its name."""
        return self._recorded.get(name)

    @cached_property
    def _recorded(self) -> Recorded:
        found: dict[str, Seen | SeenLayer] = {}
        for file in self._files():
            with contextlib.suppress(CheckError):  # it imports what is not there
                found = {**run_tests(file), **found}
        return found

    def _files(self) -> Iterator[Path]:
        """Yield the files of tests near it that mention it, and a backward."""
        own = self.path.resolve()
        for folder in dict.fromkeys((own.parent / where).resolve() for where in FOLDERS):
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            for file in files:
                if is_of_tests(file) and file != own and self._is_of_it(file):
                    yield file

    def _is_of_it(self, file: Path) -> bool:
        with contextlib.suppress(CheckError):
            text = read(file)
            return bool(re.search(rf"\b{re.escape(self.path.stem)}\b", text)) and "backward" in text
        return False


@dataclass(frozen=True)
class Imported:
    """A file as a module.

    Attributes:
        module: as far as its statements ran.
        recorded: the calls of backwards that these made, by the name of what was called.
        notes: what did not run to its end, and what stood in for something.
        raised: the first statement that raised, with what it raised, in words; empty if none did.
    """

    module: ModuleType
    recorded: Recorded
    notes: tuple[str, ...]
    raised: str


def imported(path: Path) -> Imported:
    """Import a file, one statement after the other: it may train, or read what is not there.

    A statement that trains is left soon after the first backward that it calls. One that raises is passed
    over, for the functions below it are judged all the same.
    """
    module, _ = begun_module(path)
    running, space, raised = Running(), vars(module), ""
    tree = parsed(read(path), str(path))
    future = [s for s in tree.body if isinstance(s, ast.ImportFrom) and s.module == "__future__"]
    with warnings.catch_warnings(action="ignore"), running.texts():
        for statement in (s for s in tree.body if s not in future):
            where = f"{path.name}, line {statement.lineno}"
            try:
                with limited(LONGEST_CELL):
                    running.run(statement, str(path), space, *future)
            except OutOfTimeError:
                running.notes[f"{where}: what took more than {LONGEST_CELL:g} s there was left."] = None
            except SystemExit:
                break
            except Exception as error:  # the user's code may raise anything
                help_ = how_to_get(error, ())
                raised = raised or f"{where}, raised {in_short(error)}{help_}, so that it was not run whole."
    running.watching.release(space)
    return Imported(module, _by_title(running.watching), tuple(running.notes), raised)


@contextlib.contextmanager
def layers_opened(path: Path, options: Options) -> Iterator[list[Subject]]:
    """Give the layers that a file has; what it imports stays importable meanwhile."""
    path = path.resolve()  # the folder is another one within
    with sandbox(path.parent), files_from(options.data), contextlib.ExitStack() as folders:
        for folder in roots_of(path):
            folders.enter_context(imports_from(folder))
        tests, file = Tests(path), imported(path)
        layers = layers_of(
            file.module,
            draws=options.draws,
            seed=options.seed,
            recorded=lambda name: tests.of(name) or file.recorded.get(name),
        )
        if not layers:
            raise CheckError(
                file.raised
                or f"{path} has no backward that computes something, only what is to be derived from."
            )
        told = [replace(layer, check=partial(_told, layer.check, file.notes)) for layer in layers]
        yield told + [Subject(path.name, partial(_refuse, file.raised))] * bool(file.raised)


def _told(check: Callable[[], Report], notes: Sequence[str]) -> Report:
    """Return a report that says how its file ran; so does what is raised where there is none."""
    try:
        return noting(check(), *notes)
    except CheckError as error:
        told = " ".join((str(error), *notes))
        raise CheckError(told) from error


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
        found = [replace(s, check=partial(_told, s.check, run.notes)) for s in found]
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
