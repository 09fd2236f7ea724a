"""Slips of the pen, each as the rule that takes it back: a sign, a name, a factor, a power, a term."""

import ast
import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from backhand.checking.mistakes import axes
from backhand.checking.mistakes.calls import accumulations, beginnings
from backhand.checking.mistakes.conjugates import conjugates, conjugates_of_names, conjugates_too_many
from backhand.checking.mistakes.edits import (
    Place,
    Proposal,
    Rule,
    Scope,
    bounds_given,
    holds_tensor,
    is_whole,
)
from backhand.checking.mistakes.finding import Finding, instead
from backhand.checking.running.names import root
from backhand.checking.running.slicing import taken_together
from backhand.checking.running.statements import root_of

TURNED: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
}


OPPOSITE = Finding("sign", {"branches": []}, "a term or factor has the opposite sign")


def minuses(place: Place, _: Scope) -> Iterator[Proposal]:
    """Yield what a minus stands before without it: one that is too many stands where it was written."""
    node = place.node
    if place.role == "value" and isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand, OPPOSITE


def _signs(place: Place, _: Scope) -> Iterator[Proposal]:
    node, edit = place.node, OPPOSITE
    if place.role == "axis":
        return
    if place.role != "value":
        edit = _off(place)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand, edit
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield ast.BinOp(node.left, other, node.right), edit
    if isinstance(node, ast.Name | ast.BinOp | ast.Constant):
        yield ast.UnaryOp(ast.USub(), node), edit


def _masks(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield masks of the other half: a comparison the other way round, a `~` more or less."""
    node = place.node
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in TURNED:
        other: ast.expr = ast.Compare(node.left, [TURNED[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        other = node.operand
    elif isinstance(node, ast.Name) and str(getattr(scope.held(node.id), "dtype", "")).endswith("bool"):
        other = ast.UnaryOp(ast.Invert(), node)
    else:
        return
    yield other, instead(node, other)


OF_BOUNDS = "The bounds of the forward tell which elements go which way; they are the same in its backward."
OF_ORDERS = "What is kept together is taken again in the order in which it was put there."
OF_RETURNS = "Look at the order in which the function that is called returns its gradients."
OF_EXPONENTS = "Of x ** p the derivative is p * x ** (p - 1); that of tanh is 1 less the square of its value."


def _off(place: Place) -> Finding:
    """Return the mistake of a number that is not the right one."""
    text = ast.unparse(place.node)
    if place.role == "exponent":
        used = ast.unparse(place.parent) if isinstance(place.parent, ast.UnaryOp) else text
        words = f"a power has the wrong exponent, `{used}`"
        return Finding("wrong_point", {"used": used, "expected": None}, words, hint=OF_EXPONENTS)
    owner = place.parent.value if isinstance(place.parent, ast.Subscript) else None
    if isinstance(owner, ast.Attribute) and owner.attr == "shape":
        words = f"another axis belongs in `{ast.unparse(place.parent)}`"
        return Finding("scale", {"factor": None, "guess": ""}, words)
    if place.role == "index":
        return Finding("partial", {"where": text}, f"an index or a bound is off at `{text}`")
    if place.role == "axis":
        return Finding(_of_axis(place.parent), {}, f"an axis is off at `{text}`")
    if isinstance(place.parent, ast.Compare):
        detail = {"used": ast.unparse(place.parent), "expected": None}
        return Finding("wrong_point", detail, f"a bound is off at `{text}`", hint=OF_BOUNDS)
    op = getattr(place.parent if hasattr(place.parent, "op") else place.node, "op", None)
    of_terms, of_factors = isinstance(op, ast.Add | ast.Sub), isinstance(op, ast.Mult | ast.Div)
    what = "term" if of_terms else "factor" if of_factors else "number"
    return Finding("scale", {"factor": None, "guess": ""}, f"a {what} is off at `{text}`")


def _of_axis(parent: ast.AST) -> str:
    """Return the kind of a wrong axis, by what is called: a sum, a reshaping, or what normalises along it."""
    called = (
        parent.func.attr if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute) else ""
    )
    return "overreduced" if called in axes.KEEPING else "shape" if called in axes.RESHAPING else "wrong_point"


def _complements(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield `1 - x` or `x * (1 - x)` where `x` stands, and so on: a sigmoid's derivative, or tanh's."""
    node = place.node
    if place.role != "value":
        return
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        others = [_complement(node.operand)]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and _is_one(node.left):
        squared = ast.BinOp(node.right, ast.Pow(), ast.Constant(2))
        others = [node.right, ast.BinOp(node.right, ast.Mult(), node), _complement(squared)]
    elif (once := _times_its_complement(node)) is not None:
        others = [_complement(ast.BinOp(once, ast.Pow(), ast.Constant(2))), once, _complement(once)]
    # no call, such as that of ones_like
    elif isinstance(node, ast.Name | ast.BinOp | ast.Subscript) or scope.is_tensor(node):
        squared = ast.BinOp(node, ast.Pow(), ast.Constant(2))
        others = [_complement(node), _complement(squared), ast.BinOp(node, ast.Mult(), _complement(node))]
    else:
        return
    held = [scope.namespace.get(n.id) for n in ast.walk(node) if isinstance(n, ast.Name)]
    constant = all(isinstance(value, int | float) for value in held)
    if constant:  # a probability at most, and a size not even that
        others = [] if all(map(is_whole, held)) else [o for o in others if not _is_product(o)]
    for other in others:
        mended = instead(node, other)
        detail = {"factor": None, "guess": mended.detail["expected"]}
        yield other, replace(mended, kind="scale", detail=detail) if constant else mended


def _groupings(place: Place, _: Scope) -> Iterator[Proposal]:
    """Yield `(a - b) * c` where `a - b * c` stands: the parentheses around a sum are missing."""
    node = place.node
    if place.role != "value" or not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add | ast.Sub):
        return
    last = node.right
    if isinstance(last, ast.BinOp) and isinstance(last.op, ast.Mult | ast.Div):
        grouped = ast.BinOp(ast.BinOp(node.left, node.op, last.left), last.op, last.right)
        hint = "A product is worked out before a sum: which of the two does the derivative multiply?"
        yield grouped, instead(node, grouped, hint=hint)


