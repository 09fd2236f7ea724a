"""Names that a module imports and does not have: what was to be built or installed first is not there."""

import ast
import builtins
import dis
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from backhand.checking.running.program import plain_function
from backhand.errors import CheckError


def refuse_what_is_missing(module: ModuleType, title: str, *functions: Callable[..., Any] | None) -> None:
    """Refuse functions that use, themselves or through others of their module, what an import did not give.

    A name that nothing binds is a slip of the functions, and is judged as one.

    Raises:
        CheckError: with the line of the import.
    """
    left, seen = [plain_function(f)[0] for f in functions if f is not None], set[FunctionType]()
    lines: dict[str, tuple[int, str]] | None = None
    while left:
        function = left.pop()
        if function in seen or function.__module__ != module.__name__:
            continue
        seen.add(function)
        for name in _globals_of(function):
            value = function.__globals__.get(name, getattr(builtins, name, None))
            left += [value] if isinstance(value, FunctionType) else []
            if name not in function.__globals__ and not hasattr(builtins, name):
                lines = dict(_imports(module)) if lines is None else lines
                if name in lines:
                    number, text = lines[name]
                    raise CheckError(f"{title} uses {name}, which is not there: line {number}, `{text}`.")


def _globals_of(function: FunctionType) -> set[str]:
    return {i.argval for i in dis.get_instructions(function.__code__) if i.opname == "LOAD_GLOBAL"}


def _imports(module: ModuleType) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield the names that the imports of a module's text bind, with their lines."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # it has no text
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield (alias.asname or alias.name).partition(".")[0], (node.lineno, ast.unparse(node))
