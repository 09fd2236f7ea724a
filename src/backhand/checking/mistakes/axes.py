"""Slips of axes, each as the rule that takes it back: a sum, a transpose, a shape, a slice."""

import ast
import itertools
from collections.abc import Iterator
from dataclasses import replace

from backhand.checking.mistakes.dialects import Reduction
from backhand.checking.mistakes.edits import Place, Proposal, Scope, holds_tensor
from backhand.checking.mistakes.finding import Finding, instead
from backhand.checking.running.inlining import CALLED

REDUCTIONS = {"sum": "mean", "mean": "sum"}
KEEPING = {*REDUCTIONS, "max", "min", "amax", "amin", "argmax", "argmin", "prod", "norm", "var", "std"}
OF_PAIRS = "A slice beside an index takes all of its columns in each row; two indices go in pairs."
RESHAPING = {"unsqueeze", "squeeze", "expand", "view", "reshape", "flatten", "permute", "transpose"}
FLATTENING = {"flatten", "ravel", "view", "reshape"}
NO_SHAPES = {"expected": None, "got": None}


def keepdims(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield reductions that keep their axis where this one loses it, or the other way round."""
    node, keeping = place.node, scope.dialect.keeping
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    keep = next((k for k in node.keywords if k.arg == keeping), None)
    if keep is None and node.func.attr not in KEEPING:
        return
    rest = [k for k in node.keywords if k is not keep]
    flipped = [ast.keyword(keeping, ast.Constant(True))] if keep is None else []
    words = f"{keeping} is lost or too many"
    if place.role == "index":
        words = f"the index `{ast.unparse(node)}` has an axis too many or too few: beside another index"
        words += " it reaches every pair of the two"
    yield ast.Call(node.func, node.args, rest + flipped), Finding("shape", NO_SHAPES, words)


def other_axes(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield sums and means over other axes, or none."""
    found = Reduction.of(place.node)
    if found is None or found.name not in REDUCTIONS:
        return
    mended = Finding("overreduced", {"axes": []}, "summed or averaged where nothing should be")
    yield found.operand, mended
    other = REDUCTIONS[found.name]
    words = f"{found.name} where a {other} belongs"
    yield replace(found, name=other).call(), Finding("scale", {"factor": None, "guess": "1/n"}, words)
    keepers = [[], [ast.keyword(scope.dialect.keeping, ast.Constant(True))]]
    shape = scope.shape_of(found.operand)
    for axis in _some_axes(3 if shape is None else len(shape)):
        for kept in keepers:
            mended = Finding("overreduced", {"axes": [axis]}, f"summed over the wrong axis, not over {axis}")
            where = ast.parse(repr(axis), mode="eval").body
            yield found.over(where, kept), mended


def _some_axes(dims: int) -> Iterator[int | tuple[int, ...]]:
    """Yield the axes over which a sum of so many may go, but for all of them: one, or several."""
    yield from (*range(dims), -1)
    for count in range(2, dims):
        yield from itertools.combinations(range(dims), count)


def products(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield matrix products where a matrix is multiplied by another, or a vector, element by element."""
    node = place.node
    if place.role == "value" and isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        shapes = [scope.shape_of(side) for side in (node.left, node.right)]
        if all(shapes) and any(shape is not None and len(shape) > 1 for shape in shapes):
            words = f"`{ast.unparse(node)}` multiplies element by element, {shapes[0]} by {shapes[1]},"
            mended = Finding("product", {}, f"{words} where the matrix product `@` belongs")
            yield ast.BinOp(node.left, ast.MatMult(), node.right), mended


def transposes(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield operands transposed, or in the other order."""
    node, turned = place.node, scope.dialect.transposed
    edit = Finding("transposed", {}, "an operand is transposed, or in the other order")
    if place.role == "index":  # what is asked for its size is no operand
        return
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield node.value, edit
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("transpose", "t")
    ):
        yield node.func.value, edit
    elif isinstance(node, ast.Name) and holds_tensor(scope.namespace.get(node.id)):
        yield ast.Attribute(node, turned, ast.Load()), edit
        for axes in itertools.combinations(range(min(4, scope.namespace[node.id].dim())), 2):
            yield scope.dialect.exchanged(node, axes), edit
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield ast.BinOp(node.right, ast.MatMult(), node.left), edit
        yield ast.Attribute(node, turned, ast.Load()), edit
        yield ast.BinOp(ast.Attribute(node.left, turned, ast.Load()), ast.MatMult(), node.right), edit
        yield ast.BinOp(node.left, ast.MatMult(), ast.Attribute(node.right, turned, ast.Load())), edit
    elif isinstance(node, ast.Call):
        yield ast.Attribute(node, turned, ast.Load()), edit
        if isinstance(node.func, ast.Attribute) and node.func.attr == "dot" and len(node.args) == 1:
            yield ast.BinOp(node.args[0], ast.MatMult(), node.func.value), edit
        for arguments in _neighbours_exchanged(node.args):
            yield ast.Call(node.func, arguments, node.keywords), _disordered(node)
    elif isinstance(node, ast.Tuple) and hasattr(node, CALLED):
        for arguments in _neighbours_exchanged(node.elts):
            yield ast.Tuple(arguments, ast.Load()), _disordered(getattr(node, CALLED))


def _disordered(call: ast.Call) -> Finding:
    words = f"two arguments of `{ast.unparse(call.func)}` are in the other order"
    return Finding("transposed", {}, words)


def _neighbours_exchanged(values: list[ast.expr]) -> Iterator[list[ast.expr]]:
    for i in range(len(values) - 1):
        yield [*values[:i], values[i + 1], values[i], *values[i + 2 :]]


def slices(place: Place, _: Scope) -> Iterator[Proposal]:
    """Yield the whole of what only a part is taken of, and as many from the other end: `:-1` for `1:`."""
    node = place.node
    edit = Finding("partial", {"where": None}, "only a part is written or read")
    if isinstance(node, ast.Slice) and (node.lower is not None or node.upper is not None):
        yield ast.Slice(None, None, node.step), edit
        if (other := _from_the_other_end(node)) is not None:
            yield other, instead(node, other)
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        flat = node.value.func if isinstance(node.value, ast.Call) else None
        if isinstance(flat, ast.Attribute) and flat.attr in FLATTENING:
            words = (
                f"`{ast.unparse(node)}` is one element of {ast.unparse(flat.value)}, where all of it belongs"
            )
            yield flat.value, Finding("ignores_upstream", {"gradients": []}, words)
        yield node.value, edit


def _from_the_other_end(node: ast.Slice) -> ast.Slice | None:
    """Return the slice that leaves as many steps out at the end as one leaves out at the start, or so."""
    if node.step is not None or (node.lower is None) == (node.upper is None):
        return None
    if node.lower is not None:
        return ast.Slice(None, ast.UnaryOp(ast.USub(), node.lower), None)
    if isinstance(node.upper, ast.UnaryOp) and isinstance(node.upper.op, ast.USub):
        return ast.Slice(node.upper.operand, None, None)
    return None


def indices_of_rows(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield one index for each row, where all of them were taken in every row: `d[:, targets]`."""
    node = place.node
    if place.role != "index" or not isinstance(node, ast.Tuple) or len(node.elts) != 2:
        return
    rows, columns = node.elts
    if ast.unparse(rows) != ":" or len(scope.shape_of(columns) or ()) != 1:
        return
    index = ast.unparse(columns)
    words = f"`[:, {index}]` takes every column of `{index}` in every row, where each row has its own"
    edit = Finding("wrong_point", {"used": f":, {index}", "expected": None}, words, hint=OF_PAIRS)
    # one number for each row, or, of what is added, a row of one number
    for pairs in (f"range(len({index})), {index}", f"[[i] for i in range(len({index}))], {index}[:, None]"):
        yield ast.parse(f"({pairs})", mode="eval").body, edit


def sums(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield sums and means over an axis."""
    if not isinstance(place.node, ast.BinOp | ast.Name | ast.Call) or place.role != "value":
        return
    for called, told in (("sum", "summed"), ("mean", "averaged")):
        reduced = ast.Attribute(place.node, called, ast.Load())
        for axis in (0, 1, -1):
            for kept in ([], [ast.keyword(scope.dialect.keeping, ast.Constant(True))]):
                edit = Finding("unreduced", {"axes": [axis]}, f"not {told} over axis {axis}")
                yield ast.Call(reduced, [ast.Constant(axis)], list(kept)), edit
