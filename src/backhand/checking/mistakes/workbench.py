"""Explain a gradient by a small edit of its own statements that makes it right.

The inverse of a slip of the pen: a sign, a name, an axis, a transpose, a constant, a factor. An edit counts
only if the edited statements, run on the variables of that moment, give autograd's gradient on every draw.
"""

import ast
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from backhand.checking.mistakes.branches import constant_ratio
from backhand.checking.mistakes.edits import accumulating, dropped, edits_of, only_terms, other_upstreams
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.places import VALUES, Derived, Edit, Place, Scope, places_of
from backhand.checking.mistakes.slips import OF_WHAT_IS_MISSING, OF_WHAT_IS_THERE
from backhand.checking.running.names import as_gradient, flatten, root
from backhand.checking.running.program import Namespace, Source, definition_of
from backhand.checking.running.slicing import slice_of
from backhand.checking.running.statements import (
    assigned,
    begins_anew,
    reads,
    simple_statements,
    writes_surely,
)
from backhand.checking.verdicts.comparing import close

UNKNOWN = "__unknown__"  # a factor to be found


@dataclass
class Bench:
    """One draw's variables at the moment when a gradient was complete, and what it should have been."""

    namespace: Namespace
    expected: Tensor
    summands: float


@dataclass
class Budget:
    """How many statements may still be compiled and run to try edits, for all gradients of a report together.

    What is still wrong then is `unexplained`. All of it takes a second or two, some more in long loops.

    Attributes:
        suspect: the statement in which a mistake was found already; it may have spoilt several gradients.
    """

    left: int = 30_000
    suspect: ast.stmt | None = None


@dataclass
class Search:
    """What an edit is looked for in.

    Attributes:
        source: the backward.
        path: where the gradient lies, as an expression over the backward's variables.
        statements: those that write it.
        gradients: variable to tensor name, of the variables that hold gradients.
        benches: at least one.
        names: the variables that a slip may have put in another's place.
        numbers: constants of the forward, which a line may lack.
        derived: what autograd knows and the statements may lack; their variables are in every bench.
    """

    source: Source
    path: str
    statements: Sequence[ast.stmt]
    gradients: Mapping[str, str]
    benches: Sequence[Bench]
    names: frozenset[str]
    budget: Budget
    numbers: Sequence[float]
    derived: Sequence[Derived]
    part: list[ast.stmt] = field(default_factory=list)
    _leaves: int = 0
    _first: int = 0
    _cost: int = 1
    _missing: frozenset[str] = frozenset()
    _before: list[Namespace | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        part = slice_of(self.source, self.path, self.statements, self.gradients)
        called = {n: self.benches[0].namespace.get(n) for s in part for n in reads(s)}
        helpers = [
            definition_of(f, self.source) for n, f in sorted(called.items()) if isinstance(f, FunctionType)
        ]
        self.part = [*filter(None, helpers), *part]
        self._leaves = self.budget.left // 2  # for the gradients that follow
        self.focus(None)

    @property
    def scope(self) -> Scope:
        """What the variables hold, and which of them are gradients."""
        names = self.names - self._missing
        bench = self.benches[0]
        shape = tuple(bench.expected.shape)
        return Scope(bench.namespace, self.gradients, names, self.numbers, self.derived, shape)

    def focus(self, statement: ast.stmt | None) -> None:
        """Prepare for edits of one statement: what stands above it is run only once."""
        tops = [i for i, top in enumerate(self.part) if any(n is statement for n in ast.walk(top))]
        self._first = tops[0] if tops else 0
        above, below = self.part[: self._first], self.part[self._first :]
        self._cost = len(simple_statements(below))
        anew = {n for n in assigned(statement) if begins_anew(statement, n)} if statement else set()
        self._missing = frozenset(anew) - {n for s in above for n in writes_surely(s)}  # not there yet
        self._before = []
        for bench in self.benches:
            namespace = dict(bench.namespace)
            namespace.pop(root(self.path), None)  # what it was before is no part of what it should be
            self._before.append(namespace if not above or self._run(above, namespace) else None)

    def is_over(self) -> bool:
        """Tell whether this search has tried enough."""
        return self.budget.left <= self._leaves

    def is_right(self) -> bool:
        """Tell whether the statements, as they are now, give the right gradient on every draw."""
        return self.is_right_with()

    def is_right_with(self, **more: Any) -> bool:
        """Tell whether they do with some variables set."""
        self.budget.left -= self._cost
        for i, bench in enumerate(self.benches):
            value = self.value(i, **more)
            if value is None or not close(value, bench.expected, bench.summands):
                return False
        return True

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

    What is there may be wrong, or something may be missing: for each of the two, all rules are tried on the
    statements of the gradient itself and on one that has spoilt another gradient, then rule by rule on those
    of its temporaries, but not on those of other gradients, which have their own verdict. A constant factor
    comes last, with which one line may make up for another.
    """
    if not search.part or search.is_right():  # right as it is: what raised is not in these statements
        return None
    simple = simple_statements(search.part)
    own = [s for s in reversed(simple) if root(search.path) in writes_surely(s)]
    others = {root(path) for path in search.gradients} - {root(search.path)}
    temporary = [s for s in reversed(simple) if s not in own and others.isdisjoint(writes_surely(s))]
    suspects = [s for s in temporary if s is search.budget.suspect]
    tries = []
    for rules in (OF_WHAT_IS_THERE, OF_WHAT_IS_MISSING):
        tries += [(s, rules) for s in own + suspects] + [(s, (rule,)) for rule in rules for s in temporary]
    for statement, rules in [*tries, *((s, ()) for s in [*own, *temporary])]:
        search.focus(statement)
        if rules:
            edit = search.first_right(edits_of(statement, search.scope, rules))
        else:
            edit = _by_constant(search, statement)
        if edit is not None:
            search.budget.suspect = statement
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
        if place.role != "value" or not isinstance(place.node, VALUES):
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
    return Edit(
        "scale", f"`{text}` is off by a constant factor: it is {1 / k:.6g} times what it should be", detail
    )


def _fresh(value: Any) -> Any:
    """Return a copy of a tensor, or of a container of some; anything else as it is."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _fresh(v) for k, v in value.items()}
    return type(value)(map(_fresh, value)) if type(value) in (list, tuple) else value
