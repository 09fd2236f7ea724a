"""Code with blanks, as a pattern to match and a template to fill: `_a.sum(___)` becomes `_a.mean(___)`.

A name with one underscore is a blank for any expression; the same blank twice is the same expression twice.
Some blanks mean something: `_g` and `_h` are names of gradients, `_o` is any tensor that the backward makes,
`_m` anything but a gradient's name, `_x` a tensor of the forward (or an item of a list of them). `___` stands
for all arguments of a call.
"""

import ast
import copy
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

Bound = dict[str, Any]
REST = "___"
_IRRELEVANT = {"ctx", "type_comment", "kind", "type_ignores"}


@cache
def expression(text: str) -> ast.expr:
    """Return a pattern or template of an expression."""
    return ast.parse(text, mode="eval").body


@cache
def statements(text: str) -> tuple[ast.stmt, ...]:
    """Return a pattern or template of statements; an empty one is `pass`."""
    return tuple(ast.parse(text or "pass").body)


def matched(pattern: ast.AST, node: ast.AST, fits: Mapping[str, Callable[[ast.AST], bool]]) -> Bound | None:
    """Return what the blanks of a pattern stand for in a node, or None where it does not match."""
    bound: Bound = {}
    return bound if _match(pattern, node, fits, bound) else None


def _match(pattern: Any, node: Any, fits: Mapping[str, Callable[[ast.AST], bool]], bound: Bound) -> bool:
    if isinstance(pattern, ast.Name) and pattern.id.startswith("_"):
        return _bind(pattern.id, node, fits, bound)
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, list):
        return len(pattern) == len(node) and all(
            _match(p, n, fits, bound) for p, n in zip(pattern, node, strict=True)
        )
    if not isinstance(pattern, ast.AST):
        return pattern == node
    if isinstance(pattern, ast.Call) and _takes_the_rest(pattern):
        bound[REST] = (node.args, node.keywords)
        return _match(pattern.func, node.func, fits, bound)
    return all(
        _match(getattr(pattern, field), getattr(node, field), fits, bound)
        for field in pattern._fields
        if field not in _IRRELEVANT
    )


def _bind(blank: str, node: ast.AST, fits: Mapping[str, Callable[[ast.AST], bool]], bound: Bound) -> bool:
    if not isinstance(node, ast.expr) or (blank in fits and not fits[blank](node)):
        return False
    known = bound.setdefault(blank, node)
    return known is node or ast.unparse(known) == ast.unparse(node)


def _takes_the_rest(call: ast.Call) -> bool:
    return len(call.args) == 1 and isinstance(call.args[0], ast.Name) and call.args[0].id == REST


class _Fill(ast.NodeTransformer):
    def __init__(self, bound: Bound):
        self.bound = bound

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return copy.deepcopy(self.bound.get(node.id, node))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not _takes_the_rest(node):
            return self.generic_visit(node)
        args, keywords = copy.deepcopy(self.bound[REST])
        return ast.Call(self.visit(node.func), args, keywords)


def filled(template: ast.AST, bound: Bound) -> Any:
    """Return a template with its blanks filled."""
    return _Fill(bound).visit(copy.deepcopy(template))
