"""Right backwards that look different: other orders, other associations, other loops, other dtypes."""

import ast
import copy
import types
from collections.abc import Iterator
from typing import Any

import torch
from patterns import expression, filled, matched, statements
from reading import blocks, read_by, written_by
from subject import Subject
from torch import Tensor

Rewrite = tuple[str, types.ModuleType, Any]

EXPRESSIONS = (
    ("commuted", "_a + _b", "_b + _a"),
    ("commuted", "_a * _b", "_b * _a"),
    ("added negative", "_a - _b", "_a + -_b"),
    ("times inverse", "_a / _b", "_a * (1.0 / _b)"),
    ("reassociated", "_a * _b * _c", "_a * (_b * _c)"),
    ("product of transposes", "_a @ _b", "(_b.mT @ _a.mT).mT"),
    ("square as product", "_a ** 2", "_a * _a"),
    ("factored", "1 - _a ** 2", "(1 - _a) * (1 + _a)"),
    ("sum as einsum", "_a.sum(0)", "torch.ones(_a.shape[0]) @ _a"),
    ("outer as product", "torch.outer(_a, _b)", "_a[:, None] * _b"),
    ("counted down", "reversed(range(_n))", "range(_n - 1, -1, -1)"),
    ("turned list", "reversed(range(_n))", "list(range(_n))[::-1]"),
    ("turned list", "range(_n - 1, -1, -1)", "reversed(range(_n))"),
    ("flipped", "range(_n)[::-1]", "reversed(range(_n))"),
)

STATEMENTS = (
    ("out of place", "_o += _v", "_o = _o + _v"),
    ("in two steps", "_o = _v", "temporary = _v\n_o = temporary"),
    ("a clone more", "_o = _v", "_o = (_v).clone()"),
    ("left named", "_o = _a * _b", "left = _a\n_o = left * _b"),
    ("left named", "_o += _a @ _b", "left = _a\n_o += left @ _b"),
    ("first term named", "_o = _a + _b", "first = _a\nsecond = _b\n_o = first + second"),
    ("term named", "_o += _v", "more = _v\n_o += more"),
    ("in place", "_o = _a + _b", "_o = (_a).clone()\n_o += _b"),
    ("item named", "_t[t] = _v", "item = _v\n_t[t] = item"),
    ("item added", "_t[t] = _v", "_t[t] += _v"),
)


def rewrites(subject: Subject) -> Iterator[Rewrite]:
    """Yield rewrites of a pass that should be right: a label, the module, and the inputs to check it with."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for seed in range(2):
            drawn = subject.module.inputs(torch.Generator().manual_seed(seed))
            yield f"{dtype} {seed}", subject.module, _as(drawn, dtype)
    for block in list(blocks(subject.body())):
        for i, statement in enumerate(list(block)):
            for label, changed in _statements(statement, subject):
                block[i : i + 1] = changed
                yield label, subject.compiled()[0], None
                block[i : i + len(changed)] = [statement]
        for i in range(len(block) - 1):
            if _independent(block[i], block[i + 1]):
                block[i], block[i + 1] = block[i + 1], block[i]
                yield "other order", subject.compiled()[0], None
                block[i], block[i + 1] = block[i + 1], block[i]
    for name in subject.own:
        if name not in subject.gradients:
            yield "renamed", _renamed(subject, name), None


def _as(drawn: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in drawn.items()
    }


def _statements(s: ast.stmt, subject: Subject) -> Iterator[tuple[str, list[ast.stmt]]]:
    for label, pattern, template in STATEMENTS:
        bound = matched(statements(pattern)[0], s, subject.fits)
        if bound is not None:
            yield label, [filled(each, bound) for each in statements(template)]
    if isinstance(s, ast.For) and (looped := _as_while(s, subject)):
        yield "while loop", looped
    slot = "iter" if isinstance(s, ast.For) else "value"
    if not isinstance(s, ast.Assign | ast.AugAssign | ast.For):
        return
    for i, node in enumerate(list(ast.walk(getattr(s, slot)))):
        for label, pattern, template in EXPRESSIONS:
            bound = matched(expression(pattern), node, subject.fits)
            if bound is not None:
                changed = copy.deepcopy(s)
                old = list(ast.walk(getattr(changed, slot)))[i]
                yield label, [_Replace(old, filled(expression(template), bound)).visit(changed)]


def _as_while(s: ast.For, subject: Subject) -> list[ast.stmt] | None:
    """Return a loop back in time as one that counts by itself."""
    bound = matched(expression("reversed(range(_n))"), s.iter, subject.fits)
    if bound is None or any(isinstance(n, ast.Continue) for n in ast.walk(s)):
        return None
    bound["_t"] = s.target
    before = [filled(each, bound) for each in statements("_t = _n - 1")]
    after = [filled(each, bound) for each in statements("_t -= 1")]
    return [*before, ast.While(filled(expression("_t >= 0"), bound), [*copy.deepcopy(s.body), *after], [])]


def _renamed(subject: Subject, name: str) -> types.ModuleType:
    """Return the pass with one of the backward's own variables under another name."""
    tree = copy.deepcopy(subject.tree)
    backward = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "backward")
    for node in ast.walk(backward):
        if isinstance(node, ast.Name) and node.id == name:
            node.id = "carried_along"
    return subject.compiled(tree)[0]


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _independent(a: ast.stmt, b: ast.stmt) -> bool:
    if not all(isinstance(s, ast.Assign | ast.AugAssign) for s in (a, b)):
        return False
    return not written_by(a) & (read_by(b) | written_by(b)) and not written_by(b) & read_by(a)
