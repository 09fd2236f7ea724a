"""Slips of the pen, each as the rule that takes it back: a sign, an axis, a name, a factor."""

import ast
import itertools
from collections.abc import Iterator

from backhand.checking.mistakes.places import VALUES, Edit, Place, Proposal, Rule, Scope, holds_tensor


def _signs(place: Place, _: Scope) -> Iterator[Proposal]:
    node, edit = place.node, Edit("sign", "a term or factor has the opposite sign", {"branches": []})
    if place.exponent:
        edit = Edit("wrong_point", "a power has the wrong exponent", {"used": None, "expected": None})
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand, edit
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield ast.BinOp(node.left, other, node.right), edit
    if isinstance(node, ast.Name | ast.BinOp | ast.Constant):
        yield ast.UnaryOp(ast.USub(), node), edit


REDUCTIONS = {"sum": "mean", "mean": "sum"}


def _axes(place: Place, _: Scope) -> Iterator[Proposal]:
    node = place.node
    if not (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in REDUCTIONS
    ):
        return
    keep = next((k for k in node.keywords if k.arg == "keepdim"), None)
    rest = [k for k in node.keywords if k.arg != "keepdim"]
    flipped = [ast.keyword("keepdim", ast.Constant(True))] if keep is None else []
    shape = Edit("shape", "keepdim is lost or too many", {"expected": None, "got": None})
    yield ast.Call(node.func, node.args, rest + flipped), shape
    yield node.func.value, Edit("overreduced", "summed or averaged where nothing should be", {"axes": []})
    other = ast.Attribute(node.func.value, REDUCTIONS[node.func.attr], ast.Load())
    scale = Edit("scale", f"{node.func.attr} where a {other.attr} belongs", {"factor": None, "guess": "1/n"})
    yield ast.Call(other, node.args, node.keywords), scale
    keepers = [[], [ast.keyword("keepdim", ast.Constant(True))]]
    for axis in (0, 1, 2, -1, (0, 1), (0, 2), (1, 2)):
        for kept in keepers:
            edit = Edit("overreduced", f"summed over the wrong axis, not over {axis}", {"axes": [axis]})
            where = ast.parse(repr(axis), mode="eval").body
            yield ast.Call(node.func, [where], list(kept)), edit


def _transposes(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    edit = Edit("transposed", "an operand is transposed, or in the other order")
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield node.value, edit
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("transpose", "t")
    ):
        yield node.func.value, edit
    elif isinstance(node, ast.Name) and holds_tensor(scope.namespace.get(node.id)):
        yield ast.Attribute(node, "mT", ast.Load()), edit
        for axes in itertools.combinations(range(min(4, scope.namespace[node.id].dim())), 2):
            called = ast.Attribute(node, "transpose", ast.Load())
            yield ast.Call(called, [ast.Constant(a) for a in axes], []), edit
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield ast.BinOp(node.right, ast.MatMult(), node.left), edit
        yield ast.Attribute(node, "mT", ast.Load()), edit
        yield ast.BinOp(ast.Attribute(node.left, "mT", ast.Load()), ast.MatMult(), node.right), edit
        yield ast.BinOp(node.left, ast.MatMult(), ast.Attribute(node.right, "mT", ast.Load())), edit
    elif isinstance(node, ast.Call):
        yield ast.Attribute(node, "mT", ast.Load()), edit


def _numbers(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    number = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    number = number and not isinstance(getattr(node, "value", None), bool)
    named = isinstance(node, ast.Name) and isinstance(scope.namespace.get(node.id), int | float)
    differs = isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant)
    if not (number or named or differs):
        return
    edit = Edit("scale", f"a factor is off at `{ast.unparse(node)}`", {"factor": None, "guess": ""})
    if place.exponent:
        edit = Edit(
            "wrong_point", "a power has the wrong exponent", {"used": ast.unparse(node), "expected": None}
        )
    if differs and isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield node.left, edit
    one, two = ast.Constant(1), ast.Constant(2)
    for op in (ast.Sub(), ast.Add()):
        yield ast.BinOp(node, op, one), edit
    for op in (ast.Mult(), ast.Div()):
        yield ast.BinOp(node, op, two), edit
    yield ast.BinOp(one, ast.Div(), node), edit
    yield ast.BinOp(one, ast.Sub(), node), edit


