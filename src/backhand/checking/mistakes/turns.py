"""Slips in the head of a loop: a turn that is left out or one too many, time that runs the wrong way."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace

from backhand.checking.mistakes.budget import Budget
from backhand.checking.mistakes.edits import Edit, Place
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.workbench import Focus, Program

Loop = ast.For | ast.While


def by_turns(program: Program, budget: Budget) -> tuple[Finding | None, Budget]:
    """Find a loop that begins or ends a turn off, and tell it as it stands in the program's copy."""
    return _by_heads(program, budget, _a_turn_off)


def by_direction(program: Program, budget: Budget) -> tuple[Finding | None, Budget]:
    """Find a loop that goes the wrong way. To turn it round may make up for other slips: those come first."""
    return _by_heads(program, budget, _the_wrong_way)


def _by_heads(
    program: Program, budget: Budget, heads: Callable[[Loop], Iterator[Edit]]
) -> tuple[Finding | None, Budget]:
    loops = [n for n in ast.walk(program.block) if isinstance(n, Loop)]
    for loop in loops if loops and not program.is_right else ():
        edit, budget = Focus.on(program, loop).first_right(heads(loop), budget)
        if edit is not None:
            return replace(edit.mends, at=(loop,)), budget
    return None, budget


def _a_turn_off(loop: Loop) -> Iterator[Edit]:
    head = loop.iter if isinstance(loop, ast.For) else loop.test
    for place in _bounds(head):
        for node in _a_turn_away(place.node):
            stands, belongs = ast.unparse(place.node), ast.unparse(node)
            words = f"the loop begins or ends a turn off: in `{ast.unparse(head)}`, `{stands}` stands where "
            yield Edit(place, node, Finding("partial", {"where": stands}, f"{words}`{belongs}` belongs"))


def _the_wrong_way(loop: Loop) -> Iterator[Edit]:
    if isinstance(loop, ast.While):
        return
    for node in _the_other_way(loop.iter):
        stands, belongs = ast.unparse(loop.iter), ast.unparse(node)
        words = f"the loop goes the wrong way: `{stands}` stands where `{belongs}` belongs"
        mended = Finding("wrong_upstream", {"used": stands, "expected": belongs}, words)
        yield Edit(Place(loop, "iter", None, loop.iter), node, mended)


def _bounds(head: ast.expr) -> Iterator[Place]:
    """Yield the numbers from which and up to which a loop counts."""
    for node in ast.walk(head):
        if _is_range(node):
            assert isinstance(node, ast.Call)
            yield from (Place(node, "args", i, bound) for i, bound in enumerate(node.args[:2]))
        if isinstance(node, ast.Compare):
            yield from (Place(node, "comparators", i, bound) for i, bound in enumerate(node.comparators))


def _a_turn_away(bound: ast.expr) -> Iterator[ast.expr]:
    """Yield a bound with one more and one less, first the shorter: of `n - 1` these are `n` and `n - 2`."""
    try:
        number = ast.literal_eval(bound)
    except ValueError:
        last = bound.right if isinstance(bound, ast.BinOp) else None
        if isinstance(bound, ast.BinOp) and isinstance(last, ast.Constant) and last.value == 1:
            yield bound.left
            yield ast.BinOp(bound.left, bound.op, ast.Constant(2))
        else:
            yield from (ast.BinOp(bound, op, ast.Constant(1)) for op in (ast.Add(), ast.Sub()))
    else:
        yield from (ast.Constant(number + step) for step in (1, -1) if isinstance(number, int))


def _the_other_way(head: ast.expr) -> Iterator[ast.expr]:
    if isinstance(head, ast.Call) and getattr(head.func, "id", "") == "reversed" and len(head.args) == 1:
        yield head.args[0]
    elif _is_range(head):
        yield ast.Call(ast.Name("reversed", ast.Load()), [head], [])


def _is_range(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "range" and bool(node.args)
