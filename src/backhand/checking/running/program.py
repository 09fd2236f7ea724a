"""The source of a function or a script as statements with their lines, and what each writes and reads."""

import ast
import inspect
import linecache
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import CodeType, FunctionType
from typing import Any

from backhand.checking.report import Line
from backhand.checking.running.returning import returned_container, returned_variables, spell_out
from backhand.checking.running.statements import (
    assigned,
    begins_anew,
    gives_nothing,
    is_compound,
    is_ellipsis,
    reads,
    receiver,
    simple_statements,
    writes,
    writes_surely,
)
from backhand.errors import CheckError

Namespace = dict[str, Any]
# The decorators that leave what a function does as it is: what it was before can be had.
COMPILES = r"torch\.(jit\.script|compile)(\(.*\))?"
# Where a function that was made of other statements keeps its source.
MADE_OF = "__made_of__"


@dataclass(frozen=True, eq=False)
class Source:
    """Statements that run in order, numbered as in their file.

    Attributes:
        statements: those of a function's body, or of a script.
        lines, first: the text, and the number of its first line.
        local_names: the variables of the function, or what the script assigns.
        definition: the function; None for a script.
        free_names: the variables of enclosing functions that it uses.
        as_written: of variables that no file has, as those of a helper that is written out, what its has.
    """

    statements: tuple[ast.stmt, ...]
    lines: tuple[str, ...]
    first: int = 1
    file: str | None = None
    local_names: frozenset[str] = field(default_factory=frozenset)
    definition: ast.FunctionDef | None = None
    free_names: tuple[str, ...] = ()
    as_written: Mapping[str, str] = field(default_factory=dict)

    def line(self, number: int) -> Line:
        """Return the line with this number; that of a function which is called may stand elsewhere."""
        return Line(number, self.text(number).strip(), self.file)

    def text(self, number: int) -> str:
        """Return the text of a line."""
        index = number - self.first
        there = 0 <= index < len(self.lines)
        return self.lines[index] if there else linecache.getline(self.file or "", number).rstrip()

    @cached_property
    def places(self) -> Mapping[ast.stmt, int]:
        """Where each simple statement stands among them: of a helper that is written out no line tells."""
        return {statement: i for i, statement in enumerate(self.simple)}

    @cached_property
    def simple(self) -> tuple[ast.stmt, ...]:
        """The statements that hold no other statement, in order of the text."""
        return tuple(simple_statements(self.statements))

    @cached_property
    def stubs(self) -> tuple[ast.stmt, ...]:
        """The simple statements that stand for what is yet to be written: `...`, `dx = ...`, `dx = None`."""
        return tuple(s for s in self.simple if is_ellipsis(s) or gives_nothing(s))

    @cached_property
    def returned(self) -> Mapping[str, str]:
        """The variable behind each name of the returned dictionary, where the text tells."""
        return returned_variables(self.statements)

    @cached_property
    def container(self) -> str | None:
        """The variable of a dictionary that is returned as it is."""
        return returned_container(self.statements)

    def writers(self, name: str) -> tuple[Line, ...]:
        """Return the lines that surely assign or change a variable, innermost statements only."""
        return self._writers.get(name, ())

    @cached_property
    def mentioned(self) -> frozenset[str]:
        """The variables in bare calls, which may change them or, as `print` does, only look at them."""
        return frozenset(n for s in self.simple for n in writes(s) - writes_surely(s))

    def fillers(self, name: str) -> tuple[Line, ...]:
        """Return the lines that fill a container: they assign it, or call a method of it, as `append`."""
        called = [s for s in self.simple if name == receiver(s)]
        return (*self.writers(name), *(self.line(s.lineno) for s in called))

    def readers(self, name: str) -> tuple[Line, ...]:
        """Return the lines that use a variable in an assignment, innermost statements only."""
        return self._readers.get(name, ())

    def times_assigned(self, name: str) -> int:
        """Count the plain assignments of a variable; one within a loop counts as two."""
        return self._times_assigned.get(name, 0)

    def with_temporaries(self, numbers: Iterable[int], known: Container[str]) -> list[ast.stmt]:
        """Return some of the statements, by number, with those above that make the variables they use.

        Args:
            numbers: counted from 0.
            known: variables that need not be made, unless they are read before they are complete.
        """
        chosen = set(numbers)
        stack = list(chosen)
        while stack:
            i = stack.pop()
            for name in reads(self.statements[i]):
                if name not in known or self._goes_on(name, i):
                    makers = [j for j in self.makers(name) if j < i and j not in chosen]
                    chosen.update(makers)
                    stack += makers
        return [self.statements[i] for i in sorted(chosen)]

    def _goes_on(self, name: str, number: int) -> bool:
        """Tell whether a variable that a statement reads is changed below, and not begun anew."""
        after = [self.statements[j] for j in self.makers(name) if j > number]
        return bool(after) and name not in assigned(after[0]) and not is_compound(after[0])

    def makers(self, name: str) -> tuple[int, ...]:
        """Return the numbers of the statements that assign or change a variable, counted from 0."""
        return self._makers.get(name, ())

    @cached_property
    def _makers(self) -> dict[str, tuple[int, ...]]:
        numbers: dict[str, tuple[int, ...]] = {}
        for i, statement in enumerate(self.statements):
            for name in writes(statement):
                numbers[name] = (*numbers.get(name, ()), i)
        return numbers

    @cached_property
    def _writers(self) -> dict[str, tuple[Line, ...]]:
        found: dict[str, list[ast.stmt]] = {}
        for s in self.simple:
            for name in writes_surely(s):
                found.setdefault(name, []).append(s)
        return {name: self._lines(_without_stubs(its, name)) for name, its in found.items()}

    def _lines(self, statements: Iterable[ast.stmt]) -> tuple[Line, ...]:
        return tuple(self.line(n) for n in sorted({s.lineno for s in statements}))

    @cached_property
    def _readers(self) -> dict[str, tuple[Line, ...]]:
        numbers: dict[str, set[int]] = {}
        for s in self.simple:
            if isinstance(s, ast.Assign | ast.AugAssign | ast.AnnAssign):
                for name in reads(s):
                    numbers.setdefault(name, set()).add(s.lineno)
        return {name: tuple(self.line(n) for n in sorted(found)) for name, found in numbers.items()}

    @cached_property
    def _times_assigned(self) -> Counter[str]:
        count: Counter[str] = Counter()
        for top in self.statements:
            looped = any(isinstance(n, ast.For | ast.While) for n in ast.walk(top))
            for s in simple_statements((top,)):
                for name in assigned(s):
                    count[name] += 2 if looped else 1
        return count