def _names(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    if not isinstance(node, ast.Name) or not isinstance(node.ctx, ast.Load):
        return
    value = scope.namespace.get(node.id)
    if holds_tensor(value):
        for name in scope.tensors():
            if name != node.id:
                kind = "wrong_upstream" if scope.is_gradient(name) else "wrong_point"
                told = f"{node.id} is used where another tensor belongs"
                yield ast.Name(name, ast.Load()), Edit(kind, told, {"used": node.id, "expected": name})
    elif isinstance(value, int | float) and not isinstance(value, bool):
        for name in scope.local_names:
            if name != node.id and isinstance(scope.namespace.get(name), int | float):
                told = f"{node.id} is used where {name} belongs"
                yield ast.Name(name, ast.Load()), Edit("scale", told, {"factor": None, "guess": name})


def _factors(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.MatMult):
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            yield kept, _factor_edit(lost, scope, f"the factor `{ast.unparse(lost)}` is one too many")
        if isinstance(node.op, ast.Mult | ast.Div):
            other = ast.Div() if isinstance(node.op, ast.Mult) else ast.Mult()
            words = f"`{ast.unparse(node)}` multiplies where it should divide, or the other way round"
            yield ast.BinOp(node.left, other, node.right), _factor_edit(node.right, scope, words)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        words = f"the power in `{ast.unparse(node)}` is one too many"
        yield node.left, Edit("wrong_point", words, {"used": ast.unparse(node), "expected": None})


def _factor_edit(lost: ast.expr, scope: Scope, words: str) -> Edit:
    names = {n.id for n in ast.walk(lost) if isinstance(n, ast.Name)}
    if any(scope.is_gradient(n) for n in names):
        return Edit("wrong_upstream", words, {"used": ast.unparse(lost), "expected": None})
    if any(holds_tensor(scope.namespace.get(n)) for n in names):
        return Edit("wrong_point", words, {"used": ast.unparse(lost), "expected": None})
    return Edit("scale", words, {"factor": None, "guess": ast.unparse(lost)})


def _missing_factors(place: Place, scope: Scope) -> Iterator[Proposal]:
    if not isinstance(place.node, VALUES) or place.exponent or place.index_:
        return
    if isinstance(place.node, ast.Name) and not holds_tensor(scope.namespace.get(place.node.id)):
        return
    for name in scope.local_names:
        value = scope.namespace.get(name)
        tensor = holds_tensor(value)
        if not tensor and (not isinstance(value, int | float) or isinstance(value, bool)):
            continue
        kind = "scale" if not tensor else "wrong_upstream" if scope.is_gradient(name) else "wrong_point"
        detail = {"used": None, "expected": name} if tensor else {"factor": None, "guess": name}
        edit = Edit(kind, f"the factor {name} is missing", detail)
        for op in (ast.Mult(), ast.Div()):
            yield ast.BinOp(place.node, op, ast.Name(name, ast.Load())), edit


def put_upstream(place: Place, scope: Scope, upstream: str) -> Iterator[Proposal]:
    """Yield a gradient in the place of another tensor."""
    node = place.node
    if place.exponent or place.index_ or not isinstance(node, ast.Name) or node.id == upstream:
        return
    if holds_tensor(scope.namespace.get(node.id)):
        words = f"{node.id} is used where {upstream} belongs"
        edit = Edit("wrong_upstream", words, {"used": node.id, "expected": upstream})
        yield ast.Name(upstream, ast.Load()), edit


def upstream_factor(place: Place, _: Scope, upstream: str) -> Iterator[Proposal]:
    """Yield a gradient as a factor more."""
    node = place.node
    if place.exponent or place.index_ or not isinstance(node, VALUES):
        return
    own = ast.Name(upstream, ast.Load())
    words = f"{upstream}, the upstream gradient, is not used"
    edit = Edit("wrong_upstream", words, {"used": None, "expected": upstream})
    for factor in (own, ast.UnaryOp(ast.USub(), own)):
        yield ast.BinOp(node, ast.Mult(), factor), edit


def _derivatives(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield what autograd knows of this step: a local derivative as a factor, or a branch as a term."""
    node = place.node
    if place.exponent or place.index_ or not isinstance(node, VALUES):
        return
    if isinstance(node, ast.Name) and not holds_tensor(scope.namespace.get(node.id)):
        return
    text = ast.unparse(node)
    for derived in scope.derived:
        own = ast.Name(derived.variable, ast.Load())
        if derived.branch is not None:
            words, detail = f"the branch through {derived.branch} is missing", {"branches": [derived.branch]}
            yield ast.BinOp(node, ast.Add(), own), Edit("missing_branch", words, detail)
            continue
        detail = {"used": None, "expected": derived.words}
        missing = Edit("wrong_point", f"{derived.words} is missing as a factor of `{text}`", detail)
        for factor in (own, ast.UnaryOp(ast.USub(), own)):
            yield ast.BinOp(node, ast.Mult(), factor), missing
        words = f"`{text}` stands where {derived.words} belongs"
        yield own, Edit("wrong_point", words, {"used": text, "expected": derived.words})


def drop_term(place: Place, _: Scope) -> Iterator[Proposal]:
    """Yield sums with one of their two terms left out."""
    node = place.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        for kept, lost in ((node.left, node.right), (node.right, node.left)):
            words = f"the term `{ast.unparse(lost)}` is one too many"
            yield kept, Edit("repeated_branch", words, {"branches": []})


def _missing_terms(place: Place, scope: Scope) -> Iterator[Proposal]:
    node = place.node
    if place.exponent or place.index_ or not isinstance(node, ast.Name | ast.BinOp | ast.Call):
        return
    if isinstance(node, ast.Name) and not holds_tensor(scope.namespace.get(node.id)):
        return
    for name in scope.tensors():
        edit = Edit("missing_branch", f"the term {name} is missing", {"branches": []})
        for op in (ast.Sub(), ast.Add()):
            yield ast.BinOp(node, op, ast.Name(name, ast.Load())), edit


def _slices(place: Place, _: Scope) -> Iterator[Proposal]:
    node = place.node
    edit = Edit("partial", "only a part is written or read", {"where": None})
    if isinstance(node, ast.Slice) and (node.lower is not None or node.upper is not None):
        yield ast.Slice(None, None, node.step), edit
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield node.value, edit


def _sums(place: Place, _: Scope) -> Iterator[Proposal]:
    if not isinstance(place.node, ast.BinOp | ast.Name | ast.Call) or place.exponent:
        return
    for axis in (0, 1, -1):
        summed = ast.Attribute(place.node, "sum", ast.Load())
        for kept in ([], [ast.keyword("keepdim", ast.Constant(True))]):
            edit = Edit("unreduced", f"not summed over axis {axis}", {"axes": [axis]})
            yield ast.Call(summed, [ast.Constant(axis)], list(kept)), edit


# In this order: the first rule that mends the gradient names the mistake.
RULES: tuple[Rule, ...] = (
    _signs,
    _axes,
    _transposes,
    _slices,
    _numbers,
    _names,
    _factors,
    drop_term,
    _missing_factors,
    _derivatives,
    _sums,
    _missing_terms,
)
