"""What a statement writes and reads, and which statements stand within it."""

import ast
import builtins
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import lru_cache

from backhand.checking.running.schemas import makes_its_own

# On a statement: that it is not at fault, as one that only gives what another has made a name.
RIGHT_AS_IT_IS = "right_as_it_is"
# On a statement: that it only takes what another has made for it, as `y.backward(dy)`, and adds up nothing.
ONLY_TAKES = "only_takes"
# On a statement that was taken apart, and on its parts: it as the user wrote it.
WRITTEN_AS = "written_as"


def simple_statements(statements: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Return the statements that hold no other statement, in order of the text."""
    found: list[ast.stmt] = []
    for s in statements:
        inner = inner_blocks(s)
        found += [part for block in inner for part in simple_statements(block)] if inner else [s]
    return found


def may_be_wrong(statement: ast.stmt | None) -> bool:
    """Tell whether a statement may be at fault."""
    return not getattr(statement, RIGHT_AS_IT_IS, False)


def line_of(statement: ast.stmt) -> str:
    """Return the first line of a statement, as the user wrote it."""
    return ast.unparse(getattr(statement, WRITTEN_AS, statement)).splitlines()[0]


def inner_blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """Return the blocks of a compound statement; none for a definition, whose body runs later."""
    if not is_compound(statement):
        return []
    parts = [statement, *getattr(statement, "handlers", ()), *getattr(statement, "cases", ())]
    blocks = [getattr(part, slot, None) for part in parts for slot in ("body", "orelse", "finalbody")]
    return [block for block in blocks if block]


def is_compound(statement: ast.stmt) -> bool:
    """Tell whether a statement holds others that run with it, not later."""
    later = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return not isinstance(statement, later) and (hasattr(statement, "body") or hasattr(statement, "cases"))


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


@lru_cache(maxsize=4096)
def assigned(statement: ast.stmt) -> frozenset[str]:
    """Return the plain names that a statement binds anew (`x = ...`, not `x += ...` or `x[i] = ...`)."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = [t for target in statement.targets for t in _targets(target)]
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    elif isinstance(statement, ast.For):
        targets = _targets(statement.target)
    return frozenset(t.id for t in targets if isinstance(t, ast.Name))


def kept_as(statement: ast.stmt) -> frozenset[str]:
    """Return the names under which a statement keeps a value: `h` in `h = ...` and in `self.h = ...`."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    attributes = [t.attr for target in targets for t in _targets(target) if isinstance(t, ast.Attribute)]
    return assigned(statement).union(attributes)


def is_ellipsis(statement: ast.stmt) -> bool:
    """Tell whether a statement is `...` and no more, where something is to be written."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and value.value is ...


def gives_nothing(statement: ast.stmt, besides: object = None) -> bool:
    """Tell whether a statement is the stub of an exercise: `dx, dw = None, None`, `dx = ...`, `dx += ...`.

    Args:
        statement: it.
        besides: what else than `...` is one.
    """
    if not isinstance(statement, ast.Assign | ast.AugAssign):
        return False
    value = statement.value
    parts = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
    return bool(parts) and all(isinstance(p, ast.Constant) and p.value in (..., besides) for p in parts)


@lru_cache(maxsize=4096)
def writes(statement: ast.stmt) -> frozenset[str]:
    """Return the variables that a statement binds or may change in place: all that a bare call mentions."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return frozenset(n.id for n in ast.walk(statement) if isinstance(n, ast.Name))
    return writes_surely(statement)


@lru_cache(maxsize=4096)
def writes_surely(statement: ast.stmt) -> frozenset[str]:
    """Return the variables that are a statement's target, or whose in-place method it calls."""
    roots = {root_of(place) or "" for place in places_written(statement)}
    return frozenset(roots.union(assigned(statement)) - {""})


def places_written(statement: ast.stmt) -> list[ast.expr]:
    """Return where a statement surely puts something: its targets, and what it changes in place."""
    found: list[ast.expr] = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Assign):
            found += [t for target in node.targets for t in _targets(target)]
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            found.append(node.target)
        elif isinstance(node, ast.For):
            found += _targets(node.target)
        elif isinstance(node, ast.Call):
            found += _changed_by_call(node)
    return found


def _changed_by_call(node: ast.Call) -> list[ast.expr]:
    found = [k.value for k in node.keywords if k.arg == "out"]
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr.endswith("_") and function.attr[0] != "_":
        # `torch.zeros_like(C).index_add_(...)` changes neither C nor torch, `x.view(-1).add_(...)` does x
        changed = function.value.func if isinstance(function.value, ast.Call) else None
        if not makes_its_own(getattr(changed, "attr", "")):
            found.append(function.value)
    return found


