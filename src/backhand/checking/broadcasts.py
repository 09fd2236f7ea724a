"""The shape that an expression has, as far as its text and the shapes of its names tell it."""

import ast
from collections.abc import Mapping
from types import MappingProxyType

import torch

# By name, or by the text of an expression.
Shapes = Mapping[str, tuple[int, ...]]
UNKNOWN: Shapes = MappingProxyType({})
# What these make has the shape of what they are given.
ELEMENTWISE = frozenset(
    {"tanh", "sigmoid", "exp", "expm1", "log", "log1p", "sin", "cos", "abs", "relu", "clamp", "softplus"}
    | {"silu", "square", "sqrt", "rsqrt", "reciprocal", "softmax", "log_softmax", "clone", "contiguous"}
)
BROADCASTING = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)


def shape_of(node: ast.expr, shapes: Shapes) -> tuple[int, ...] | None:
    """Return the shape of an expression, or None where its text does not tell it.

    >>> shape_of(ast.parse("(x @ W + b).tanh()", mode="eval").body, {"x": (5, 3), "W": (3, 4), "b": (4,)})
    (5, 4)
    """
    known = shapes.get(ast.unparse(node))  # of a name, or of a part of a line that was run
    if known is not None or isinstance(node, ast.Name):
        return known
    if isinstance(node, ast.Constant):
        return ()
    if isinstance(node, ast.UnaryOp):
        return shape_of(node.operand, shapes)
    if isinstance(node, ast.BinOp):
        return _of_two(node, shapes)
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        method = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in ("torch", "F")
        given = [node.func.value] if method and isinstance(node.func, ast.Attribute) else node.args[:1]
        return shape_of(given[0], shapes) if called in ELEMENTWISE and given else None
    return None


def _of_two(node: ast.BinOp, shapes: Shapes) -> tuple[int, ...] | None:
    left, right = shape_of(node.left, shapes), shape_of(node.right, shapes)
    if left is None or right is None:
        return None
    try:
        if isinstance(node.op, BROADCASTING):
            return tuple(torch.broadcast_shapes(left, right))
        if isinstance(node.op, ast.MatMult) and len(left) >= 2 and len(right) >= 2:
            return (*torch.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])
    except RuntimeError:  # they do not fit
        return None
    return None


def axes_of_broadcast(own: tuple[int, ...], whole: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes of a result along which one of its operands was repeated.

    >>> axes_of_broadcast((1, 4), (2, 5, 4))
    (0, 1)
    """
    padded = (1,) * (len(whole) - len(own)) + own
    added = len(whole) - len(own)
    return tuple(i for i, (a, b) in enumerate(zip(padded, whole, strict=True)) if i < added or a != b)
