"""`check_layers`: what a file has over NumPy, pairs by their names and losses that return their gradients."""

import ast
import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report
from backhand.checking.running.program import parameters_of, source_of
from backhand.checking.running.returning import returns
from backhand.checking.running.sandbox import imports_from, sandbox
from backhand.checking.running.statements import reads
from backhand.checking.sources.classes import check_class
from backhand.checking.sources.courses import inputs_for, made
from backhand.checking.sources.modules import module_of, roots_of
from backhand.checking.sources.pairs import check_pair
from backhand.checking.sources.returned import tensor_named
from backhand.errors import CheckError, in_short


@dataclass(frozen=True)
class Layer:
    """One thing of a module.

    Attributes:
        name: of the function that makes the gradients.
        check: makes the report; raises `CheckError` where there is nothing to compare.
    """

    name: str
    check: Callable[[], Report]


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
    backwards = [n for n in functions if "backward" in n.name]
    if "torch" in modules:  # beside it, what computes over NumPy says so
        backwards = [
            n for n in backwards if any(getattr(m, "id", "") in ("np", "numpy") for m in ast.walk(n))
        ]
        classes = []
    return "numpy" in modules and not plain and bool(classes or backwards)


def _has_both(definition: ast.ClassDef) -> bool:
    return {"forward", "backward"} <= {n.name for n in definition.body if isinstance(n, ast.FunctionDef)}


def layers_of(module: ModuleType, *, draws: int = 3, seed: int = 0) -> list[Layer]:
    """Return what a module has, in the order of its text."""
    own = {
        name: f
        for name, f in vars(module).items()
        if isinstance(f, FunctionType) and f.__module__ == module.__name__
    }
    found = [
        Layer(name, partial(_check_class, module, value, draws, seed))
        for name, value in vars(module).items()
        if is_layer(value) and value.__module__ == module.__name__
    ]
    for name, function in own.items():
        if "backward" in name:
            check = partial(_check_backward, module, own, function, draws, seed)
        elif returns_its_gradients(function):
            check = partial(_check, module, function, None, draws, seed)
        else:
            continue
        found.append(Layer(name, check))
    return found


def is_layer(value: object) -> bool:
    """Tell whether a value is a class with a forward and a backward of its own, and none of torch."""
    if not isinstance(value, type):
        return False
    parts = [getattr(value, name, None) for name in ("forward", "backward")]
    plain = all(isinstance(part, FunctionType) for part in parts)
    plain = plain and not any(base.__module__.startswith("torch") for base in value.__mro__)
    # an interface whose methods do nothing but raise is there to be derived from
    return plain and not any(_only_raises(part) for part in parts)


def _only_raises(function: Any) -> bool:
    source = source_of(function)
    body = [s for s in source.statements if not isinstance(s, ast.Expr)] if source is not None else []
    return source is not None and all(isinstance(s, ast.Raise | ast.Pass) for s in body)


def _check_class(module: ModuleType, layer: type, draws: int, seed: int) -> Report:
    made_of = made(layer, vars(module))
    if made_of is None:
        raise CheckError(
            f"how to make {layer.__name__}{inspect.signature(layer)} is not known: "
            f"let the file hold one, or call backhand.check_class."
        )
    return check_class(made_of, _inputs(module, made_of.forward, layer.__name__), draws=draws, seed=seed)


def forward_of(backward: str, functions: Iterable[str]) -> str | None:
    """Return which of some functions is the forward of a backward, by their names.

    >>> forward_of("conv_backward_naive", ["conv_forward_naive", "relu"])
    'conv_forward_naive'
    >>> forward_of("relu_backward", ["relu"])
    'relu'
    """
    functions = list(functions)
    exact = backward.replace("backward", "forward")
    shorter = exact
    while shorter.partition("forward")[2]:  # `norm_backward_alt` is another one of `norm_forward`
        if shorter in functions:
            return shorter
        shorter = shorter.rpartition("_")[0]
    alike = [name for name in functions if shorter and shorter != "forward" and name.startswith(shorter)]
    plain = backward.replace("backward", "").strip("_")
    return next((name for name in (exact, shorter, *alike, plain) if name in functions), None)


def returns_its_gradients(function: Callable[..., Any]) -> bool:
    """Tell whether a function returns a value, such as a loss, and gradients of its parameters with it."""
    source = source_of(function)
    parameters = {name.lower() for name in parameters_of(function)}
    for returned in returns(source.statements) if source is not None else []:
        parts = returned.value.elts if isinstance(returned.value, ast.Tuple) else []
        tensors = [tensor_named(part.id) if isinstance(part, ast.Name) else [] for part in parts[1:]]
        if tensors and all({name.lower() for name in its} & parameters for its in tensors):
            return True
    return False