def _times_its_complement(node: ast.expr) -> ast.expr | None:
    """Return the x of `x * (1 - x)`; None where this is something else."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return None
    right = node.right
    if not isinstance(right, ast.BinOp) or not isinstance(right.op, ast.Sub) or not _is_one(right.left):
        return None
    return node.left if ast.dump(node.left) == ast.dump(right.right) else None


def _is_product(node: ast.expr) -> bool:
    """Tell whether a complement or a value stands there with a power or a product of itself."""
    last = node.right if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) else node
    return isinstance(last, ast.BinOp) and isinstance(last.op, ast.Mult | ast.Pow)


def _complement(node: ast.expr) -> ast.expr:
    return ast.BinOp(ast.Constant(1), ast.Sub(), node)


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 1


def _numbers(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    number = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    number = number and not isinstance(getattr(node, "value", None), bool)
    named = isinstance(node, ast.Name) and isinstance(scope.namespace.get(node.id), int | float)
    differs = isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant)
    if not (number or named or differs):
        return
    edit = _off(place)
    if differs and isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield node.left, edit
    for constant in scope.numbers if number else ():
        yield ast.Constant(constant), edit
    one, two = ast.Constant(1), ast.Constant(2)
    for op in (ast.Sub(), ast.Add()):
        yield ast.BinOp(node, op, one), edit
        if place.role == "exponent":
            yield ast.BinOp(node, op, ast.Constant(0.5)), edit
    for op in (ast.Mult(), ast.Div()):
        yield ast.BinOp(node, op, two), edit
    yield ast.BinOp(one, ast.Div(), node), edit
    if number or place.role != "value":  # of what else stands as a value, `_complements` yields it
        yield ast.BinOp(one, ast.Sub(), node), edit


def other_names(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield the name of another tensor or number, or another part of one, where one stands."""
    node = place.node
    if not (isinstance(node, ast.Name | ast.Subscript) or scope.is_tensor(node)):
        return
    if not isinstance(node.ctx, ast.Load):
        return
    used = ast.unparse(node).replace("'", '"')
    if used in scope.tensors:
        for name in (*scope.tensors, *scope.masks_of(used)):
            if name != used:
                kind = "wrong_upstream" if scope.is_gradient(name) else "wrong_point"
                told = f"{used} is used where {name} belongs"
                yield scope.expression(name), Finding(kind, {"used": used, "expected": name}, told)
        return
    value = scope.namespace.get(node.id) if isinstance(node, ast.Name) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and isinstance(node, ast.Name) and place.role != "index":
        for name in scope.names:
            if name != node.id and isinstance(scope.namespace.get(name), int | float):
                told = f"{node.id} is used where {name} belongs"
                yield ast.Name(name, ast.Load()), Finding("scale", {"factor": None, "guess": name}, told)


