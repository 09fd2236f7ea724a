"""What a file says that it holds, told by its text alone: it has not been run yet."""

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backhand.checking.sources.courses import word
from backhand.checking.sources.roles import calls_among, gives_gradients, methods_among
from backhand.checking.sources.steps import Step

# What a backward is called.
BACKWARD = "(?i:backward|back_?prop)"


@dataclass(frozen=True)
class Declared:
    """What the text of a module declares.

    Attributes:
        passes: pairs of functions, by what their names have beside `forward` and `backward`: `norm` for
            `norm_forward` or `forward_norm`; empty for those two names alone.
        kernels: the names of custom autograd Functions, and of operators that are given a backward.
        layers: whether it may have layers over NumPy.
        over_torch: whether it imports torch.
    """

    passes: tuple[str, ...]
    kernels: tuple[str, ...]
    layers: bool
    over_torch: bool


def declared(tree: ast.Module) -> Declared:
    """Return what a module declares; its `forward` and `backward` are a pass that uses the other pairs.

    >>> text = "def norm_forward(x): ...\\ndef norm_backward(dy): ...\\ninputs = {}"
    >>> declared(ast.parse(text)).passes
    ('norm',)
    """
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    definitions = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    operators = _operators(tree)
    kernels = tuple(n.name for n in definitions if _is_custom_function(n) or n.name in operators)
    modules = _imported(tree)
    over_torch = "torch" in modules
    brought = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    both = {"forward", "backward"}  # one of them may come from another file
    over_numpy = not over_torch and "numpy" in modules  # then they are one of the pairs over NumPy
    if both & {*functions} and both <= {*functions, *brought} and not over_numpy:
        return Declared(("",), kernels, False, over_torch)
    names = {plain_name(name) for name in (*functions, *_assigned(tree))}
    stems = [_stem(name) for name in functions]
    pairs = [s for s in stems if s and names & {plain_name(f"{s}backward"), plain_name(f"backward{s}")}]
    drawn = any("inputs" in name for name in names)  # without them, they are parts of something else
    layers = _has_layers(tree, over_torch)
    return Declared(tuple(pairs) if drawn else (), kernels, layers, over_torch)


def _assigned(tree: ast.Module) -> set[str]:
    targets = [target for s in tree.body if isinstance(s, ast.Assign) for target in s.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def plain_name(name: str) -> str:
    """Return a name as it is compared: `RMSNorm` and `rms_norm` are one."""
    return name.replace("_", "").lower()


def _stem(forward: str) -> str:
    at_an_end = forward.startswith("forward") or forward.endswith("forward")
    return forward.replace("forward", "", 1).strip("_") if at_an_end else ""


def _is_custom_function(definition: ast.ClassDef | ast.FunctionDef) -> bool:
    # by its text, for the file has not been imported yet
    return isinstance(definition, ast.ClassDef) and any(
        ast.unparse(base).rpartition(".")[2] == "Function" for base in definition.bases
    )


def _operators(tree: ast.Module) -> set[str]:
    """Return the functions that are given a backward, `f.register_autograd(backward)`."""
    calls = [s.value for s in tree.body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)]
    given = [
        c.func for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "register_autograd"
    ]
    return {attribute.value.id for attribute in given if isinstance(attribute.value, ast.Name)}


def computes_gradients(trees: Iterable[ast.Module], loss: str) -> bool:
    """Tell whether statements, of a script or of a notebook's cells, assign a loss and gradients by hand.

    >>> computes_gradients([ast.parse("loss = x.sum()"), ast.parse("dx = 1")], "loss")
    True
    """
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
    stored = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    named = {node.id for node in nodes}
    return loss in stored and any(n.startswith("d") and n[1:].strip("_") in named - {n} for n in stored)


def calls_layers(trees: Sequence[ast.Module], loss: str) -> bool:
    """Tell whether statements, of a script or of a notebook's cells, call or define backwards over NumPy.

    Such a call has an argument or two, where `loss.backward()` has none. Beside torch, whose gradients have
    names of their own, it has the upstream gradient and a cache.

    >>> calls_layers([ast.parse("dx, dw = affine_backward(dout, cache)")], "loss")
    True
    """
    whole = ast.Module([s for tree in trees for s in tree.body], [])
    over_torch = any("torch" in str(name) for name in _imported(whole))
    if over_torch and computes_gradients(trees, loss):
        return False
    calls = [n for n in ast.walk(whole) if isinstance(n, ast.Call) and len(n.args) > over_torch]
    called = any(re.search(BACKWARD, getattr(c.func, "id", getattr(c.func, "attr", ""))) for c in calls)
    return called or (not over_torch and _has_layers(whole, over_torch))


def is_over_numpy(trees: Sequence[ast.Module]) -> bool:
    """Tell whether statements import NumPy, and not torch."""
    names = {str(name) for tree in trees for name in _imported(tree)}
    return "numpy" in names and not any("torch" in name for name in names)


def _imported(tree: ast.Module) -> set[str | None]:
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    return {a.name for n in imports for a in n.names} | {getattr(n, "module", None) for n in imports}


def _has_layers(tree: ast.Module, over_torch: bool) -> bool:
    """Tell whether a module has backwards, or classes with one; none that a custom Function calls.

    Beside torch they say `np`, hand a cache on, or give the gradients of a loss that is given its labels.
    """
    custom = [n for n in tree.body if isinstance(n, ast.ClassDef) and _is_custom_function(n)]
    called = {n.id for definition in custom for n in ast.walk(definition) if isinstance(n, ast.Name)}
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name not in called]
    backwards = [n for n in functions if re.search(BACKWARD, n.name) or gives_gradients(n)]
    if over_torch:
        says_numpy = any(getattr(m, "id", "") in ("np", "numpy") for n in backwards for m in ast.walk(n))
        losses = [n for n in functions if gives_gradients(n) and any(word(a.arg) == "y" for a in n.args.args)]
        return says_numpy or bool(losses) or any(_hands_a_cache_on(n) for n in tree.body)
    return bool(backwards) or any(isinstance(n, ast.ClassDef) and _gives_gradients(n) for n in tree.body)


def classes_with_backwards(tree: ast.Module) -> list[str]:
    """Return the names of the classes that have a forward and a backward, but for custom Functions."""
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and not _is_custom_function(n)]
    return [
        n.name for n in classes if methods_among(m.name for m in n.body if isinstance(m, ast.FunctionDef))
    ]


def _hands_a_cache_on(definition: ast.stmt) -> bool:
    """Tell whether a function, or a class's, is a backward that is handed the cache of its forward."""
    if isinstance(definition, ast.ClassDef) and not _is_custom_function(definition):
        return _gives_gradients(definition) and any(map(_hands_a_cache_on, definition.body))
    if not isinstance(definition, ast.FunctionDef) or not re.search(BACKWARD, definition.name):
        return False
    return any("cache" in a.arg for a in definition.args.args)


def _gives_gradients(definition: ast.ClassDef) -> bool:
    methods = {n.name: n for n in definition.body if isinstance(n, ast.FunctionDef)}
    if methods_among(methods) is not None or calls_among(methods) is not None:
        return True
    return any(Step.of(method) is not None for method in methods.values())
