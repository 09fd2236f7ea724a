"""Run a function's body statement by statement in a dictionary, so that values can be seen and replaced."""

import ast
import builtins
import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import CellType, CodeType
from typing import Any

from backhand.checking.running.program import Source
from backhand.errors import in_short

Namespace = dict[str, Any]
Observer = Callable[[int, ast.stmt], None]


class StatementError(Exception):
    """A statement raised; holds what was assigned until then."""

    def __init__(self, error: Exception, namespace: Namespace, line: int):
        super().__init__(in_short(error))
        self.error = error
        self.namespace = namespace
        self.line = line


class _Stop(Exception):  # noqa: N818  (control flow, not an error)
    """Leaves a loop (break, continue) or the function (return)."""

    def __init__(self, kind: str):
        self.kind = kind


@lru_cache(maxsize=8192)
def _compiled(statement: ast.stmt, file: str) -> CodeType:
    return compile(ast.Module([statement], []), file, "exec")


@lru_cache(maxsize=4096)
def _expression(node: ast.expr, file: str) -> CodeType:
    return compile(ast.Expression(node), file, "eval")


def execute(statements: Iterable[ast.stmt], namespace: Namespace, file: str | None) -> None:
    """Run statements one after the other; what they raise is the caller's."""
    for statement in statements:
        exec(_compiled(statement, file or "<backward>"), namespace)


def namespace_for(function: Callable[..., Any], source: Source, arguments: Mapping[str, Any]) -> Namespace:
    """Return the variables that the body of a function sees, with `locals()` meaning its own ones."""
    function = inspect.unwrap(function)
    bound = function.__self__ if inspect.ismethod(function) else None
    plain = function.__func__ if inspect.ismethod(function) else function
    assert inspect.isfunction(plain)
    namespace: Namespace = dict(plain.__globals__)
    cells = zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True)
    namespace.update({name: cell.cell_contents for name, cell in cells if _is_filled(cell)})
    parameters = parameters_of(plain)
    positional = list(parameters)
    if bound is not None:
        namespace[positional[0]] = bound
    rest = dict(arguments)
    for name, p in parameters.items():
        if p.kind is p.VAR_KEYWORD:
            namespace[name] = {k: v for k, v in arguments.items() if k not in positional}
        elif p.kind is p.VAR_POSITIONAL:
            namespace[name] = ()
        elif name in rest:
            namespace[name] = rest[name]
        elif p.default is not p.empty:
            namespace[name] = p.default

    def local_variables() -> dict[str, Any]:
        return {k: namespace[k] for k in source.local_names if k in namespace}

    namespace["locals"] = local_variables
    namespace["vars"] = lambda *a: builtins.vars(*a) if a else local_variables()
    return namespace


@lru_cache(maxsize=256)
def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function by name."""
    return inspect.signature(function).parameters


def _is_filled(cell: CellType) -> bool:
    """Tell whether a variable of an enclosing function has a value yet."""
    with contextlib.suppress(ValueError):
        cell.cell_contents  # noqa: B018  (raises while it is empty)
        return True
    return False


class Execution:
    """One run of a source. Statements that raise are remembered and passed over.

    Attributes:
        namespace: the variables, which an observer may replace between two statements.
        errors: each statement that raised, with its exception, in order.
        result: what `return` gave, if it was reached.
    """

    def __init__(
        self, source: Source, namespace: Namespace, observe: Observer | None = None, *, go_on: bool = True
    ):
        self._go_on = go_on
        self.source = source
        self.namespace = namespace
        self.errors: list[tuple[ast.stmt, Exception]] = []
        self.result: Any = None
        self._observe = observe
        self._file = source.file or "<backward>"
        self._steps = 0

    def run(self) -> "Execution":
        """Run everything."""
        with contextlib.suppress(_Stop):
            self._block(self.source.statements)
        return self

    def _block(self, statements: tuple[ast.stmt, ...] | list[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, s: ast.stmt) -> None:
        try:
            if isinstance(s, ast.For):
                return self._for(s)
            if isinstance(s, ast.While):
                return self._while(s)
            if isinstance(s, ast.If):
                return self._block(s.body if self._value(s.test) else s.orelse)
            if isinstance(s, ast.With):
                return self._with(s)
            if isinstance(s, ast.Return):
                self.result = self._value(s.value) if s.value is not None else None
                raise _Stop("return")
            if isinstance(s, ast.Break | ast.Continue):
                raise _Stop("break" if isinstance(s, ast.Break) else "continue")
            exec(_compiled(s, self._file), self.namespace)
        except (_Stop, StatementError):
            raise
        except Exception as error:  # the user's code may raise anything
            if not self._go_on:
                raise StatementError(error, self.namespace, s.lineno) from error
            self.errors.append((s, error))
        if self._observe is not None:
            self._observe(self._steps, s)
        self._steps += 1
        return None

    def _value(self, node: ast.expr) -> Any:
        return eval(_expression(node, self._file), self.namespace)

    def _for(self, s: ast.For) -> None:
        assign = _assignment(s)
        for item in self._value(s.iter):
            self.namespace["__item__"] = item
            exec(_compiled(assign, self._file), self.namespace)
            if self._leaves_loop(s.body):
                return
        self._block(s.orelse)

    def _while(self, s: ast.While) -> None:
        while self._value(s.test):
            if self._leaves_loop(s.body):
                return
        self._block(s.orelse)

    def _leaves_loop(self, body: list[ast.stmt]) -> bool:
        try:
            self._block(body)
        except _Stop as stop:
            if stop.kind == "return":
                raise
            return stop.kind == "break"
        return False

    def _with(self, s: ast.With) -> None:
        managers = [self._value(item.context_expr) for item in s.items]
        for manager, item in zip(managers, s.items, strict=True):
            entered = manager.__enter__()
            if isinstance(item.optional_vars, ast.Name):
                self.namespace[item.optional_vars.id] = entered
        try:
            self._block(s.body)
        finally:
            for manager in reversed(managers):
                manager.__exit__(None, None, None)


@lru_cache(maxsize=1024)
def _assignment(loop: ast.For) -> ast.stmt:
    target = ast.copy_location(ast.Assign([loop.target], ast.Name("__item__", ast.Load())), loop)
    return ast.fix_missing_locations(target)
