"""A function's statements as they ran: those of the blocks that were entered, without their heads.

Nearly every backward of a custom Function stands under `if ctx.needs_input_grad[0]:` or in
`with torch.no_grad():`, where nothing is decided by what it computes. What stands in no block can be looked
at line by line.
"""

import ast
import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from backhand.checking.running.program import Source
from backhand.checking.running.statements import simple_statements

# What a test may call, for it tells what a tensor is like, and not what it holds; a tensor's `max` does not.
ASKS = {"isinstance", "len", "hasattr", "getattr", "dim", "ndimension", "size", "numel", "get"}
ASKS |= {"is_contiguous", "is_floating_point", "is_complex", "is_sparse"}
# Under these, nothing is done otherwise where no graph is made.
PLAIN = {"torch.no_grad()", "no_grad()", "torch.set_grad_enabled(False)"}


def straight(source: Source, ran: Collection[ast.stmt], variables: Mapping[str, Any]) -> Source:
    """Return a source with the blocks that were entered in the place of what decides on them.

    Not those of loops, and not where a tensor's numbers decide.

    Args:
        source: of a function.
        ran: those of its simple statements that ran.
        variables: what they held at the end.
    """
    if source.definition is None:
        return source
    body = list(_entered(source.statements, ran, variables))
    if body == list(source.statements) or not body:
        return source
    definition = copy.copy(source.definition)
    definition.body = body
    return replace(source, statements=tuple(body), definition=definition)


def _entered(
    block: Collection[ast.stmt], ran: Collection[ast.stmt], variables: Mapping[str, Any]
) -> Iterator[ast.stmt]:
    for statement in block:
        inner = _inner(statement, ran, variables)
        last = None
        for last in [statement] if inner is None else _entered(inner, ran, variables):
            yield last
        if isinstance(last, ast.Return):
            return


def _inner(
    statement: ast.stmt, ran: Collection[ast.stmt], variables: Mapping[str, Any]
) -> list[ast.stmt] | None:
    """Return the block of a statement that stands for it; None where it stands for itself."""
    if isinstance(statement, ast.With):
        managers = [ast.unparse(item.context_expr) for item in statement.items]
        return statement.body if PLAIN.issuperset(managers) else None
    if not isinstance(statement, ast.If) or not _asks_no_numbers(statement.test, variables):
        return None
    entered = [b for b in (statement.body, statement.orelse) if any(s in ran for s in simple_statements(b))]
    if len(entered) == 1:
        return entered[0]
    # what raised before it was seen has not run either
    return None if entered or (not statement.orelse and _may_raise(statement.body)) else statement.orelse


def _may_raise(block: list[ast.stmt]) -> bool:
    return any(isinstance(s, ast.Raise | ast.Assert) for s in block)


def _asks_no_numbers(test: ast.expr, variables: Mapping[str, Any]) -> bool:
    """Tell whether a test asks what tensors are like, or what is no tensor at all."""
    if isinstance(test, ast.Attribute | ast.Constant):
        return True
    if isinstance(test, ast.Name):
        return not isinstance(variables.get(test.id), Tensor)
    if isinstance(test, ast.Compare) and all(isinstance(op, ast.Is | ast.IsNot) for op in test.ops):
        return True
    if isinstance(test, ast.Call):
        called = test.func.attr if isinstance(test.func, ast.Attribute) else ast.unparse(test.func)
        if ast.unparse(test.func) in ("max", "min"):  # of sizes, say
            return all(_asks_no_numbers(given, variables) for given in test.args)
        return called in ASKS
    inner = [node for node in ast.iter_child_nodes(test) if isinstance(node, ast.expr)]
    return bool(inner) and all(_asks_no_numbers(node, variables) for node in inner)
