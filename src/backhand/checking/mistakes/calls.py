"""Slips in what is called, each as the rule that takes it back: in place, no copy, written over."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

from backhand.checking.mistakes.edits import VALUES, Place, Proposal, Scope, holds_tensor
from backhand.checking.mistakes.finding import Finding, instead
from backhand.checking.running.statements import root_of

# What a sum must not begin with, and why not.
BEGUN = {
    "ones": "the term `{}` is one too many: it begins with ones, not zeros",
    "empty": "`{}` begins with whatever lies in memory, not with zeros",
}
ACCUMULATING = {"copy_": "add_", "scatter_": "scatter_add_", "index_copy_": "index_add_"}


def copies(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield a copy of what is changed in place later, though it shares its memory."""
    if place.role == "value" and isinstance(place.node, VALUES):
        words = f"`{ast.unparse(place.node)}` shares its memory: a copy is needed"
        copied = ast.Attribute(place.node, scope.dialect.copying, ast.Load())
        yield ast.Call(copied, [], []), Finding("aliased", {"with": ""}, words)


def not_in_place(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield the operation that makes a new tensor where this one writes into what others read."""
    node = place.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    called, held = node.func.attr, scope.namespace.get(root_of(node) or "")
    if called.endswith("_") and called[0] != "_" and (holds_tensor(held) or isinstance(held, list | dict)):
        changed = ast.unparse(node.func.value)
        words = f"`{ast.unparse(node)}` changes {changed} in place, where a new tensor belongs"
        new = ast.Call(ast.Attribute(node.func.value, called[:-1], ast.Load()), node.args, node.keywords)
        yield new, Finding("modifies_input", {"argument": changed}, words)


def beginnings(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield zeros where a sum begins with something else, and the tensor where its like stands."""
    node = place.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    if node.func.attr in ("ones_like", "zeros_like") and node.args:
        graded = any(scope.is_gradient(n.id) for n in ast.walk(node.args[0]) if isinstance(n, ast.Name))
        mended = instead(node, node.args[0], kind="wrong_upstream" if graded else "wrong_point")
        is_zero = node.func.attr == "zeros_like"
        yield node.args[0], replace(mended, kind="zero", detail={}) if is_zero else mended
    begun = next((what for what in BEGUN if what in node.func.attr), None)
    if begun is not None:
        zeros = ast.Attribute(node.func.value, node.func.attr.replace(begun, "zeros"), ast.Load())
        mended = Finding("repeated_branch", {"branches": []}, BEGUN[begun].format(ast.unparse(node)))
        yield ast.Call(zeros, node.args, node.keywords), mended


def accumulations(place: Place, _: Scope) -> Iterator[Proposal]:
    """Yield calls in place that add where this one writes over what is there."""
    node = place.node
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ACCUMULATING:
        adding = ast.Attribute(node.func.value, ACCUMULATING[node.func.attr], ast.Load())
        words = f"{node.func.attr} writes over what is there, where {adding.attr} belongs"
        yield ast.Call(adding, node.args, node.keywords), Finding("overwritten", {}, words)


def moved_factors(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield a factor within a call where it stands outside, and the other way round: `f(dy * sin)`."""
    node = place.node
    if place.role != "value":
        return
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for called, factor in ((node.left, node.right), (node.right, node.left)):
            argument = _argument(called, scope)
            if argument is not None:
                within = ast.BinOp(argument, ast.Mult(), factor)
                yield _moved(node, _called_on(called, within, scope), factor)
    argument = _argument(node, scope)
    if isinstance(argument, ast.BinOp) and isinstance(argument.op, ast.Mult):
        for kept, factor in ((argument.left, argument.right), (argument.right, argument.left)):
            outside = ast.BinOp(_called_on(node, kept, scope), ast.Mult(), factor)
            yield _moved(node, outside, factor)


def _moved(node: ast.expr, mended: ast.expr, factor: ast.expr) -> Proposal:
    return mended, instead(node, mended, f": `{ast.unparse(factor)}` is on the wrong side of the call")


def dropped_calls(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield what a method is called on, or a function of one argument: a mask that is left in."""
    node = place.node
    argument = _argument(node, scope) if place.role == "value" else None
    if argument is not None and isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        yield argument, instead(node, argument, f": {name} is one too many")


def exchanged_calls(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield `g(f(x))` for `f(g(x))`: backwards are called in the opposite order of their forwards."""
    outer = place.node
    if place.role != "value" or not isinstance(outer, ast.Call) or len(outer.args) != 1:
        return
    (inner,) = outer.args
    if isinstance(inner, ast.Call) and len(inner.args) == 1 and not outer.keywords and not inner.keywords:
        first, second = ast.unparse(inner.func), ast.unparse(outer.func)
        mended = ast.Call(inner.func, [ast.Call(outer.func, inner.args, [])], [])
        words = f"`{first}` is called before `{second}`, and belongs after it"
        hint = "What comes last in the forward comes first in the backward."
        yield mended, Finding("swapped", {"with": first}, words, hint=hint)


def _argument(node: ast.AST, scope: Scope) -> ast.expr | None:
    """Return the tensor that a call is made of: what its method is called on, or its first argument."""
    if not isinstance(node, ast.Call):
        return None
    if _is_method(node, scope):
        return node.func.value if isinstance(node.func, ast.Attribute) else None
    return node.args[0] if node.args and isinstance(node.args[0], VALUES) else None


def _called_on(node: ast.expr, argument: ast.expr, scope: Scope) -> ast.expr:
    """Return a call that is made of another tensor."""
    assert isinstance(node, ast.Call)
    if _is_method(node, scope) and isinstance(node.func, ast.Attribute):
        return ast.Call(ast.Attribute(argument, node.func.attr, ast.Load()), node.args, node.keywords)
    return ast.Call(node.func, [argument, *node.args[1:]], node.keywords)


def _is_method(node: ast.Call, scope: Scope) -> bool:
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    held = scope.namespace.get(owner.id) if isinstance(owner, ast.Name) else None
    return owner is not None and not isinstance(held, ModuleType)
