"""Slips in what is called, each as the rule that takes it back: in place, no copy, less precision."""

import ast
from collections.abc import Iterator

from backhand.checking.mistakes.edits import VALUES, Place, Proposal, Scope, holds_tensor
from backhand.checking.mistakes.finding import Finding
from backhand.checking.running.statements import root_of

LOW = {"half", "bfloat16", "float"}
ACCUMULATING = {"copy_": "add_", "scatter_": "scatter_add_", "index_copy_": "index_add_"}


def copies(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield a copy of what is changed in place later, though it shares its memory."""
    if place.role == "value" and isinstance(place.node, VALUES):
        words = f"`{ast.unparse(place.node)}` shares its memory: a copy is needed"
        copied = ast.Attribute(place.node, scope.dialect.copying, ast.Load())
        yield ast.Call(copied, [], []), Finding("aliased", {"with": ""}, words)


def not_in_place(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield the operation that makes a new tensor where this one writes into what others read."""
    node = place.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    called = node.func.attr
    if called.endswith("_") and called[0] != "_" and holds_tensor(scope.namespace.get(root_of(node) or "")):
        changed = ast.unparse(node.func.value)
        words = f"`{ast.unparse(node)}` changes {changed} in place, which is read again below"
        new = ast.Call(ast.Attribute(node.func.value, called[:-1], ast.Load()), node.args, node.keywords)
        yield new, Finding("modifies_input", {"argument": changed}, words)


def precisions(place: Place, _: Scope) -> Iterator[Proposal]:
    """Yield what is computed in the precision that it came in, not in a lower one."""
    node = place.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    text = ast.unparse(node)
    if node.func.attr in LOW and not node.args:
        yield node.func.value, Finding("dtype", {}, f"`{text}` computes in a lower precision")
    elif any(k.arg == "dtype" for k in node.keywords):
        rest = [k for k in node.keywords if k.arg != "dtype"]
        yield ast.Call(node.func, node.args, rest), Finding("dtype", {}, f"`{text}` has another precision")


def beginnings(place: Place, scope: Scope) -> Iterator[Proposal]:
    """Yield zeros where a sum begins with ones, and the tensor itself where something of its shape stands."""
    node = place.node
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    if node.func.attr in ("ones_like", "zeros_like") and node.args:
        text, whole = ast.unparse(node), ast.unparse(node.args[0])
        graded = any(scope.is_gradient(n.id) for n in ast.walk(node.args[0]) if isinstance(n, ast.Name))
        kind = "zero" if node.func.attr == "zeros_like" else "wrong_upstream" if graded else "wrong_point"
        detail = {} if kind == "zero" else {"used": text, "expected": whole}
        yield node.args[0], Finding(kind, detail, f"`{text}` stands where `{whole}` belongs")
    if "ones" in node.func.attr:
        zeros = ast.Attribute(node.func.value, node.func.attr.replace("ones", "zeros"), ast.Load())
        words = f"the term `{ast.unparse(node)}` is one too many"
        mended = Finding("repeated_branch", {"branches": []}, f"{words}: it begins with ones, not zeros")
        yield ast.Call(zeros, node.args, node.keywords), mended


def accumulations(place: Place, _: Scope) -> Iterator[Proposal]:
    """Yield calls in place that add where this one writes over what is there."""
    node = place.node
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ACCUMULATING:
        adding = ast.Attribute(node.func.value, ACCUMULATING[node.func.attr], ast.Load())
        words = f"{node.func.attr} writes over what is there, where {adding.attr} belongs"
        yield ast.Call(adding, node.args, node.keywords), Finding("overwritten", {}, words)
