"""A pass whose backward is to be changed: its tree, what its variables hold, the changed pass as a module."""

import ast
import copy
import inspect
import linecache
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from playing import Played, play, signature
from reading import blocks, in_order, mark_of, names_in, written_by
from torch import Tensor

from backhand.checking.running.statements import assigned


@dataclass(frozen=True)
class Change:
    """What stands for one statement, or for several in a row, and what may truly be said of it.

    Attributes:
        operation: what was done.
        statements: what stands there now; those that are at fault are marked.
        kinds: the kinds that name it rightly.
        culprits: the gradients that may be blamed; None: those that the statement makes.
        span: how many statements are replaced.
        most: how many culprits it may have.
        needs: a tensor of the forward that the backward did not ask for until now.
        raises: it may end in an exception.
    """

    operation: str
    statements: tuple[ast.stmt, ...]
    kinds: frozenset[str]
    culprits: frozenset[str] | None = None
    span: int = 1
    most: int = 1
    needs: str | None = None
    raises: bool = True


Place = tuple[list[ast.stmt], int, Change]  # what is changed: a block, the number of a statement, and how


class Subject:
    """A pass to be changed: its module, its tree, and what its variables hold."""

    def __init__(self, module: types.ModuleType):
        self.module = module
        self.tree = ast.parse(inspect.getsource(module))
        run: Played = play(module, torch.Generator().manual_seed(0))
        self.values = {k: s for k, v in run.values.items() if (s := signature(v))}
        self.masks = {k for k, v in run.values.items() if isinstance(v, Tensor) and k not in self.values}
        self.returned = {k: s for k, v in run.returned.items() if (s := signature(v))}
        self.upstream = set(run.upstream)
        self.arguments = set(run.arguments)
        own = {k: v for k, v in run.variables.items() if k not in run.arguments}
        self.own = {k: s for k, v in own.items() if (s := signature(v))}
        self.gradients = frozenset(run.gradients)
        self.inputs = frozenset(inspect.signature(module.forward).parameters)
        self.known: set[str] = set()
        self.fits = {
            "_g": lambda n: isinstance(n, ast.Name) and n.id in self.gradients and n.id in self.own,
            # of an intermediate a fused backward has none either
            "_p": lambda n: isinstance(n, ast.Name) and n.id in self.gradients and n.id[1:] in self.inputs,
            "_h": lambda n: isinstance(n, ast.Name) and n.id in self.gradients and n.id in self.own,
            "_o": lambda n: isinstance(n, ast.Name) and self.own.get(n.id, ("",))[0] == "tensor",
            "_m": lambda n: not (isinstance(n, ast.Name) and n.id in self.gradients),
            "_x": lambda n: names_in(n) <= set(self.values) | {"t", "i"} and not _called(n),
        }

    @property
    def signatures(self) -> Mapping[str, tuple]:
        """What every name holds: the kind, and the shape."""
        above = {k: self.values[k[1:]] for k in self.upstream}
        return {**self.values, **self.returned, **self.own, **above}

    @property
    def has_loop(self) -> bool:
        """Tell whether the backward has a loop."""
        return any(isinstance(s, ast.For | ast.While) for s in in_order(self.body()))

    def alike(self, name: str, pool: Iterable[str], also_unknown: bool = False) -> list[str]:
        """Return the other names of a pool that hold tensors of the same kind and shape."""
        held = self.signatures
        return [
            k
            for k in pool
            if k != name and held.get(k) == held.get(name) is not None and (also_unknown or k in self.known)
        ]

    def has_rows(self, node: ast.Name) -> bool:
        """Tell whether a variable has rows enough for a tail to be lost."""
        kind, *shape = self.own[node.id]
        return kind == "tensor" and len(shape) > 0 and shape[0] > 3

    def body(self) -> list[ast.stmt]:
        """Return the statements of the backward."""
        return self._function("backward").body

    def places(self) -> list[tuple[list[ast.stmt], int]]:
        """Return every statement of the backward as its block and its number there."""
        return [(block, i) for block in list(blocks(self.body())) for i in range(len(block))]

    def changed(self, changed: tuple[Place, ...]):
        """Return the pass with some statements changed, and the lines of those that are at fault."""
        replaced = {}
        for block, i, change in changed:
            replaced[id(block[i])] = change.statements
            replaced |= {id(s): () for s in block[i + 1 : i + change.span]}
        needs = [change.needs for _, _, change in changed if change.needs]
        tree = _Replaced(replaced).visit(_copied(self.tree))
        backward = _function(tree, "backward")
        backward.args.args[:0] = [ast.arg(name) for name in needs]
        return self.compiled(tree)

    def compiled(self, tree: ast.Module | None = None) -> tuple[types.ModuleType, tuple[frozenset[int], ...]]:
        """Return a tree as a module with source lines, and the lines of the marked statements, by group."""
        tree = self.tree if tree is None else tree
        text = ast.unparse(ast.fix_missing_locations(tree))
        name = f"<{self.module.__name__} {abs(hash(text))}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        module = types.ModuleType("changed")
        module.__package__ = self.module.__package__  # for what it imports from beside it
        exec(compile(text, name, "exec"), module.__dict__)
        old, new = (list(in_order(_function(t, "backward").body)) for t in (tree, ast.parse(text)))
        groups: dict[int, set[int]] = {}
        for a, b in zip(old, new, strict=True):
            if (group := mark_of(a)) is not None and not isinstance(a, ast.Pass):
                groups.setdefault(group, set()).add(b.lineno)
        return module, tuple(frozenset(groups[k]) for k in sorted(groups))

    def assigned_before(self, statement: ast.stmt) -> set[str]:
        """Return the names that the backward has when it comes to a statement."""
        known = set(self.arguments)
        for other in in_order(self.body()):
            if other.lineno < statement.lineno:
                known |= written_by(other)
        return known

    def blamed(self, statement: ast.stmt) -> frozenset[str]:
        """Return the gradients that a statement makes, or those made of the temporary that it makes.

        That of a name which the forward binds more than once is ambiguous: it is not judged, and so as good
        as a temporary.
        """
        written, gradients = written_by(statement), self.gradients - self._ambiguous()
        direct = written & gradients
        if any(name in written for name in self._containers()):  # whose keys are the gradients' names
            direct |= gradients & {str(n.value) for n in ast.walk(statement) if isinstance(n, ast.Constant)}
        if direct:
            return frozenset(direct)
        found = {key for variable, key in self._returned_as() if variable in written}
        temporary, grows = set(written), bool(written)
        while grows:  # a temporary may be made of another one
            made = {name for s in in_order(self.body()) if temporary & read_in(s) for name in written_by(s)}
            found |= made & gradients | {key for variable, key in self._returned_as() if variable in made}
            grows = not made - gradients <= temporary
            temporary |= made - gradients
        return frozenset(found | written if found else ())

    def _ambiguous(self) -> frozenset[str]:
        """Return the gradients of names that the forward binds more than once."""
        forward = self._function("forward").body
        bound = [name for s in in_order(forward) for name in assigned(s)]
        return frozenset(f"d{name}" for name in bound if bound.count(name) > 1)

    def _containers(self) -> list[str]:
        """Return the variables that are returned as they are."""
        returned = [s.value for s in self.body() if isinstance(s, ast.Return)]
        return [value.id for value in returned if isinstance(value, ast.Name)]

    def _returned_as(self) -> list[tuple[str, str]]:
        """Return the variables that are returned as a gradient of another name, with that name."""
        returned = [
            s.value for s in self.body() if isinstance(s, ast.Return) and isinstance(s.value, ast.Dict)
        ]
        pairs = [
            (v.id, k.value)
            for d in returned
            for k, v in zip(d.keys, d.values, strict=True)
            if isinstance(v, ast.Name) and isinstance(k, ast.Constant)
        ]
        return [(variable, key) for variable, key in pairs if key in self.gradients and key != variable]

    def _function(self, name: str) -> ast.FunctionDef:
        return _function(self.tree, name)


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    return next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)


