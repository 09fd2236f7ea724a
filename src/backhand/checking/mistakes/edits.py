"""The small edits of a statement that a slip of the pen may have undone, one in force at a time."""

import ast
from collections.abc import Generator, Iterator, Sequence
from functools import partial

from backhand.checking.mistakes.places import Edit, Place, Rule, Scope, places_of
from backhand.checking.mistakes.slips import drop_term, put_upstream, upstream_factor
from backhand.checking.running.statements import writes_surely


def edits_of(statement: ast.stmt, scope: Scope, rules: Sequence[Rule]) -> Generator[Edit, None, None]:
    """Yield every edit. Each is in force, in the statement itself, until the next one is asked for."""
    yield from _statement_edits(statement)
    places = list(places_of(statement))
    for rule in rules:
        for place in places:
            yield from _tried(rule, place, scope)


def _tried(rule: Rule, place: Place, scope: Scope) -> Iterator[Edit]:
    for node, edit in rule(place, scope):
        place.put(ast.fix_missing_locations(ast.copy_location(node, place.node)))
        try:
            yield edit
        finally:
            place.put(place.node)


def only_terms(statement: ast.stmt, scope: Scope) -> Generator[Edit, None, None]:
    """Yield only the edits that drop a term."""
    for place in places_of(statement):
        yield from _tried(drop_term, place, scope)


def other_upstreams(
    statement: ast.stmt, scope: Scope, upstreams: Sequence[str]
) -> Generator[Edit, None, None]:
    """Yield only the edits that put one of these gradients in a name's place, or make it a factor."""
    for rule in (put_upstream, upstream_factor):
        for place in places_of(statement):
            for upstream in upstreams:
                yield from _tried(partial(rule, upstream=upstream), place, scope)


def _statement_edits(statement: ast.stmt) -> Iterator[Edit]:
    for node in ast.walk(statement):
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            before = node.op
            node.op = ast.Sub() if isinstance(before, ast.Add) else ast.Add()
            try:
                yield Edit("sign", "a term has the opposite sign", {"branches": []})
            finally:
                node.op = before


def dropped(block: list[ast.stmt]) -> Generator[Edit, None, None]:
    """Yield the edits that leave out a statement which adds a term; each is in force until the next one."""
    for i, statement in enumerate(list(block)):
        if isinstance(statement, ast.AugAssign):
            block[i] = ast.copy_location(ast.Pass(), statement)
            try:
                yield Edit("repeated_branch", "a term is added twice", {"branches": []})
            finally:
                block[i] = statement


def accumulating(block: list[ast.stmt], variable: str) -> Generator[Edit, None, None]:
    """Yield the edits of `=` into `+=` for a variable, in inner blocks too; each lasts until the next."""
    for i, inner in enumerate(list(block)):
        for slot in ("body", "orelse"):
            if isinstance(nested := getattr(inner, slot, None), list):
                yield from accumulating(nested, variable)
        if isinstance(inner, ast.Assign) and len(inner.targets) == 1 and variable in writes_surely(inner):
            if _goes_on(inner):
                continue
            target = inner.targets[0]
            if isinstance(target, ast.Name | ast.Subscript):
                added = ast.AugAssign(target, ast.Add(), inner.value)
                block[i] = ast.fix_missing_locations(ast.copy_location(added, inner))
                try:
                    if isinstance(inner.value, ast.Constant):
                        yield Edit("partial", "a part is set to a constant", {"where": ast.unparse(target)})
                    else:
                        yield Edit("overwritten", "`=` stands where `+=` belongs")
                finally:
                    block[i] = inner


def _goes_on(statement: ast.Assign) -> bool:
    """Tell whether a statement makes the new value of its target from the old one."""
    target = ast.unparse(statement.targets[0])
    return any(ast.unparse(n) == target for n in ast.walk(statement.value))