def receiver(statement: ast.stmt) -> str | None:
    """Return the variable whose method a statement calls and does nothing else, as `hs.append(h)` does."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    function = call.func if isinstance(call, ast.Call) else None
    return root_of(function.value) if isinstance(function, ast.Attribute) else None


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
    found = _named(head)
    bound = assigned(statement)
    for s in (*statement.body, *statement.orelse):
        found |= needs(s) - bound
        bound |= assigned(s)
    return frozenset(found)


@lru_cache(maxsize=256)
def running_variables(statements: tuple[ast.stmt, ...]) -> Mapping[ast.stmt, tuple[str, ...]]:
    """Return by the last statement of each loop the variables that a turn takes over from the one before.

    They are begun outside of it, and a statement in it uses them for something else.
    """
    found = {}
    loops = [s for top in statements for s in ast.walk(top) if isinstance(s, ast.For | ast.While)]
    for loop in loops:
        inner = simple_statements(loop.body)
        last = next((s for s in reversed(loop.body) if not isinstance(s, ast.Pass)), loop)
        outside = [s for s in simple_statements(statements) if s not in inner]
        begun = {name for s in outside for name in assigned(s)}
        used = {name for s in inner for name in reads(s) - writes(s)}
        found[last] = tuple(sorted(needs(loop) & begun & used - writes(last)))
    return found


@lru_cache(maxsize=256)
def counters(statements: tuple[ast.stmt, ...]) -> tuple[str, ...]:
    """Return the variables by which loops may count: a `for` gives them a value, a `while` asks."""
    loops = [s for top in statements for s in ast.walk(top) if isinstance(s, ast.For | ast.While)]
    named = (_named(loop.target if isinstance(loop, ast.For) else loop.test) for loop in loops)
    return tuple(sorted(set[str]().union(*named)))


def made_of(statements: Sequence[ast.stmt], names: Iterable[str]) -> frozenset[str]:
    """Return these variables, and those that are made of them, directly or by way of others."""
    pairs = [pair for s in simple_statements(statements) for pair in _read_and_written(s)]
    loops = [s for top in statements for s in ast.walk(top) if isinstance(s, ast.For)]
    pairs += [(needs(s) & _named(s.iter), assigned(s)) for s in loops]
    found, before = frozenset(names), frozenset[str]()
    while found != before:
        before = found
        found = found.union(*(written for read, written in pairs if read & found))
    return found


def _read_and_written(statement: ast.stmt) -> list[tuple[Set[str], Set[str]]]:
    """Return what a statement reads with what it writes of that; of `x, dx = cache, dy` one by one."""
    value = statement.value if isinstance(statement, ast.Assign) else None
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    if not isinstance(value, ast.Tuple) or not isinstance(target, ast.Tuple):
        return [(reads(statement), writes(statement))]
    several = list(zip(target.elts, value.elts, strict=False))
    plain = all(isinstance(t, ast.Name) and not isinstance(v, ast.Starred) for t, v in several)
    if len(target.elts) != len(value.elts) or not plain:
        return [(reads(statement), writes(statement))]
    return [(_named(v), _named(t)) for t, v in several]


def _named(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def given_to(statement: ast.stmt) -> ast.Call | None:
    """Return the call by which a statement hands a value to a method, the last of its arguments.

    So `xs.append(v)` and `total.index_add_(0, rows, v)` put something somewhere, as `+=` does.
    """
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not call.args:
        return None
    return None if isinstance(call.args[-1], ast.Starred) else call


def begins_anew(statement: ast.stmt, name: str) -> bool:
    """Tell whether a statement gives a variable a value that owes nothing to its old one."""
    return name in assigned(statement) and name not in reads(statement)


@lru_cache(maxsize=4096)
def calls(statement: ast.stmt) -> bool:
    """Tell whether a statement calls anything, and does not only compute with operators."""
    return any(isinstance(node, ast.Call) for node in ast.walk(statement))


@lru_cache(maxsize=4096)
def may_change_in_place(statement: ast.stmt) -> bool:
    """Tell whether a statement may change a tensor that another name holds too: copies cost more than it."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return True  # for what else would it be called?
    for node in ast.walk(statement):
        if isinstance(node, ast.AugAssign) or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and not hasattr(builtins, node.func.id)
        ):
            return True  # a function of the user's own may do anything; `len`, `range` and `slice` do not
        if isinstance(node, ast.Assign) and not all(isinstance(t, ast.Name) for t in node.targets):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr[-1] == "_":
            return True
        if isinstance(node, ast.Call) and any(k.arg == "out" for k in node.keywords):
            return True
    return False