def backward_of(module: types.ModuleType) -> list[ast.stmt]:
    """Return the statements of a changed backward, numbered as in its text."""
    text = "".join(linecache.getlines(module.backward.__code__.co_filename))
    return list(in_order(_function(ast.parse(text), "backward").body))


def read_in(s: ast.stmt) -> set[str]:
    """Return the variables in the expression of a statement."""
    return names_in(s.value) if isinstance(s, ast.Assign | ast.AugAssign | ast.Expr) else set()


def _called(node: ast.AST) -> bool:
    return any(isinstance(n, ast.Call | ast.BinOp | ast.Constant) for n in ast.walk(node))


def _copied(tree: ast.Module) -> ast.Module:
    """Return a tree in which the statements stand in lists of their own, but are the same."""

    def each(s: ast.AST) -> ast.AST:
        new = copy.copy(s)
        for slot in ("body", "orelse"):
            if isinstance(inner := getattr(s, slot, None), list):
                setattr(new, slot, [each(i) if hasattr(i, "body") else i for i in inner])
        if isinstance(new, ast.FunctionDef):
            new.args = copy.deepcopy(new.args)
        new.original = s  # type: ignore[attr-defined]
        return new

    return each(tree)  # type: ignore[return-value]


class _Replaced(ast.NodeTransformer):
    def __init__(self, replaced: Mapping[int, tuple[ast.stmt, ...]]):
        self.replaced = replaced

    def visit(self, node: ast.AST):
        if not isinstance(node, ast.stmt | ast.Module):
            return node
        new = self.replaced.get(id(getattr(node, "original", node)))
        return self.generic_visit(node) if new is None else list(new)
