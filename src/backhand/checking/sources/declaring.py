"""What a file says that it holds, told by its text alone: it has not been run yet."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Declared:
    """What the text of a module declares.

    Attributes:
        passes: pairs of functions, by what their names have beside `forward` and `backward`: `norm` for
            `norm_forward` or `forward_norm`; empty for those two names alone.
        kernels: the names of custom autograd Functions.
    """

    passes: tuple[str, ...]
    kernels: tuple[str, ...]


def declared(tree: ast.Module) -> Declared:
    """Return what a module declares; its own `forward` and `backward` are a pass that uses the other pairs.

    >>> text = "def norm_forward(x): ...\\ndef norm_backward(dy): ...\\ninputs = {}"
    >>> declared(ast.parse(text)).passes
    ('norm',)
    """
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    kernels = tuple(n.name for n in tree.body if isinstance(n, ast.ClassDef) and _is_custom_function(n))
    if {"forward", "backward"} <= set(functions):
        return Declared(("",), kernels)
    names = {plain_name(name) for name in (*functions, *_assigned(tree))}
    stems = [_stem(name, "forward") for name in functions]
    pairs = [s for s in stems if s and names & {plain_name(f"{s}backward"), plain_name(f"backward{s}")}]
    drawn = any("inputs" in name for name in names)  # without them, they are parts of something else
    return Declared(tuple(pairs) if drawn else (), kernels)


def _assigned(tree: ast.Module) -> set[str]:
    targets = [target for s in tree.body if isinstance(s, ast.Assign) for target in s.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def plain_name(name: str) -> str:
    """Return a name as it is compared: `RMSNorm` and `rms_norm` are one."""
    return name.replace("_", "").lower()


def _stem(name: str, what: str) -> str:
    return name.replace(what, "", 1).strip("_") if name.startswith(what) or name.endswith(what) else ""


def _is_custom_function(definition: ast.ClassDef) -> bool:
    # by its text, for the file has not been imported yet
    return any(ast.unparse(base).rpartition(".")[2] == "Function" for base in definition.bases)


def computes_gradients(trees: Iterable[ast.Module], loss: str) -> bool:
    """Tell whether statements, of a script or of a notebook's cells, assign a loss and gradients by hand.

    >>> computes_gradients([ast.parse("loss = x.sum()"), ast.parse("dx = 1")], "loss")
    True
    """
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
    stored = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    named = {node.id for node in nodes}
    return loss in stored and any(n.startswith("d") and n[1:].strip("_") in named - {n} for n in stored)


def declares_layers(tree: ast.Module) -> bool:
    """Tell by its text whether a module may have layers over NumPy.

    >>> declares_layers(ast.parse("import numpy as np\\ndef relu_backward(dout, cache): ..."))
    True
    """
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    modules = {a.name for n in imports for a in n.names} | {getattr(n, "module", None) for n in imports}
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and _has_both(n)]
    plain = {"forward", "backward"} <= {n.name for n in functions}  # a pass of its own
    backwards = [n for n in functions if "backward" in n.name or _returns_gradients(n)]
    if "torch" in modules:  # beside it, what computes over NumPy says so
        backwards = [
            n for n in backwards if any(getattr(m, "id", "") in ("np", "numpy") for m in ast.walk(n))
        ]
        classes = []
    return "numpy" in modules and not plain and bool(classes or backwards)


def _returns_gradients(function: ast.FunctionDef) -> bool:
    """Tell whether a function returns gradients of its parameters after a value, such as `loss, dx`."""
    parameters = {a.arg for a in function.args.args}
    tuples = [
        n.value for n in ast.walk(function) if isinstance(n, ast.Return) and isinstance(n.value, ast.Tuple)
    ]
    rest = [[part.id if isinstance(part, ast.Name) else "" for part in t.elts[1:]] for t in tuples]
    return any(ids and all(i.startswith("d") and i[1:].strip("_") in parameters for i in ids) for ids in rest)


def _has_both(definition: ast.ClassDef) -> bool:
    return {"forward", "backward"} <= {n.name for n in definition.body if isinstance(n, ast.FunctionDef)}