def _check_backward(
    module: ModuleType, own: Mapping[str, Any], backward: FunctionType, draws: int, seed: int
) -> Report:
    name = backward.__name__
    known = {n: f for n, f in vars(module).items() if isinstance(f, FunctionType)}
    forward = forward_of(name, own) or forward_of(name, known)
    if forward is None:
        wanted = name.replace("backward", "forward")
        raise CheckError(f"{name} has no {wanted}: a backward is checked beside the forward of its name.")
    return _check(module, known[forward], backward, draws, seed)


def _check(
    module: ModuleType, forward: FunctionType, backward: FunctionType | None, draws: int, seed: int
) -> Report:
    return check_pair(forward, backward, _inputs(module, forward), draws=draws, seed=seed)


def _inputs(
    module: ModuleType, forward: Callable[..., Any], name: str | None = None
) -> Callable[[np.random.Generator], Any]:
    """Return what draws a forward's inputs: the module's own function, or what the courses say."""
    given: Any = getattr(module, "inputs", None)
    names = list(parameters_of(forward))
    if given is not None:
        drawn: Any = given(np.random.default_rng(0))
        needed = [p.name for p in parameters_of(forward).values() if p.default is p.empty]
        if set(needed) <= set(drawn):
            return lambda rng: {k: v for k, v in given(rng).items() if k in names}
    draw = inputs_for(forward, name)
    if draw is None or isinstance(draw, Exception):
        why = "are not known" if draw is None else f"of the usual shapes do not fit ({in_short(draw)})"
        raise CheckError(
            f"inputs of {name or forward.__name__}({', '.join(names)}) {why}: write a function "
            "inputs(rng) that returns them by name, drawn from a numpy.random.Generator."
        )
    return draw


@dataclass(frozen=True)
class Checked:
    """What became of one thing of a file.

    Attributes:
        name: of the function that makes the gradients.
        report: what was found; None where nothing was judged.
        problem: why not, in one line; empty otherwise.
    """

    name: str
    report: Report | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a program to read: that of the report, if there is one."""
        found = self.report.to_dict() if self.report is not None else {"ok": False}
        return {"name": self.name, "problem": self.problem or None, **found}


def check_layers(path: str | Path, *, draws: int = 3, seed: int = 0) -> tuple[Checked, ...]:
    """Check every layer over NumPy that a file has: pairs such as `relu_forward` and `relu_backward`.

    A pair is found by its names, a loss by what it returns (`loss, dx`). The inputs are those that the file's
    own `inputs(rng)` returns by name, or the usual ones for the layers that the courses set.

    Args:
        path: a `.py` file.
        draws: how many independent sets of inputs to try.
        seed: of the draws.

    Returns:
        What became of each, in the order of the file.

    Raises:
        CheckError: the file cannot be read or run.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "layers.py"
    >>> code = "def relu_forward(x):", "    return np.maximum(0, x), x", "def relu_backward(dout, cache):"
    >>> _ = file.write_text("\\n".join(("import numpy as np", *code, "    return dout * cache")))
    >>> [(one.name, one.report.ok) for one in check_layers(file)]
    [('relu_backward', False)]
    """
    path = Path(path)
    with sandbox(), contextlib.ExitStack() as folders:
        for folder in roots_of(path):
            folders.enter_context(imports_from(folder))
        module = module_of(path)
        found = [_checked(layer) for layer in layers_of(module, draws=draws, seed=seed)]
        return _with_callees(found, module)


def holds_layers(path: Path) -> bool:
    """Tell by its text whether a file has layers over NumPy; a script that computes a loss is a script."""
    if path.suffix != ".py":
        return False
    try:
        return declares_layers(ast.parse(path.read_bytes()))
    except (OSError, SyntaxError, ValueError):  # told by what reads it next
        return False


def _checked(layer: Layer) -> Checked:
    try:
        return Checked(layer.name, layer.check())
    except CheckError as error:
        return Checked(layer.name, problem=str(error))


def _with_callees(found: Sequence[Checked], module: ModuleType) -> tuple[Checked, ...]:
    """Return the same, each wrong report with a note on what it calls that is wrong by itself."""
    wrong = {one.name for one in found if one.report is not None and not one.report.ok}
    told = []
    for one in found:
        source = source_of(getattr(module, one.name)) if one.name in wrong else None
        called = {n for s in source.statements for n in reads(s)} if source is not None else set()
        callees = sorted(called & wrong - {one.name})
        if callees and one.report is not None:
            are = "are wrong themselves: mend them" if len(callees) > 1 else "is wrong itself: mend it"
            note = f"{one.name} calls {listed(callees)}, which {are} first."
            one = replace(one, report=replace(one.report, notes=(*one.report.notes, note)))
        told.append(one)
    return tuple(told)
