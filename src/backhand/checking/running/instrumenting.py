"""The user's own code, compiled with a probe after each statement.

It is Python that runs it, so that `try`, `match`, `with`, `return` and closures mean what they mean. After
each statement a watcher sees the variables and may put others in their place; what is added with `+=` it sees
before it is added. A statement that raises is passed over, for the ones below it are to be judged as well,
unless the user's own `try` is there to catch it.
"""

import ast
import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from backhand.checking.running.program import Namespace, Source, plain_function
from backhand.checking.running.statements import given_to, is_compound, running_variables, writes

PROBE, ADDED, RAISED = "__probe__", "__added__", "__raised__"
NEW, LOCALS, ERROR = "__new__", "__locals__", "__error__"
# A line that raises in every turn of a loop may be what keeps the loop from ending.
MOST_ERRORS = 1000


class Watcher:
    """Sees a run, and changes nothing; what derives from it may."""

    def looks(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether it has to see a statement at all: to show one takes longer than most run."""
        return True

    def takes(self, step: int, statement: ast.stmt) -> bool:
        """Tell whether it has to see what a statement adds."""
        return self.looks(step, statement)

    @property
    def asks_for_changes(self) -> bool:
        """Whether it asks, by their versions, which tensors were changed in place, as it goes."""
        return True

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> Namespace | None:
        """Look at the variables after a statement; return those that are to be replaced.

        Args:
            step: how many statements ran before it, counted through all loops.
            statement: the one that ran, or that raised; of those that hold others only the last of a loop.
            variables: to be looked at now; they change as the run goes on.
        """

    def added(self, step: int, statement: ast.stmt, value: Any) -> Any:
        """Return what a statement is to add to something, or to put into a container: the value itself."""
        return value

    def raised(self, step: int, statement: ast.stmt, error: Exception) -> None:
        """Take note of a statement that raised."""


@dataclass(frozen=True)
class Instrumented:
    """A source with its probes.

    Attributes:
        code: of the function, or of the module that the statements are.
        statements: by number, as the probes call them.
    """

    code: CodeType
    statements: tuple[ast.stmt, ...]


class _EnoughError(BaseException):
    """Too many statements have raised; not an `Exception`, which the user's code may catch."""


class Run:
    """One run of a source; one in which too many statements raise ends early.

    Attributes:
        errors: each statement that raised and was passed over, with its exception, in order.
        result: what the function returned.
        steps: how many statements have run.
    """

    def __init__(self, watcher: Watcher, statements: tuple[ast.stmt, ...]):
        self.watcher: Watcher = watcher
        self.statements: tuple[ast.stmt, ...] = statements
        self.errors: list[tuple[ast.stmt, Exception]] = []
        self.result: Any = None
        self.steps = 0

    def hooks(self) -> Namespace:
        """Return what the probes call, by the names that they use."""
        new: Namespace = {}
        watcher, statements = self.watcher, self.statements
        looks, ran, takes, added = watcher.looks, watcher.ran, watcher.takes, watcher.added

        def probe(number: int, variables: Mapping[str, Any]) -> bool:
            statement = statements[number]
            replaced = ran(self.steps, statement, variables) if looks(self.steps, statement) else None
            self.steps += 1
            new.clear()
            if replaced:
                new.update(replaced)
            return bool(replaced)

        def add(number: int, value: Any) -> Any:
            statement = statements[number]
            return added(self.steps, statement, value) if takes(self.steps, statement) else value

        def raised(number: int, error: Exception) -> None:
            if len(self.errors) >= MOST_ERRORS:
                raise _EnoughError
            if isinstance(error, UnboundLocalError) and not error.name:  # other NameErrors tell it
                error.name = next(iter(re.findall(r"'(\w+)'", str(error))), "")
            self.errors.append((statements[number], error))
            self.watcher.raised(self.steps, statements[number], error)

        errors = Exception, SystemExit  # `exit()` ends a run like any other, not the check
        return {PROBE: probe, ADDED: add, RAISED: raised, NEW: new, LOCALS: locals, ERROR: errors}


def run_function(
    function: Callable[..., Any],
    source: Source,
    arguments: Mapping[str, Any],
    watcher: Watcher,
    in_order: Sequence[Any] = (),
) -> Run:
    """Call a plain function, or a method, with its probes.

    Args:
        function: whose source it is.
        source: as `source_of` gives it.
        arguments: by name.
        watcher: sees each statement.
        in_order: the arguments that have no name, as those of a custom Function.
    """
    plain, first = plain_function(function)
    made = instrumented(source)
    run = Run(watcher, made.statements)
    cells = dict(zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in made.code.co_freevars)
    own = FunctionType(
        made.code, plain.__globals__ | run.hooks(), plain.__name__, plain.__defaults__, closure
    )
    own.__kwdefaults__ = plain.__kwdefaults__
    with contextlib.suppress(_EnoughError):
        run.result = own(*first, *in_order, **arguments)
    return run


def run_statements(source: Source, namespace: Namespace, watcher: Watcher) -> Run:
    """Run the statements of a script among its variables, with probes.

    Args:
        source: the statements.
        namespace: the variables, which change.
        watcher: sees each statement.
    """
    made = instrumented(source)
    run = Run(watcher, made.statements)
    namespace |= run.hooks()
    with contextlib.suppress(_EnoughError):
        exec(made.code, namespace)
    return run


@lru_cache(maxsize=256)
def instrumented(source: Source) -> Instrumented:
    """Return a source compiled with its probes."""
    probes = _Probes(source)
    body = probes.block(source.statements)
    file = source.file or "<statements>"
    definition = source.definition
    if definition is None:
        module = ast.Module(body, [])
        return Instrumented(compile(_fixed(module), file, "exec"), tuple(probes.statements))
    inner = copy.copy(definition)
    inner.body, inner.decorator_list, inner.returns = body or [ast.Pass()], [], None
    free = [ast.arg(name, None) for name in source.free_names]
    arguments = ast.arguments([], free, None, [], [], None, [])
    outer = copy.copy(inner)
    outer.name, outer.args, outer.body = "__outer__", arguments, [inner]
    module = compile(_fixed(ast.Module([outer], [])), file, "exec")
    return Instrumented(_within(_within(module, "__outer__"), definition.name), tuple(probes.statements))


def _fixed(module: ast.Module) -> ast.Module:
    return ast.fix_missing_locations(module)


def _within(code: CodeType, name: str) -> CodeType:
    """Return the code of a function that is defined in another one's."""
    return next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)


