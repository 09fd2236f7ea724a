"""A hand-written backward cut down to the gradients that are needed, and to what these need to be given.

Only what can be told from the source is left out: a statement goes if nothing that is kept reads what it
assigns or changes. A backward that cannot be read so (it prints, asserts, returns early, is a method) stays
whole.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from backhand.checking.running.schemas import makes_its_own

STATEMENTS = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.For, ast.If, ast.With, ast.Pass)
REFUSED = (ast.NamedExpr, ast.Yield, ast.YieldFrom, ast.Await, ast.Lambda)
SEEING = frozenset(("locals", "globals", "vars", "eval", "exec", "print", "setattr"))


class Unreadable(Exception):  # noqa: N818 - it never leaves this module
    """A backward whose statements may do more than assign."""


@dataclass(frozen=True)
class Effects:
    """What a statement does to names: those it reads, surely assigns, may assign, and changes in place."""

    reads: frozenset[str]
    assigns: frozenset[str]
    may_assign: frozenset[str]
    changes: frozenset[str]


def prune(backward: Callable[..., Any], gradients: Collection[str]) -> Callable[..., Any]:
    """Return a backward that computes some of the gradients; the same function where it cannot be cut down.

    Args:
        backward: returns its gradients by name.
        gradients: the names by which those that are needed are returned.

    Returns:
        A function to be called by keyword, with those of the parameters that are still read.

    >>> from backhand.passes import layer_norm
    >>> list(inspect.signature(prune(layer_norm.backward, ["dbias"])).parameters)
    ['dy']
    """
    try:
        return _cut(backward, frozenset(gradients))
    except (Unreadable, OSError, TypeError, SyntaxError):
        return backward


def _cut(backward: Callable[..., Any], gradients: frozenset[str]) -> Callable[..., Any]:
    if not isinstance(backward, FunctionType) or backward.__closure__ or hasattr(backward, "__wrapped__"):
        raise Unreadable
    lines, first = inspect.getsourcelines(backward)
    (definition,) = ast.parse(textwrap.dedent("".join(lines))).body
    ast.increment_lineno(definition, first - 1)
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list:
        raise Unreadable
    *statements, end = definition.body
    effects = [effects_of(statement) for statement in statements]
    end, live = _end(end, gradients, frozenset[str]().union(*(e.assigns | e.may_assign for e in effects)))
    kept: list[ast.stmt] = [end]
    for statement, effect in zip(
        reversed(statements), reversed(_with_aliases(effects, statements)), strict=True
    ):
        if live & (effect.assigns | effect.may_assign | effect.changes):
            kept.insert(0, statement)
            live = (live - effect.assigns) | effect.reads | effect.changes
    return _compiled(backward, definition, kept, live)


def _compiled(
    backward: FunctionType, definition: ast.FunctionDef, body: list[ast.stmt], live: frozenset[str]
) -> Callable[..., Any]:
    """Return the function with these statements; its lines are still those of the file."""
    parameters = inspect.signature(backward).parameters.values()
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL, p.POSITIONAL_ONLY) for p in parameters):
        raise Unreadable
    wanted = [p for p in parameters if p.name in live]
    definition.args = ast.arguments(
        posonlyargs=[],
        args=[],
        kwonlyargs=[ast.arg(p.name) for p in wanted],
        kw_defaults=[None] * len(wanted),
        defaults=[],
    )
    definition.body, definition.returns = body, None
    module = ast.fix_missing_locations(ast.Module([definition], []))
    made: dict[str, Any] = {}
    exec(compile(module, backward.__code__.co_filename, "exec"), backward.__globals__, made)
    function = made[definition.name]
    function.__kwdefaults__ = {p.name: p.default for p in wanted if p.default is not p.empty}
    return function


def _end(
    end: ast.stmt, gradients: frozenset[str], assigned: frozenset[str]
) -> tuple[ast.stmt, frozenset[str]]:
    """Return the return statement with the needed gradients alone, and the names that it reads."""
    value = end.value if isinstance(end, ast.Return) else None
    if isinstance(value, ast.Dict) and all(isinstance(k, ast.Constant) for k in value.keys):
        pairs = [(k, v) for k, v in zip(value.keys, value.values, strict=True) if k.value in gradients]  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        if len(pairs) != len(gradients) or any(
            isinstance(n, REFUSED) or _changed_by(n) for v in value.values for n in ast.walk(v)
        ):
            raise Unreadable
        shorter = ast.Return(ast.Dict([k for k, _ in pairs], [v for _, v in pairs]))
        return ast.copy_location(shorter, end), frozenset().union(*(_names(v, ast.Load) for _, v in pairs))
    if isinstance(value, ast.Call) and ast.unparse(value) == "locals()" and gradients <= assigned:
        return end, gradients
    raise Unreadable


def effects_of(statement: ast.stmt) -> Effects:
    """Return what a statement does; raise where that cannot be told."""
    for node in ast.walk(statement):
        if isinstance(node, REFUSED) or (isinstance(node, ast.stmt) and not isinstance(node, STATEMENTS)):
            raise Unreadable
        if isinstance(node, ast.Name) and node.id in SEEING:
            raise Unreadable
        if isinstance(node, ast.Expr) and not _is_docstring(node) and not _changed_by(node.value):
            raise Unreadable
    changes = frozenset(name for node in ast.walk(statement) for name in _changed_by(node))
    stored = _names(statement, ast.Store)
    reads = _names(statement, ast.Load)
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        assigned = frozenset[str]().union(*(_names(target, ast.Store) for target in targets))
        return Effects(reads, assigned, frozenset(), changes)  # not what a comprehension inside it stores
    if isinstance(statement, ast.AugAssign):
        return Effects(reads | stored, frozenset(), frozenset(), changes | stored)
    return Effects(reads | stored, frozenset(), stored, changes)


def _changed_by(node: ast.AST) -> tuple[str, ...]:
    """Return the name whose tensor an expression or a statement changes in place, if it does."""
    if isinstance(node, ast.AugAssign):
        return _root(node.target)
    if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
        return _root(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        inplace = node.func.attr.endswith("_") and not node.func.attr.endswith("__")
        if inplace or node.func.attr in ("append", "extend", "insert", "pop", "reverse", "update"):
            return _root(node.func.value)
    if isinstance(node, ast.keyword) and node.arg == "out":
        return _root(node.value)
    return ()


def _root(node: ast.AST) -> tuple[str, ...]:
    """Return the name that an expression such as `dh[t].T` begins with."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    if not isinstance(node, ast.Name):
        raise Unreadable
    return (node.id,)


