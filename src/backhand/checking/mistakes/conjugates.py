"""Slips of complex numbers, each as the rule that takes it back: a conjugate, a part of one."""

import ast
from collections.abc import Iterator

from torch import Tensor

from backhand.checking.mistakes.edits import Place, Proposal, Scope
from backhand.checking.mistakes.finding import Finding, instead

OF_PRODUCTS = "Of y = w * z the gradient of z is dy * w.conj(), and that of what is real is the real part."
OTHER_PART = {"real": "imag", "imag": "real"}


def conjugates_too_many(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield what stands there without its conjugate, and the other part or all of what a part is taken of."""
    node = place.node
    if place.role != "value" or not scope.sees_complex:
        return
    if isinstance(node, ast.Attribute) and node.attr in OTHER_PART:
        other = ast.Attribute(node.value, OTHER_PART[node.attr], ast.Load())
        yield other, instead(node, other, hint=OF_PRODUCTS)
        yield node.value, instead(node, node.value, f": `.{node.attr}` is taken too early", hint=OF_PRODUCTS)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "conj":
        kept = node.func.value
        yield kept, instead(node, kept, ": the conjugate is one too many", hint=OF_PRODUCTS)


def conjugates_of_names(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield the conjugate, the real and the imaginary part of a tensor of the forward, or a part of one."""
    if isinstance(place.node, ast.Name | ast.Subscript | ast.Attribute):
        names = [n.id for n in ast.walk(place.node) if isinstance(n, ast.Name)]
        if not any(map(scope.is_gradient, names)):
            yield from conjugates(place, scope)


def conjugates(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield the conjugate, the real and the imaginary part of what is complex."""
    node = place.node
    if place.role != "value" or not scope.sees_complex or not _is_complex(node, scope):
        return
    told, made = (ast.Call(ast.Attribute(node, n, ast.Load()), [], []) for n in ("conj", "conj_physical"))
    yield made, _missing(node, told, "its conjugate")  # of which `view_as_real` takes the second alone
    for part, called in (("real", "its real part"), ("imag", "its imaginary part")):
        found = ast.Attribute(node, part, ast.Load())
        yield found, _missing(node, found, called)


def _missing(node: ast.expr, mended: ast.expr, what: str) -> Finding:
    words = f"`{ast.unparse(node)}` stands where {what} belongs, `{ast.unparse(mended)}`"
    detail = {"used": ast.unparse(node), "expected": ast.unparse(mended)}
    return Finding("wrong_point", detail, words, hint=OF_PRODUCTS)


def _is_complex(node: ast.AST, scope: Scope) -> bool:
    """Tell whether an expression is a complex tensor."""
    if not isinstance(node, ast.Name | ast.BinOp | ast.Call | ast.Subscript | ast.Attribute | ast.UnaryOp):
        return False
    value = scope.value_of(node)
    return isinstance(value, Tensor) and value.is_complex()
