"""Slips in more than one statement: swapped names, lines too early or too late, loops with steps left out."""

import ast
import copy
from collections.abc import Iterator

from patterns import expression, filled, matched
from reading import in_order, mark, read_by, written_by
from slips import HEADERS
from subject import Change, Subject


def moves(block: list[ast.stmt], i: int, subject: Subject) -> Iterator[Change]:
    """Yield the changes that begin at a statement of a block."""
    s = block[i]
    yield from _used_too_early(block, i, subject)
    yield from _swapped_names(block, i, subject)
    yield from _folded_too_early(block, i, subject)
    if isinstance(s, ast.For | ast.While | ast.If):
        yield from _headers(s, subject)
    if isinstance(s, ast.Return) and isinstance(s.value, ast.Dict):
        yield from _swapped_keys(s, s.value, subject)


def _used_too_early(block: list[ast.stmt], i: int, subject: Subject) -> Iterator[Change]:
    """Move what is added to a tensor below the line that reads it."""
    s = block[i]
    if not isinstance(s, ast.AugAssign):
        return
    written = written_by(s)
    for k in range(i + 1, len(block)):
        if written & written_by(block[k]):
            return
        if written & read_by(block[k]) and isinstance(block[k], ast.Assign | ast.AugAssign):
            moved = [copy.deepcopy(each) for each in (*block[i + 1 : k + 1], s)]
            mark(moved[-1])
            mark(moved[-2])
            blamed = subject.blamed(s) | subject.blamed(block[k])
            kinds = {"missing_branch", "wrong_upstream", "aliased", "wrong_point"}
            kinds |= {"scale"} if isinstance(s.op, ast.Div | ast.Mult) else set()
            yield Change("used too early", tuple(moved), frozenset(kinds), blamed, span=k + 1 - i)
            return


def _swapped_names(block: list[ast.stmt], i: int, subject: Subject) -> Iterator[Change]:
    """Swap the names of two gradients, the second of which does not need the first."""
    a = block[i]
    for k in range(i + 1, min(i + 4, len(block))):
        b = block[k]
        if not (isinstance(a, ast.Assign) and isinstance(b, ast.Assign)):
            return
        x, y = a.targets[0], b.targets[0]
        if not (isinstance(x, ast.Name) and isinstance(y, ast.Name)) or x.id == y.id:
            continue
        between = [name for s in block[i + 1 : k + 1] for name in read_by(s)]
        alike = {x.id, y.id} <= subject.gradients and y.id in subject.alike(x.id, subject.own, True)
        if not alike or x.id in between or "zeros" in ast.unparse(a):
            continue
        new = [copy.deepcopy(each) for each in block[i : k + 1]]
        new[0], new[-1] = mark(ast.Assign([y], a.value), 0), mark(ast.Assign([x], b.value), 1)
        kinds = frozenset({"swapped"})
        yield Change("swapped names", tuple(new), kinds, frozenset({x.id, y.id}), span=k + 1 - i, most=2)
        return


def _folded_too_early(block: list[ast.stmt], i: int, subject: Subject) -> Iterator[Change]:
    """Multiply a gradient with the factor of the line below already."""
    a = block[i]
    if i + 1 == len(block) or not isinstance(a, ast.Assign) or not isinstance(a.targets[0], ast.Name):
        return
    name, b = a.targets[0].id, block[i + 1]
    if not isinstance(b, ast.Assign) or not isinstance(b.value, ast.BinOp) or name not in subject.gradients:
        return
    for own, factor in ((b.value.left, b.value.right), (b.value.right, b.value.left)):
        if not (isinstance(own, ast.Name) and own.id == name and isinstance(b.value.op, ast.Mult)):
            continue
        if any(n.id == name for n in ast.walk(factor) if isinstance(n, ast.Name)):
            continue
        early = mark(ast.Assign([a.targets[0]], ast.BinOp(a.value, ast.Mult(), factor)))
        kinds = frozenset({"wrong_point", "wrong_upstream", "scale"})
        yield Change("folded too early", (early,), kinds)


def _headers(s: ast.For | ast.While | ast.If, subject: Subject) -> Iterator[Change]:
    """Leave a step out, run the wrong way, begin anew at every turn."""
    inside = [each for each in in_order([s]) if each is not s]
    blamed = frozenset(g for each in inside for g in subject.blamed(each))
    header = "iter" if isinstance(s, ast.For) else "test"
    for operation, pattern, template, kinds in HEADERS:
        bound = matched(expression(pattern), getattr(s, header), subject.fits)
        if bound is None:
            continue
        new = copy.deepcopy(s)
        setattr(new, header, filled(expression(template), bound))
        for each in in_order([new]):
            mark(each)
        yield Change(operation, (new,), frozenset(kinds.split()), blamed, most=len(blamed))


def begun_in_the_loop(block: list[ast.stmt], i: int, subject: Subject) -> Iterator[Change]:
    """Move the zeros that a sum begins with into the loop, so that each turn begins anew."""
    s = block[i]
    loop = next((k for k in range(i + 1, len(block)) if isinstance(block[k], ast.For)), None)
    if loop is None or not isinstance(s, ast.Assign) or not isinstance(s.targets[0], ast.Name):
        return
    if "zeros" not in ast.unparse(s.value) or not written_by(s) & set(subject.own):
        return
    name = s.targets[0].id
    if any(name in read_by(each) for each in block[i + 1 : loop]):
        return  # it would not be there yet: another slip
    new = [copy.deepcopy(each) for each in block[i + 1 : loop + 1]]
    for each in in_order(new):
        if name in written_by(each):
            mark(each)
    new[-1].body.insert(0, mark(copy.deepcopy(s)))  # type: ignore[attr-defined]
    kinds = frozenset({"missing_branch", "overwritten", "partial", "zero"})
    yield Change("begun in the loop", tuple(new), kinds, span=loop + 1 - i)


def _swapped_keys(s: ast.Return, returned: ast.Dict, subject: Subject) -> Iterator[Change]:
    """Return two gradients under each other's name."""
    keys = [k.value if isinstance(k, ast.Constant) else None for k in returned.keys]
    done: set[object] = set()
    for i, key in enumerate(keys):
        for k in range(i + 1, len(keys)):
            other = keys[k]
            if not isinstance(key, str) or not isinstance(other, str) or {key, other} & done:
                continue
            if other not in subject.alike(key, subject.returned, True):
                continue
            done |= {key, other}
            new = copy.deepcopy(s)
            values = new.value.values  # type: ignore[union-attr]
            values[i], values[k] = values[k], values[i]
            both = frozenset({key, other})
            yield Change("swapped keys", (new,), frozenset({"swapped"}), both, most=2)
