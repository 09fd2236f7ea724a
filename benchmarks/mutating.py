"""Change the backward of a pass by one slip at a time, and know what the checker should say of it."""

import ast
import copy
import inspect
import linecache
import types
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from changing import changes, names_in, written_by
from torch import Tensor

from backhand.checking.running.names import root
from backhand.checking.running.trials import draw
from backhand.checking.sources.protocol import resolve


@dataclass(frozen=True)
class Mutant:
    """One changed backward: what was done, which gradients may be blamed, and with which kinds of mistake."""

    operation: str
    module: types.ModuleType
    line: str
    culprits: frozenset[str]
    kinds: frozenset[str]


class Subject:
    """A pass to be changed: its module, its tree, and what its variables hold."""

    def __init__(self, module: types.ModuleType):
        self.module = module
        self.tree = ast.parse(inspect.getsource(module))
        chosen = resolve(module, None, None, None, None)
        self.drawn = draw(chosen, chosen.draw(torch.Generator().manual_seed(0)), torch.float64, 0)
        self.gradients = {root(g) for g in self.drawn.matched.values()}
        self.values = {k: v for k, v in self.drawn.trace.values.items() if isinstance(v, Tensor)}
        self.given = {k: v for k, v in self.drawn.given.items() if isinstance(v, Tensor)}
        self.given |= self.drawn.trace.upstream
        self.known: set[str] = set()

    def body(self) -> list[ast.stmt]:
        """Return the statements of the backward."""
        return next(n for n in self.tree.body if isinstance(n, ast.FunctionDef) and n.name == "backward").body

    def mutants(self) -> Iterator[Mutant]:
        """Yield every mutant."""
        for block in list(blocks(self.body())):
            for i, statement in enumerate(block):
                if isinstance(statement, ast.Return | ast.For) or not self._blamed(statement):
                    continue
                self.known = self._assigned_before(statement)
                for change in changes(statement, self):
                    if change.operation != "no clone" and _is_bare_gradient(change.statement, self):
                        continue  # two mistakes in one: the gradient also shares its memory then
                    block[i] = ast.fix_missing_locations(change.statement)
                    module = self.compiled()
                    block[i] = statement
                    culprits = change.culprits or self._blamed(statement)
                    yield Mutant(
                        change.operation,
                        module,
                        ast.unparse(change.statement),
                        frozenset(culprits),
                        change.kinds,
                    )

    def _assigned_before(self, statement: ast.stmt) -> set[str]:
        """Return the names that the backward has when it comes to a statement."""
        known = {a.arg for n in self.tree.body if isinstance(n, ast.FunctionDef) for a in n.args.args}
        for other in ast.walk(ast.Module(self.body(), [])):
            if isinstance(other, ast.stmt) and other.lineno < statement.lineno:
                known |= written_by(other)
        return known

    def compiled(self) -> types.ModuleType:
        """Return the tree as it is now, as a module with source lines."""
        text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(self.tree)))
        name = f"<{self.module.__name__} {abs(hash(text))}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        module = types.ModuleType("changed")
        exec(compile(text, name, "exec"), module.__dict__)
        return module

    def _blamed(self, statement: ast.stmt) -> frozenset[str]:
        """Return the gradients that a statement makes, or those made of the temporary that it makes."""
        written = written_by(statement)
        direct = written & self.gradients
        if direct:
            return frozenset(direct)
        found: set[str] = set()
        temporary, grows = set(written), True
        while grows:  # a temporary may be made of another one
            made = {
                name
                for other in ast.walk(ast.Module(self.body(), []))
                if isinstance(other, ast.Assign | ast.AugAssign) and temporary & names_in(other.value)
                for name in written_by(other)
            }
            found |= made & self.gradients
            grows = not made - self.gradients <= temporary
            temporary |= made - self.gradients
        return frozenset(found)


def _is_bare_gradient(statement: ast.stmt, subject: Subject) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Assign) and isinstance(value, ast.Name) and value.id in subject.gradients


def blocks(statements: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """Yield a list of statements and those within it."""
    yield statements
    for s in statements:
        for slot in ("body", "orelse"):
            if isinstance(inner := getattr(s, slot, None), list):
                yield from blocks(inner)
