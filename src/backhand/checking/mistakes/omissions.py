"""What a statement may lack, each as the rule that puts it in: a factor, a power, a term, an axis, a sum."""

import ast
import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from backhand.checking.mistakes.axes import sums
from backhand.checking.mistakes.edits import (
    OVERWRITTEN,
    VALUES,
    Place,
    Proposal,
    Rule,
    Scope,
    holds_tensor,
    is_whole,
)
from backhand.checking.mistakes.finding import Finding


def missing_factors(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield a tensor or a number more as a factor or divisor."""
    if not place.holds_value(scope):
        return
    held = {ast.unparse(n) for n in ast.walk(place.node) if isinstance(n, ast.Name | ast.Attribute)}
    for name in (*scope.names, *scope.parts):
        value = scope.held(name)
        tensor = holds_tensor(value) or (isinstance(value, Tensor) and value.dtype == torch.bool)
        if not tensor and (not isinstance(value, int | float) or isinstance(value, bool)):
            continue
        kind = "scale" if not tensor else "wrong_upstream" if scope.is_gradient(name) else "wrong_point"
        detail = {"used": None, "expected": name} if tensor else {"factor": None, "guess": name}
        less = f"the factor {name} is one too many" if name in held else f"a division by {name} is missing"
        for op, words in ((ast.Mult(), f"the factor {name} is missing"), (ast.Div(), less)):
            yield ast.BinOp(place.node, op, scope.expression(name)), Finding(kind, detail, words)
        if isinstance(value, Tensor) and value.is_complex():  # whose derivative is conjugated
            text = f"{name}.conj()"
            missing = Finding(kind, {"used": None, "expected": text}, f"the factor {text} is missing")
            yield ast.BinOp(place.node, ast.Mult(), scope.expression(text)), missing


def _missing_sums(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield what a gradient sums to along an axis as a factor more: a softmax has it, and its logarithm."""
    if not place.holds_value(scope):
        return
    gradients = {n: scope.held(n) for n in scope.tensors if scope.is_gradient(n)}
    for name, value in gradients.items():
        for axis in range(value.dim() if isinstance(value, Tensor) else 0):
            summed = ast.Attribute(scope.expression(name), "sum", ast.Load())
            keeping = ast.keyword(scope.dialect.keeping, ast.Constant(True))
            factor = ast.Call(summed, [ast.Constant(axis)], [keeping])
            text = ast.unparse(factor)
            detail = {"used": None, "expected": text}
            edit = Finding("wrong_upstream", detail, f"the factor {text} is missing")
            yield ast.BinOp(place.node, ast.Mult(), factor), edit


def _missing_counts(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield a whole number more as a factor or a term of another one: a stride, an offset."""
    node = place.node
    if not isinstance(node, ast.Name) or not is_whole(scope.namespace.get(node.id)):
        return
    for name in (n for n in scope.names if n != node.id and is_whole(scope.namespace.get(n))):
        for op, what in ((ast.Mult(), "factor"), (ast.Add(), "term")):
            edit = Finding("partial", {"where": node.id}, f"the {what} {name} is missing at `{node.id}`")
            yield ast.BinOp(node, op, ast.Name(name, ast.Load())), edit


def missing_complements(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield `1 - h`, `1 - h ** 2` and `h * (1 - h)` as a factor more, or the first two where a 1 stands."""
    node = place.node
    is_one = place.role == "value" and isinstance(node, ast.Constant) and node.value == 1
    if not is_one and not place.holds_value(scope):
        return
    for name, is_positive in scope.squashed(node).items():
        own = scope.expression(name)
        powers = (own, ast.BinOp(own, ast.Pow(), ast.Constant(2)))
        factors = [ast.BinOp(ast.Constant(1), ast.Sub(), power) for power in powers]
        if is_positive and not isinstance(node, ast.Constant):
            factors.append(ast.BinOp(own, ast.Mult(), factors[0]))
        for factor in factors:
            text = ast.unparse(factor)
            missing = Finding(
                "wrong_point", {"used": None, "expected": text}, f"the factor `{text}` is missing"
            )
            yield factor if isinstance(node, ast.Constant) else ast.BinOp(node, ast.Mult(), factor), missing


def upstream_factor(place: Place, scope: Scope, upstream: str) -> Iterator[Proposal]:
    """Yield a gradient as a factor more."""
    node = place.node
    if place.role != "value" or not isinstance(node, VALUES) or scope.is_one(upstream):
        return
    own = ast.Name(upstream, ast.Load())
    words = f"{upstream}, the upstream gradient, is not used"
    edit = Finding("wrong_upstream", {"used": None, "expected": upstream}, words)
    for factor in (own, ast.UnaryOp(ast.USub(), own)):
        yield ast.BinOp(node, ast.Mult(), factor), edit


def _derivatives(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield what autograd knows of this step: a local derivative as a factor, or a branch as a term."""
    if not place.holds_value(scope):
        return
    node, text = place.node, ast.unparse(place.node)
    for variable, what, branch in scope.known:
        own = ast.Name(variable, ast.Load())
        if branch is not None:
            mended = Finding(
                "missing_branch", {"branches": [branch]}, f"the branch through {branch} is missing"
            )
            yield ast.BinOp(node, ast.Add(), own), mended
            continue
        detail = {"used": None, "expected": what}
        missing = Finding("wrong_point", detail, f"{what} is missing as a factor of `{text}`")
        for factor in (own, ast.UnaryOp(ast.USub(), own)):
            yield ast.BinOp(node, ast.Mult(), factor), missing


def derivatives_instead(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield a local derivative that autograd knows in the place of an expression."""
    if not place.holds_value(scope):
        return
    text = ast.unparse(place.node)
    for variable, what, branch in scope.known:
        if branch is None:
            words = f"`{text}` stands where {what} belongs"
            finding = Finding("wrong_point", {"used": text, "expected": what}, words)
            yield ast.Name(variable, ast.Load()), finding


# Without what was there before, a sum is an assignment: of a variable that runs through a loop, say.
ADDED = Finding(
    "repeated_branch", {"branches": []}, "`+=` stands where `=` belongs: the old value stays in it"
)


def missing_terms(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield a tensor more as a term, added or taken away."""
    for name in scope.tensors if place.holds_value(scope) else ():
        if scope.is_one(name):  # such as the loss's own gradient: no term of another one
            continue
        edit = Finding("missing_branch", {"branches": []}, f"the term {name} is missing")
        edit = OVERWRITTEN if _is_assigned_to(place, name) else edit
        for op in (ast.Sub(), ast.Add()):
            kept = isinstance(op, ast.Sub) and _is_added_to(place, name)
            yield ast.BinOp(place.node, op, scope.expression(name)), ADDED if kept else edit


def missing_couplings(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield what a softmax takes away: of all that it is multiplied with, the sum along its axis.

    Where `1 - p` stands, as if each element were alone, that takes its place.
    """
    node = place.node
    for name, axis in scope.summing_to_one if place.holds_value(scope) else ():
        # `x - p * x.sum(axis, keepdim=True)`
        keeping = [ast.keyword(scope.dialect.keeping, ast.Constant(True))]
        text = f"{name} * (...).sum({axis}, {scope.dialect.keeping}=True)"
        missing = f"the term that couples the elements along axis {axis} is missing: `{text}`"
        alone = f"`1 - {name}` takes each element of a softmax for itself: {missing}"
        for product, words in ((node, missing), (_without_complement(node, name), alone)):
            if product is None:
                continue
            whole = ast.Call(ast.Attribute(product, "sum", ast.Load()), [ast.Constant(axis)], keeping)
            taken = ast.BinOp(scope.expression(name), ast.Mult(), whole)
            edit = Finding("missing_branch", {"branches": [], "axes": [axis]}, words)
            yield ast.BinOp(product, ast.Sub(), taken), edit


def _without_complement(node: ast.expr, name: str) -> ast.expr | None:
    """Return a product without its factor `1 - name`; None where it has none."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return None
    for side, other in (("left", node.right), ("right", node.left)):
        factor = getattr(node, side)
        if isinstance(factor, ast.BinOp) and ast.unparse(factor) in (f"1 - {name}", f"1.0 - {name}"):
            return other
        if (rest := _without_complement(factor, name)) is not None:
            product = copy.copy(node)
            setattr(product, side, rest)
            return product
    return None


def _is_assigned_to(place: Place, name: str) -> bool:
    """Tell whether an expression is all that is assigned to what it lacks."""
    statement = place.parent
    return isinstance(statement, ast.Assign) and name in map(ast.unparse, statement.targets)


def _is_added_to(place: Place, name: str) -> bool:
    """Tell whether a place is all that a statement adds to a variable."""
    statement = place.parent
    if not isinstance(statement, ast.AugAssign) or not isinstance(statement.op, ast.Add):
        return False
    return place.slot == "value" and ast.unparse(statement.target) == name


def _missing_numbers(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield sums with a constant of the forward, such as an epsilon."""
    node = place.node
    if place.role != "value" or not isinstance(node, VALUES):
        return
    text = ast.unparse(node)
    for number in scope.numbers:
        detail = {"used": text, "expected": f"{text} + {number}"}
        edit = Finding("wrong_point", detail, f"`{text}` lacks the {number} that the forward adds")
        yield ast.BinOp(node, ast.Add(), ast.Constant(number)), edit


def _powers(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield powers of a tensor: what was brought down or left out may be a power of it."""
    if not place.holds_value(scope):
        return
    node, text = place.node, ast.unparse(place.node)
    times = isinstance(place.parent, ast.BinOp) and isinstance(place.parent.op, ast.Mult)
    for k in (2, -1, -2, 0.5, -0.5, 3, -1.5):
        divides = times and k == -1
        words = (
            f"`{text}` multiplies where it should divide" if divides else f"a power of `{text}` is missing"
        )
        edit = Finding("wrong_point", {"used": text, "expected": None}, words)
        yield ast.BinOp(node, ast.Pow(), ast.Constant(k)), edit


# In this order: the first rule that mends the gradient names the mistake.
OF_WHAT_IS_MISSING: tuple[Rule, ...] = (
    missing_factors,
    _missing_counts,
    _powers,
    _missing_numbers,
    _derivatives,
    sums,
    missing_complements,
    missing_terms,
    _missing_sums,
)