def orders(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield what takes two values in each other's place from what gives them together: `x, w = cache`."""
    taking, names = place.parent, taken_together(place.parent)
    if not isinstance(taking, ast.Assign) or place.slot != "value":
        return
    for a, b in itertools.combinations(names, 2):
        if all(holds_tensor(scope.namespace.get(root(name))) for name in (a, b)):  # once they are taken
            yield in_order(taking, [{a: b, b: a}.get(name, name) for name in names])


def in_order(taking: ast.Assign, order: Sequence[str]) -> Proposal:
    """Return what gives the names of a statement what comes together in this order."""
    names, given = taken_together(taking), ast.Name("given", ast.Load())
    items: list[ast.expr] = [ast.Subscript(given, ast.Constant(order.index(n)), ast.Load()) for n in names]
    arguments = ast.arguments([], [ast.arg("given")], None, [], [], None, [])
    sorts = ast.Lambda(arguments, ast.Tuple(items, ast.Load()))
    moved = [n for n, there in zip(names, order, strict=True) if n != there]
    is_call = isinstance(taking.value, ast.Call)
    words = f"{' and '.join(moved)} are taken in each other's place"
    if len(moved) > 2:
        words = f"they are {'given' if is_call else 'kept'} in the order {', '.join(order)}"
    detail = {"used": moved[0], "expected": order[names.index(moved[0])]}
    hint = OF_RETURNS if is_call else OF_ORDERS
    return ast.Call(sorts, [taking.value], []), Finding("wrong_point", detail, words, hint=hint)


def _rows(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield a row of tensors with two exchanged: `np.concatenate([di, do])` for `[do, di]`."""
    row = place.node
    if not isinstance(row, ast.List | ast.Tuple) or not isinstance(place.parent, ast.Call):
        return
    used = [scope.is_tensor(n) or isinstance(n, ast.BinOp | ast.Call) for n in row.elts]
    for i, j in itertools.combinations(range(len(used)), 2):
        if used[i] and used[j]:
            items = [{i: row.elts[j], j: row.elts[i]}.get(k, n) for k, n in enumerate(row.elts)]
            first, second = (ast.unparse(row.elts[k]) for k in (i, j))
            kind = (
                "wrong_upstream"
                if any(scope.is_gradient(n.id) for n in ast.walk(row.elts[i]) if isinstance(n, ast.Name))
                else "wrong_point"
            )
            words = f"`{first}` and `{second}` stand in each other's place"
            yield type(row)(items, ast.Load()), Finding(kind, {"used": first, "expected": second}, words)


def _indices(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield an index a step before or after, or with other whole numbers' names: `j : j + n` for `i : i + n`.

    Or with two of its names exchanged, or with one more, or with one for a number: `dx[t]` for `dx[0]`.
    """
    node, owner = place.node, place.parent
    if place.role != "index" or not isinstance(owner, ast.Subscript):
        return
    whole = [n for n in scope.names if is_whole(scope.namespace.get(n))]
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    used, others = [n for n in whole if n in read], [n for n in whole if n not in read]
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    held, kind = root_of(owner) or "", "partial"
    if isinstance(owner.ctx, ast.Load):
        kind = "wrong_upstream" if scope.is_gradient(held) else "wrong_point"
    mended = [(kind, index) for index in _a_step_away(node, parts, used)]
    mended += [("transposed", _renamed(node, {a: b, b: a})) for a, b in itertools.combinations(used, 2)]
    mended += [("partial", _renamed(node, {a: b})) for a in used for b in others]
    mended += [("partial", ast.Tuple([*parts, ast.Name(b, ast.Load())], ast.Load())) for b in others if used]
    is_number = isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)
    mended += [("partial", ast.Name(b, ast.Load())) for b in others if is_number]
    for what, index in mended:
        stands, belongs = (ast.unparse(ast.Subscript(owner.value, i, ast.Load())) for i in (node, index))
        detail = {"where": stands} if what == "partial" else {"used": stands, "expected": belongs}
        detail = {} if what == "transposed" else detail
        yield index, Finding(what, detail, f"`{stands}` stands where `{belongs}` belongs")


def _bounds(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield other whole numbers' names for where a part lies: `narrow(0, start, n)` for `narrow(0, 0, n)`."""
    call, node = place.parent, place.node
    if not isinstance(call, ast.Call) or not any(node is bound for bound in bounds_given(call)):
        return
    stands = ast.unparse(node)
    for name in scope.names if isinstance(node, ast.Name | ast.Constant) else ():
        if name != stands and is_whole(scope.namespace.get(name)):
            told = f"`{stands}` stands where `{name}` belongs in `{ast.unparse(call)}`"
            yield ast.Name(name, ast.Load()), Finding("partial", {"where": ast.unparse(call)}, told)


def _a_step_away(node: ast.expr, parts: Sequence[ast.expr], used: Sequence[str]) -> Iterator[ast.expr]:
    """Yield an index with one of its parts, a whole number that a loop counts, a step before or after."""
    for i, part in enumerate(parts):
        counted = any(isinstance(n, ast.Name) and n.id in used for n in ast.walk(part))
        for other in _steps_from(part) if counted and isinstance(part, ast.Name | ast.BinOp) else ():
            away = [*parts[:i], other, *parts[i + 1 :]]
            yield ast.Tuple(away, ast.Load()) if isinstance(node, ast.Tuple) else other


def _renamed(node: ast.expr, names: Mapping[str, str]) -> ast.expr:
    """Return a copy of an expression with other names in it."""
    copied = copy.deepcopy(node)
    for each in ast.walk(copied):
        if isinstance(each, ast.Name):
            each.id = names.get(each.id, each.id)
    return copied


def _steps_from(index: ast.expr) -> list[ast.expr]:
    """Return the indices one step after and before one, and of `t + 1` the `t` alone."""
    steps: list[ast.expr] = [ast.BinOp(index, op, ast.Constant(1)) for op in (ast.Add(), ast.Sub())]
    if isinstance(index, ast.BinOp) and isinstance(index.right, ast.Constant):
        return [index.left, *steps]
    return steps


def _factors(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.MatMult):
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            yield kept, _factor_mended(lost, scope, f"the factor `{ast.unparse(lost)}` is one too many")
        if isinstance(node.op, ast.Mult | ast.Div):
            other = ast.Div() if isinstance(node.op, ast.Mult) else ast.Mult()
            told = (
                "multiplies where it should divide"
                if isinstance(other, ast.Div)
                else "divides where it should multiply"
            )
            words = f"`{ast.unparse(node)}` {told}"
            yield ast.BinOp(node.left, other, node.right), _factor_mended(node.right, scope, words)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        words = f"the power in `{ast.unparse(node)}` is one too many"
        yield node.left, Finding("wrong_point", {"used": ast.unparse(node), "expected": None}, words)


def _factor_mended(lost: ast.expr, scope: Scope, words: str) -> Finding:
    names = {n.id for n in ast.walk(lost) if isinstance(n, ast.Name)}
    if any(scope.is_gradient(n) for n in names):
        return Finding("wrong_upstream", {"used": ast.unparse(lost), "expected": None}, words)
    if any(holds_tensor(scope.namespace.get(n)) for n in names):
        return Finding("wrong_point", {"used": ast.unparse(lost), "expected": None}, words)
    return Finding("scale", {"factor": None, "guess": ast.unparse(lost)}, words)


def put_upstream(place: Place, scope: Scope, upstream: str) -> Iterator[Proposal]:
    """Yield a gradient in the place of another tensor."""
    node = place.node
    if place.role != "value" or not isinstance(node, ast.Name) or node.id == upstream:
        return
    if scope.is_one(upstream) and not scope.is_gradient(node.id):
        return
    if holds_tensor(scope.namespace.get(node.id)):
        words = f"{node.id} is used where {upstream} belongs"
        edit = Finding("wrong_upstream", {"used": node.id, "expected": upstream}, words)
        yield ast.Name(upstream, ast.Load()), edit


def _multiplied(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield products of two tensors in the place of their sum: a local derivative is a factor."""
    node = place.node
    if place.role != "value" or not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add | ast.Sub):
        return
    terms = node.left, node.right
    if all(isinstance(t, ast.Name) and holds_tensor(scope.namespace.get(t.id)) for t in terms):
        product = ast.BinOp(node.left, ast.Mult(), node.right)
        used, expected = ast.unparse(node), ast.unparse(product)
        words = f"`{used}` adds where `{expected}` belongs: a local derivative multiplies"
        yield product, Finding("wrong_point", {"used": used, "expected": expected}, words)


def drop_term(place: Place, _: Scope) -> Iterator[Proposal]:
    """Yield sums with one of their two terms left out."""
    node = place.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            words = f"the term `{ast.unparse(lost)}` is one too many"
            yield kept, Finding("repeated_branch", {"branches": []}, words)


# In this order: the first rule that mends the gradient names the mistake.
OF_WHAT_IS_THERE: tuple[Rule, ...] = (
    conjugates_too_many,
    conjugates_of_names,
    conjugates,
    _masks,
    _signs,
    axes.keepdims,
    axes.other_axes,
    _indices,
    _bounds,
    axes.transposes,
    axes.products,
    axes.slices,
    axes.indices_of_rows,
    beginnings,
    accumulations,
    _groupings,
    _complements,
    _numbers,
    _factors,
    other_names,
    _rows,
    drop_term,
    _multiplied,
    orders,
)
# Of which two may stand in one line; beside one of them, another name.
FEW: tuple[Rule, ...] = (
    conjugates_too_many,
    conjugates_of_names,
    conjugates,
    beginnings,
    axes.slices,
    axes.keepdims,
    _signs,
    axes.other_axes,
    axes.transposes,
    axes.products,
    _indices,
    _numbers,
    _complements,
    other_names,
)
