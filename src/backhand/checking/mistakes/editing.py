"""Explain a gradient by a small edit of its own statements that makes it right.

The inverse of a slip of the pen: a sign, a name, an axis, a transpose, a constant, a factor. An edit counts
only if the edited statements, run on the variables of that moment, give autograd's gradient on every draw.
"""

import ast
import copy
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor

from backhand.checking.mistakes.edits import accumulating, dropped, edits_of, only_terms, other_upstreams
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.fitting import constant_ratio
from backhand.checking.mistakes.places import VALUES, Derived, Edit, Place, Scope, places_of
from backhand.checking.mistakes.slips import RULES
from backhand.checking.running.executing import Namespace
from backhand.checking.running.flattening import as_gradient, flatten, root
from backhand.checking.running.source import Source, reads, simple_statements, writes, writes_surely
from backhand.checking.verdicts.comparing import close

TRIES = 4000  # edits after which the search is given up; the mistake is then `unexplained`
UNKNOWN = "__unknown__"  # a factor to be found


@dataclass
class Bench:
    """One draw's variables at the moment when a gradient was complete, and what it should have been."""

    namespace: Namespace
    expected: Tensor


@dataclass
class Search:
    """What an edit is looked for in.

    Attributes:
        source: the backward.
        path: where the gradient lies, as an expression over the backward's variables.
        statements: those that write it.
        gradients: variable to tensor name, of the variables that hold gradients.
        benches: at least one.
        derived: what autograd knows and the statements may lack; their variables are in every bench.
    """

    source: Source
    path: str
    statements: Sequence[ast.stmt]
    gradients: Mapping[str, str]
    benches: Sequence[Bench]
    derived: Sequence[Derived] = ()
    part: list[ast.stmt] = field(default_factory=list)
    tries: int = 0
    _first: int = 0
    _before: list[Namespace | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.part = slice_of(self.source, self.path, self.statements, self.gradients)
        self.focus(None)

    @property
    def scope(self) -> Scope:
        """What the variables hold, and which of them are gradients."""
        return Scope(self.benches[0].namespace, self.gradients, self.source.local_names, self.derived)

    def focus(self, statement: ast.stmt | None) -> None:
        """Prepare for edits of one statement: what stands above it is run only once."""
        tops = [i for i, top in enumerate(self.part) if any(n is statement for n in ast.walk(top))]
        self._first = tops[0] if tops else 0
        above = self.part[: self._first]
        self._before = []
        for bench in self.benches:
            namespace = dict(bench.namespace)
            namespace.pop(root(self.path), None)  # what it was before is no part of what it should be
            self._before.append(namespace if not above or self._run(above, namespace) else None)

    def is_right(self) -> bool:
        """Tell whether the statements, as they are now, give the right gradient on every draw."""
        return self.is_right_with()

    def is_right_with(self, **more: Any) -> bool:
        """Tell whether they do with some variables set."""
        self.tries += 1
        for i, bench in enumerate(self.benches):
            value = self.value(i, **more)
            if value is None or not close(value, bench.expected):
                return False
        return True

    def is_over(self) -> bool:
        """Tell whether the search has tried enough."""
        return self.tries >= TRIES

    def value(self, bench: int, **more: Any) -> Tensor | None:
        """Run the statements on a bench and return the gradient, or None if they raise."""
        before = self._before[bench]
        if before is None:
            return None
        namespace = {**before, **more}
        if not self._run(self.part[self._first :], namespace):
            return None
        name = root(self.path)
        found = flatten({name: namespace[name]}).get(self.path) if name in namespace else None
        return as_gradient(found)

    def _run(self, statements: list[ast.stmt], namespace: Namespace) -> bool:
        """Run statements on copies, since an edit may change in place what another name holds too."""
        try:
            code = compile(ast.Module(statements, []), "<edited>", "exec")
            for name in code.co_names:
                if name in namespace:
                    namespace[name] = _fresh(namespace[name])
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(code, namespace)
        except Exception:  # an edit may well make nonsense
            return False
        return True

    def first_right(self, edits: Generator[Edit, None, None]) -> Edit | None:
        """Return the first edit that makes the gradient right."""
        for edit in edits:
            if self.is_over():
                edits.close()  # puts the statement back as it was
                return None
            if self.is_right():
                edits.close()
                return edit
        return None


def by_edit(search: Search) -> Finding | None:
    """Find an edit of the statements that write a gradient after which it is right.

    All rules are tried on the statements of the gradient itself, then rule by rule on those of its
    temporaries, and a constant factor at last, with which one line may make up for another.
    """
    if not search.part or search.is_right():  # right as it is: what raised is not in these statements
        return None
    simple = simple_statements(search.part)
    own = [s for s in reversed(simple) if root(search.path) in writes_surely(s)]
    temporary = [s for s in reversed(simple) if s not in own]
    tries = [(s, RULES) for s in own] + [(s, (rule,)) for rule in RULES for s in temporary]
    for statement, rules in [*tries, *((s, ()) for s in [*own, *temporary])]:
        search.focus(statement)
        if rules:
            edit = search.first_right(edits_of(statement, search.scope, rules))
        else:
            edit = _by_constant(search, statement)
        if edit is not None:
            where = "" if statement in own else f"in `{ast.unparse(statement).splitlines()[0]}`, "
            return Finding(edit.kind, edit.detail, where + edit.words)
        if search.is_over():
            return None
    return None


def by_other_upstream(search: Search, upstreams: Sequence[str]) -> Finding | None:
    """Find that one of these gradients, which the statements do not read, belongs into them."""
    if not search.part or search.is_right():
        return None
    for statement in simple_statements(search.part):
        search.focus(statement)
        edit = search.first_right(other_upstreams(statement, search.scope, upstreams))
        if edit is not None:
            return Finding(edit.kind, edit.detail, edit.words)
    return None


def by_dropped_term(search: Search) -> Finding | None:
    """Find a term, in a statement or as one, without which the gradient is right."""
    for edits in (dropped(search.part), *(only_terms(s, search.scope) for s in search.part)):
        edit = search.first_right(edits)
        if edit is not None:
            return Finding(edit.kind, edit.detail, edit.words)
    return None


def by_accumulating(search: Search) -> Finding | None:
    """Find an `=` that should be a `+=`, to zero if there was nothing."""
    variable = root(search.path)
    edits = accumulating(search.part, variable)
    for edit in edits:
        if search.is_right_with(**{variable: 0.0}):
            edits.close()
            return Finding(edit.kind, edit.detail, edit.words)
    return None


def _by_constant(search: Search, statement: ast.stmt) -> Edit | None:
    """Find a constant that some expression of a statement should be multiplied by."""
    for place in places_of(statement):
        if search.is_over():
            return None
        if place.exponent or place.index_ or not isinstance(place.node, VALUES):
            continue
        factor = ast.BinOp(place.node, ast.Mult(), ast.Name(UNKNOWN, ast.Load()))
        place.put(ast.fix_missing_locations(ast.copy_location(factor, place.node)))
        try:
            found = _constant(search)
        finally:
            place.put(place.node)
        if found is not None:
            return _off_by(found, place)
    return None


def _constant(search: Search) -> float | None:
    """Return the constant, from the gradient with 1 and with 2 in its place, if it holds on every draw."""
    expected = search.benches[0].expected
    once, twice = (search.value(0, **{UNKNOWN: k}) for k in (1.0, 2.0))
    if once is None or twice is None or once.shape != expected.shape or twice.shape != once.shape:
        return None
    more = constant_ratio(expected - once, twice - once)
    if more is None or more == 0:
        return None
    k = float(round(1 + more)) if abs(1 + more - round(1 + more)) < 1e-7 else 1 + more
    return k if search.is_right_with(**{UNKNOWN: k}) else None


def _off_by(k: float, place: Place) -> Edit:
    text = ast.unparse(place.node)
    if k == -1:
        return Edit("sign", f"`{text}` has the opposite sign", {"branches": []})
    if k == 0:
        return Edit("repeated_branch", f"the term `{text}` is one too many", {"branches": []})
    detail = {"factor": 1 / k, "guess": ""}
    return Edit("scale", f"`{text}` is off by a constant factor: it is {1 / k:.6g} times too large", detail)


def _fresh(value: Any) -> Any:
    """Return a copy of a tensor, or of a container of some; anything else as it is."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _fresh(v) for k, v in value.items()}
    return type(value)(map(_fresh, value)) if type(value) in (list, tuple) else value


def slice_of(
    source: Source, path: str, statements: Sequence[ast.stmt], gradients: Mapping[str, str]
) -> list[ast.stmt]:
    """Return the top-level statements that write a gradient, and those that make the temporaries they use."""
    inner = set(map(id, statements))
    chosen = {i for i, top in enumerate(source.statements) if any(id(n) in inner for n in ast.walk(top))}
    chosen = {i for i in chosen if not isinstance(source.statements[i], ast.Return)}
    variable = root(path)
    last = max(chosen, default=-1)
    chosen |= {i for i in range(last) if variable in writes_surely(source.statements[i])}
    known = set(gradients) | {variable}
    found = source.with_temporaries(chosen, known)
    heads = [n.iter if isinstance(n, ast.For) else n.test for s in found for n in ast.walk(s) if _branches(n)]
    needed = {variable} | {n.id for head in heads for n in ast.walk(head) if isinstance(n, ast.Name)}
    grows = True
    while grows:
        used = {n for s in simple_statements(found) if writes(s) & needed for n in reads(s)}
        grows = not used - known <= needed
        needed |= used - known
    return [_pruned(s, needed) for s in found]


def _branches(node: ast.AST) -> TypeGuard[ast.For | ast.If | ast.While]:
    return isinstance(node, ast.For | ast.If | ast.While)


def _pruned(statement: ast.stmt, needed: set[str]) -> ast.stmt:
    """Return a loop without assignments to what is not needed; the rest of it is the same nodes."""
    blocks = {slot: getattr(statement, slot, None) for slot in ("body", "orelse")}
    if not blocks["body"] or isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement
    pruned = copy.copy(statement)
    for slot, block in blocks.items():
        kept = [_pruned(s, needed) for s in block or () if _matters(s, needed)]
        setattr(pruned, slot, kept or [ast.copy_location(ast.Pass(), statement)] if block else [])
    return pruned


def _matters(statement: ast.stmt, needed: set[str]) -> bool:
    plain = isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Expr)
    return not plain or bool(writes(statement) & needed)