def _without_stubs(writers: list[ast.stmt], name: str) -> list[ast.stmt]:
    """Leave out `dx = None` where `dx` is given a value later; what only hands it on gives it none."""
    real = [s for s in writers if not gives_nothing(s)]
    return real if any(begins_anew(s, name) for s in real) else writers


def made_of(function: FunctionType, source: Source) -> FunctionType:
    """Return a function that stands in no file as such, and from now on has this source."""
    setattr(function, MADE_OF, source)
    return function


def source_of(function: Callable[..., Any]) -> Source | None:
    """Return the source of a plain Python function, or None where there is none to be had."""
    function = inspect.unwrap(function)
    if inspect.ismethod(function):
        function = inspect.unwrap(function.__func__)
    if isinstance(own := vars(function).get(MADE_OF) if inspect.isfunction(function) else None, Source):
        return own
    return _source_of(function, function.__code__) if inspect.isfunction(function) else None


def _text_of(function: FunctionType) -> tuple[list[str], int, str] | None:
    """Return the lines of the definition that gives this very code, the first one's number, and its file.

    `%autoreload` compiles a function that has changed by itself, so that its code begins at line 1, in the
    file of whatever stood in its place.
    """
    module = sys.modules.get(function.__module__ or "")
    files = (function.__code__.co_filename, inspect.getfile(function), getattr(module, "__file__", None))
    for file in dict.fromkeys(filter(None, files)):
        linecache.checkcache(file)
        lines = linecache.getlines(file)
        try:
            tree = ast.parse("".join(lines))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == function.__name__:
                alone = compile(ast.Module([node], []), "<alone>", "exec").co_consts
                codes = [c for c in alone if isinstance(c, CodeType) and c.co_name == node.name]
                if any(c.co_code == function.__code__.co_code for c in codes):
                    return lines[node.lineno - 1 : node.end_lineno], node.lineno, file
    return None


