"""Right backwards that look different: other orders, other associations, other dtypes."""

import ast
import copy
import types
from collections.abc import Iterator
from typing import Any

import torch
from mutating import Subject, names_in, written_by
from torch import Tensor

Rewrite = tuple[str, types.ModuleType, Any]


def rewrites(subject: Subject) -> Iterator[Rewrite]:
    """Yield right rewrites of a pass: a label, the module, and the inputs to check it with."""
    for label, dtype in (
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ):
        for seed in range(2):
            drawn = subject.module.inputs(torch.Generator().manual_seed(seed))
            yield f"{label} {seed}", subject.module, _as(drawn, dtype)
    block = subject.body()
    for i, statement in enumerate(list(block)):
        for label, changed in _statements(statement):
            block[i : i + 1] = changed
            yield label, subject.compiled(), None
            block[i : i + len(changed)] = [statement]
    for i in range(len(block) - 2):
        if _independent(block[i], block[i + 1]):
            block[i], block[i + 1] = block[i + 1], block[i]
            yield "other order", subject.compiled(), None
            block[i], block[i + 1] = block[i + 1], block[i]


def _as(drawn: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in drawn.items()
    }


def _statements(s: ast.stmt) -> Iterator[tuple[str, list[ast.stmt]]]:
    if not isinstance(s, ast.Assign | ast.AugAssign) or not isinstance(getattr(s, "value", None), ast.expr):
        return
    for i, node in enumerate(list(ast.walk(s.value))):
        for label, new in _expressions(node):
            changed = copy.deepcopy(s)
            target = list(ast.walk(changed.value))[i]
            yield label, [_replaced(changed, target, new)]
    if isinstance(s, ast.AugAssign) and isinstance(s.target, ast.Name):
        sum_ = ast.BinOp(ast.Name(s.target.id, ast.Load()), s.op, s.value)
        yield "out of place", [ast.Assign([s.target], sum_)]
    if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name):
        temporary = ast.Assign([ast.Name("temporary", ast.Store())], s.value)
        yield "in two steps", [temporary, ast.Assign(s.targets, ast.Name("temporary", ast.Load()))]


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _replaced(statement: ast.stmt, old: ast.AST, new: ast.expr) -> ast.stmt:
    return _Replace(old, copy.deepcopy(new)).visit(statement)


def _expressions(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    if not isinstance(node, ast.BinOp):
        return
    left, right = node.left, node.right
    if isinstance(node.op, ast.Add | ast.Mult):
        yield "commuted", ast.BinOp(right, node.op, left)
    if isinstance(node.op, ast.Sub):
        yield "added negative", ast.BinOp(left, ast.Add(), ast.UnaryOp(ast.USub(), right))
    if isinstance(node.op, ast.Div):
        yield "times inverse", ast.BinOp(left, ast.Mult(), ast.BinOp(ast.Constant(1.0), ast.Div(), right))
    if isinstance(node.op, ast.Mult) and isinstance(left, ast.BinOp) and isinstance(left.op, ast.Mult):
        yield "reassociated", ast.BinOp(left.left, ast.Mult(), ast.BinOp(left.right, ast.Mult(), right))
    if isinstance(node.op, ast.MatMult):
        yield (
            "einsum of two",
            ast.Attribute(
                ast.BinOp(
                    ast.Attribute(right, "mT", ast.Load()),
                    ast.MatMult(),
                    ast.Attribute(left, "mT", ast.Load()),
                ),
                "mT",
                ast.Load(),
            ),
        )


def _independent(a: ast.stmt, b: ast.stmt) -> bool:
    if not isinstance(a, ast.Assign) or not isinstance(b, ast.Assign):
        return False
    return not written_by(a) & (names_in(b) | written_by(b)) and not written_by(b) & names_in(a)