class _Probes:
    """Builds statements with probes; the user's own nodes are used as they are, for they stand for lines."""

    def __init__(self, source: Source):
        self._local = source.local_names if source.definition is not None else None
        self._carried = running_variables(source.statements)
        self.statements: list[ast.stmt] = []
        self._caught = 0  # how many `try` of the user stand around

    def block(self, body: list[ast.stmt] | tuple[ast.stmt, ...]) -> list[ast.stmt]:
        """Return a block with its probes."""
        return [new for s in body for new in self._probed(s)]

    def _probed(self, s: ast.stmt) -> list[ast.stmt]:
        if isinstance(s, ast.Pass | ast.Break | ast.Continue | ast.Global | ast.Nonlocal):
            return [s]
        if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant):
            return [s]
        number = len(self.statements)
        self.statements.append(s)
        if isinstance(s, ast.Return):
            return [self._passed_over(s, s, number)]
        if is_compound(s):
            ends_a_turn = self._probe(s, number) if s in self._carried else []
            return [self._passed_over(self._opened(s), s, number), *ends_a_turn]
        return [self._passed_over(self._seen(s, number), s, number), *self._probe(s, number)]

    def _opened(self, s: ast.stmt) -> ast.stmt:
        """Return a copy of a compound statement, with probes in its blocks."""
        opened = copy.copy(s)
        caught = isinstance(s, ast.Try | ast.TryStar) and bool(s.handlers)
        self._caught += caught
        if hasattr(s, "body"):
            opened.body = self.block(s.body)  # type: ignore[attr-defined]
        self._caught -= caught
        for slot in ("orelse", "finalbody"):
            if getattr(s, slot, None):
                setattr(opened, slot, self.block(getattr(s, slot)))
        for slot in ("handlers", "cases"):
            if hasattr(s, slot):
                setattr(opened, slot, [self._opened(part) for part in getattr(s, slot)])
        return opened

    def _seen(self, s: ast.stmt, number: int) -> ast.stmt:
        """Return a statement that tells what it adds, or puts into a container; any other as it is."""
        seen = copy.copy(s)
        call = given_to(s)
        if call is not None:
            last = _call(ADDED, ast.Constant(number), call.args[-1])
            seen.value = _at(s, ast.Call(call.func, [*call.args[:-1], last], call.keywords))  # type: ignore[attr-defined]
            return seen
        if not isinstance(s, ast.AugAssign | ast.Assign):
            return s
        if isinstance(s, ast.Assign) and not isinstance(s.targets[0], ast.Subscript | ast.Attribute):
            return s
        seen.value = _at(s, _call(ADDED, ast.Constant(number), s.value))  # type: ignore[union-attr]
        return seen

    def _passed_over(self, run: ast.stmt, s: ast.stmt, number: int) -> ast.stmt:
        """Return a statement that is passed over if it raises."""
        note = _call(RAISED, ast.Constant(number), ast.Name("__raised_error__", ast.Load()))
        handler: list[ast.stmt] = [ast.Expr(note)]
        if self._caught:
            handler = [ast.Raise(None, None)]  # the user's own `try` is there for it
        name = None if self._caught else "__raised_error__"
        caught = ast.ExceptHandler(ast.Name(ERROR, ast.Load()), name, handler)
        return _at(s, ast.Try([run], [caught], [], []))

    def _probe(self, s: ast.stmt, number: int) -> list[ast.stmt]:
        """Return the probe after a statement, which puts new values into the variables that it writes.

        At the end of a loop's turn also into those that the next one takes over.
        """
        test = _call(PROBE, ast.Constant(number), ast.Call(ast.Name(LOCALS, ast.Load()), [], []))
        names = writes(s).union(self._carried.get(s, ()))
        names = names if self._local is None else names & self._local
        replace: list[ast.stmt] = [_replacement(name) for name in sorted(names)]
        return [_at(s, ast.If(test, replace, []) if replace else ast.Expr(test))]


def _replacement(name: str) -> ast.stmt:
    there = ast.Compare(ast.Constant(name), [ast.In()], [ast.Name(NEW, ast.Load())])
    value = ast.Subscript(ast.Name(NEW, ast.Load()), ast.Constant(name), ast.Load())
    return ast.If(there, [ast.Assign([ast.Name(name, ast.Store())], value)], [])


def _call(function: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(function, ast.Load()), list(arguments), [])


def _at(s: ast.stmt, node: Any) -> Any:
    """Return a node at the line of a statement, so that tracebacks tell that one."""
    return ast.copy_location(node, s)


def surroundings(function: Callable[..., Any]) -> Namespace:
    """Return what a function's body sees around it: globals, and the variables of enclosing functions."""
    plain, first = plain_function(function)
    found = dict(plain.__globals__)
    for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # it has no value yet
            continue
    if first:
        found[next(iter(inspect.signature(plain).parameters))] = first[0]
    return found