@lru_cache(maxsize=256)
def _source_of(function: FunctionType, _code: CodeType) -> Source | None:
    """Return it; `%autoreload` gives the same function other code, which has another text."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = _parsed(lines)
    except (OSError, TypeError, SyntaxError):
        return None
    first, file = max(first, 1), inspect.getsourcefile(function)
    definition = next((n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)), None)
    if definition is None or definition.name != function.__name__:
        found = _text_of(function)
        if found is None:
            return None
        lines, first, file = found
        tree = _parsed(lines)
        definition = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    if _yields(definition) or _passes_on(definition):
        return None
    ast.increment_lineno(tree, first - 1)
    _mangle(definition, function)
    code = function.__code__
    local_names = frozenset(code.co_varnames + code.co_cellvars)
    spell_out(definition.body, local_names | {*code.co_freevars, *code.co_names})  # a function `dx` stays one
    local_names |= set(returned_variables(definition.body).values())  # with those that were put there
    return Source(
        statements=tuple(definition.body),
        lines=tuple(line.rstrip("\n") for line in lines),
        first=first,
        file=file,
        local_names=local_names,
        definition=definition,
        free_names=code.co_freevars,
    )


def _parsed(lines: Sequence[str]) -> ast.Module:
    """Return the tree of a definition, though a comment, or a line of a text, begins further left."""
    text = "".join(lines)
    try:
        return ast.parse(textwrap.dedent(text))
    except SyntaxError:
        tree = ast.parse(f"if True:\n{text}")
        tree.body = tree.body[0].body  # type: ignore[attr-defined]
        ast.increment_lineno(tree, -1)
        return tree


def _mangle(definition: ast.FunctionDef, function: FunctionType) -> None:
    """Give a class's private names, `self.__x`, the names that they have outside of it, as Python does."""
    *_, owner, _ = ("", *function.__qualname__.split("."))
    if not owner.isidentifier():  # no class, or one of a function's own
        return
    for node in ast.walk(definition):
        for slot in ("attr", "id", "arg"):
            name = getattr(node, slot, None)
            if isinstance(name, str) and name.startswith("__") and not name.endswith("__"):
                setattr(node, slot, f"_{owner.lstrip('_')}{name}")


def plain_function(function: Callable[..., Any]) -> tuple[FunctionType, tuple[Any, ...]]:
    """Return the plain function behind one that may be wrapped or a method, and its `self` if it has one."""
    first = ()
    while hasattr(function, "__wrapped__") or inspect.ismethod(function):
        if inspect.ismethod(function):  # which has its function's `__wrapped__` as well: its `self` first
            function, first = function.__func__, (function.__self__,)
        else:
            function = inspect.unwrap(function)
    assert inspect.isfunction(function)
    return function, first


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function by name.

    Raises:
        CheckError: it does not tell them.
    """
    return _parameters_of(function, getattr(inspect.unwrap(function), "__code__", None))


@lru_cache(maxsize=256)
def _parameters_of(function: Callable[..., Any], _code: CodeType | None) -> Mapping[str, inspect.Parameter]:
    """Return them; `%autoreload` gives the same function other code."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError) as error:  # compiled, as by torch.jit
        told = f"{type(function).__name__} does not tell its parameters"
        raise CheckError(f"{told}; give the plain Python function.") from error


def definition_of(function: FunctionType, source: Source) -> ast.FunctionDef | None:
    """Return the definition of a plain function of the same file, of which a source makes use."""
    if function.__code__.co_filename != source.file or function.__code__.co_freevars:
        return None
    found = source_of(function)
    tree = ast.parse(textwrap.dedent("\n".join(found.lines))) if found is not None else None
    definition = tree.body[0] if tree is not None else None
    if not isinstance(definition, ast.FunctionDef):
        return None
    decorators = [ast.unparse(d) for d in definition.decorator_list]
    wraps = decorators not in ([], ["staticmethod"]) and not re.fullmatch(COMPILES, ",".join(decorators))
    # a decorator that gives back what it was given changes nothing: this is the function's own code
    if wraps and (hasattr(function, "__wrapped__") or definition.name != function.__code__.co_name):
        return None
    return ast.increment_lineno(definition, function.__code__.co_firstlineno - 1)


def numbers_in(statements: Iterable[ast.stmt]) -> set[float]:
    """Return the fractions that stand in statements."""
    constants = (n.value for s in statements for n in ast.walk(s) if isinstance(n, ast.Constant))
    return {c for c in constants if isinstance(c, float)}


def _passes_on(definition: ast.FunctionDef) -> bool:
    """Tell whether it takes whatever comes, as a decorator's does: its statements are not the backward's."""
    a = definition.args
    return bool(a.vararg and a.kwarg) and not (a.args or a.posonlyargs or a.kwonlyargs)


def _yields(definition: ast.FunctionDef) -> bool:
    return any(isinstance(n, ast.Yield | ast.YieldFrom | ast.Await) for n in ast.walk(definition))
