"""The source of a function or a script as statements with their lines, and what each writes and reads."""

import ast
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import FunctionType
from typing import Any

from backhand.checking.report import Line
from backhand.checking.running.returning import spelled_out


@dataclass(frozen=True, eq=False)
class Source:
    """Statements that run in order, numbered as in their file."""

    statements: tuple[ast.stmt, ...]
    lines: tuple[str, ...]
    first: int = 1
    file: str | None = None
    local_names: frozenset[str] = field(default_factory=frozenset)

    def line(self, number: int) -> Line:
        """Return the line with this number."""
        index = number - self.first
        text = self.lines[index].strip() if 0 <= index < len(self.lines) else ""
        return Line(number, text, self.file)

    def writers(self, name: str) -> tuple[Line, ...]:
        """Return the lines that surely assign or change a variable, innermost statements only."""
        return self._writers.get(name, ())

    @cached_property
    def mentioned(self) -> frozenset[str]:
        """The variables in bare calls, which may change them or, as `print` does, only look at them."""
        return frozenset(n for s in simple_statements(self.statements) for n in writes(s) - writes_surely(s))

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
            known: variables that need not be made.
        """
        chosen = set(numbers)
        stack = list(chosen)
        while stack:
            i = stack.pop()
            for name in reads(self.statements[i]):
                if name not in known:
                    makers = [j for j in self.makers(name) if j < i and j not in chosen]
                    chosen.update(makers)
                    stack += makers
        return [self.statements[i] for i in sorted(chosen)]

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
        numbers: dict[str, set[int]] = {}
        for s in simple_statements(self.statements):
            for name in writes_surely(s):
                numbers.setdefault(name, set()).add(s.lineno)
        return {name: tuple(self.line(n) for n in sorted(found)) for name, found in numbers.items()}

    @cached_property
    def _readers(self) -> dict[str, tuple[Line, ...]]:
        numbers: dict[str, set[int]] = {}
        for s in simple_statements(self.statements):
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


@lru_cache(maxsize=256)
def source_of(function: Callable[..., Any]) -> Source | None:
    """Return the source of a plain Python function, or None where there is none to be had."""
    function = inspect.unwrap(function)
    if inspect.ismethod(function):
        function = function.__func__
    if not inspect.isfunction(function):
        return None
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    first = max(first, 1)
    definition = next((n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)), None)
    if definition is None or definition.name != function.__name__ or _yields(definition):
        return None
    ast.increment_lineno(tree, first - 1)
    code = function.__code__
    local_names = frozenset(code.co_varnames + code.co_cellvars)
    return Source(
        statements=spelled_out(definition.body, local_names),
        lines=tuple(line.rstrip("\n") for line in lines),
        first=first,
        file=inspect.getsourcefile(function),
        local_names=local_names,
    )


def definition_of(function: FunctionType, source: Source) -> ast.FunctionDef | None:
    """Return the definition of a plain function of the same file, of which a source makes use."""
    if function.__code__.co_filename != source.file or function.__code__.co_freevars:
        return None
    found = source_of(function)
    tree = ast.parse(textwrap.dedent("\n".join(found.lines))) if found is not None else None
    definition = tree.body[0] if tree is not None else None
    return definition if isinstance(definition, ast.FunctionDef) and not definition.decorator_list else None


def numbers_in(statements: Iterable[ast.stmt]) -> set[float]:
    """Return the fractions that stand in statements."""
    constants = (n.value for s in statements for n in ast.walk(s) if isinstance(n, ast.Constant))
    return {c for c in constants if isinstance(c, float)}


def _yields(definition: ast.FunctionDef) -> bool:
    return any(isinstance(n, ast.Yield | ast.YieldFrom | ast.Nonlocal) for n in ast.walk(definition))


def simple_statements(statements: tuple[ast.stmt, ...] | list[ast.stmt]) -> list[ast.stmt]:
    """Return the statements that hold no other statement, in order of the text."""
    found: list[ast.stmt] = []
    for s in statements:
        blocks = [getattr(s, part, []) for part in ("body", "orelse", "finalbody")]
        if isinstance(s, ast.FunctionDef | ast.ClassDef) or not any(blocks):
            found.append(s)
        else:
            for block in blocks:
                found.extend(simple_statements(block))
    return found


def root_of(node: ast.AST) -> str | None:
    """Return the variable in which an expression such as `cache["h"].grad` lies, if it lies in one."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return None
    return node.id


def _targets(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.Tuple | ast.List):
        return [t for item in node.elts for t in _targets(item)]
    return [node]


def assigned(statement: ast.stmt) -> set[str]:
    """Return the plain names that a statement binds anew (`x = ...`, not `x += ...` or `x[i] = ...`)."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = [t for target in statement.targets for t in _targets(target)]
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    elif isinstance(statement, ast.For):
        targets = _targets(statement.target)
    return {t.id for t in targets if isinstance(t, ast.Name)}


@lru_cache(maxsize=4096)
def writes(statement: ast.stmt) -> frozenset[str]:
    """Return the variables that a statement binds or may change in place: all that a bare call mentions."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return frozenset(n.id for n in ast.walk(statement) if isinstance(n, ast.Name))
    return writes_surely(statement)


@lru_cache(maxsize=4096)
def writes_surely(statement: ast.stmt) -> frozenset[str]:
    """Return the variables that are a statement's target, or whose in-place method it calls."""
    found = set(assigned(statement))
    for node in ast.walk(statement):
        if isinstance(node, ast.Assign):
            roots = [root_of(t) for target in node.targets for t in _targets(target)]
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            roots = [root_of(node.target)]
        elif isinstance(node, ast.For):
            roots = [root_of(t) for t in _targets(node.target)]
        elif isinstance(node, ast.Call):
            roots = _written_by_call(node)
        else:
            continue
        found.update(r for r in roots if r)
    return frozenset(found)


def _written_by_call(node: ast.Call) -> list[str | None]:
    roots = [root_of(k.value) for k in node.keywords if k.arg == "out"]
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr.endswith("_") and function.attr[0] != "_":
        roots.append(root_of(function.value))
    return roots


@lru_cache(maxsize=4096)
def reads(statement: ast.stmt) -> frozenset[str]:
    """Return the variables whose value a statement uses."""
    names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    names |= {root_of(n.target) or "" for n in ast.walk(statement) if isinstance(n, ast.AugAssign)}
    return frozenset(names - {""})


@lru_cache(maxsize=4096)
def needs(statement: ast.stmt) -> frozenset[str]:
    """Return the variables that a statement uses the earlier value of: not those that a loop binds first."""
    if not isinstance(statement, ast.For | ast.While):
        return reads(statement)
    head = statement.iter if isinstance(statement, ast.For) else statement.test
    found = {n.id for n in ast.walk(head) if isinstance(n, ast.Name)}
    bound = assigned(statement)
    for s in (*statement.body, *statement.orelse):
        found |= needs(s) - bound
        bound |= assigned(s)
    return frozenset(found)


def begins_anew(statement: ast.stmt, name: str) -> bool:
    """Tell whether a statement gives a variable a value that owes nothing to its old one."""
    return name in assigned(statement) and name not in reads(statement)
