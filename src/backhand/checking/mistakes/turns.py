"""Slips in the order in which statements run: a loop's head, or a line that stands too late."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace

from backhand.checking.mistakes.budget import Budget
from backhand.checking.mistakes.edits import Edit, Place
from backhand.checking.mistakes.finding import Finding
from backhand.checking.mistakes.solving import first_right
from backhand.checking.mistakes.workbench import Focus, Program
from backhand.checking.running.statements import reads, root_of, writes

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
        edit, budget = first_right(Focus.on(program, loop), heads(loop), budget)
        if edit is not None:
            return replace(edit.mends, at=(loop,)), budget
    return None, budget


def by_order(program: Program, budget: Budget) -> tuple[Finding | None, Budget]:
    """Find a line that adds to a variable when another one has read it already."""
    blocks = [n for n in ast.walk(program.block) if isinstance(n, ast.Module | Loop)]
    late = [(block, s) for block in blocks for s in block.body if isinstance(s, ast.AugAssign)]
    for block, statement in late:
        edit, budget = first_right(Focus.on(program, statement), _sooner(block, statement), budget)
        if edit is not None:
            at = (program.originals.get(s) for s in (*edit.mends.at, statement))
            return replace(edit.mends, at=tuple(s for s in at if s is not None)), budget
    return None, budget


def _sooner(block: ast.Module | Loop, late: ast.AugAssign) -> Iterator[Edit]:
    """Yield the edits that put a line before one that reads what it adds to."""
    name, body = root_of(late.target), block.body
    end = body.index(late)
    for i in range(end - 1, -1, -1):
        if name in writes(body[i]):
            return
        if name in reads(body[i]):
            added, read = (ast.unparse(s).splitlines()[0] for s in (late, body[i]))
            words = f"`{added}` stands below `{read}`, which reads {name} before it is complete"
            sooner = [*body[:i], late, *body[i:end], *body[end + 1 :]]
            found = Finding("missing_branch", {"branches": []}, words, at=(body[i],))
            yield Edit(Place(block, "body", None, body), sooner, found)


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