def _with_aliases(effects: Sequence[Effects], statements: Sequence[ast.stmt]) -> list[Effects]:
    """Return the effects, a change in place being one of every name that may stand for the same tensor."""
    groups: dict[str, set[str]] = {}
    for effect, statement in zip(effects, statements, strict=True):
        stored = effect.assigns | effect.may_assign
        for values in _assigned_values(statement):
            group = set().union(*(groups.get(n, {n}) for n in stored | _names(values, ast.Load)))
            groups |= dict.fromkeys(group, group)
    return [
        Effects(e.reads, e.assigns, e.may_assign, frozenset().union(*(groups.get(n, {n}) for n in e.changes)))
        for e in effects
    ]


def _assigned_values(statement: ast.stmt) -> Iterator[ast.AST]:
    """Yield what a statement assigns that may be a tensor which has another name already."""
    for node in ast.walk(statement):
        value = node.iter if isinstance(node, ast.For) else getattr(node, "value", None)
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.For) or value is None:
            continue
        fresh = isinstance(value, ast.BinOp | ast.Compare | ast.Constant) or (
            isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.USub)
        )
        called = value.func if isinstance(value, ast.Call) else None
        if not fresh and not makes_its_own(getattr(called, "attr", "")):
            yield value


def _names(tree: ast.AST, context: type[ast.expr_context]) -> frozenset[str]:
    return frozenset(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, context))


def _is_docstring(node: ast.Expr) -> bool:
    return isinstance(node.value, ast.Constant)
