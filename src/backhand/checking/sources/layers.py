"""What a file has over NumPy, pairs by their names and losses that return their gradients."""

import ast
import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from backhand.checking.report import Report
from backhand.checking.running.importing import imports_from
from backhand.checking.running.program import parameters_of, source_of
from backhand.checking.running.returning import returns
from backhand.checking.running.sandbox import sandbox
from backhand.checking.running.statements import reads
from backhand.checking.sources.classes import Class, check_class
from backhand.checking.sources.composing import Composed, Functions, drawing, functions_of
from backhand.checking.sources.courses import inputs_for, made
from backhand.checking.sources.modelling import calls_of
from backhand.checking.sources.modules import module_of, roots_of
from backhand.checking.sources.overnumpy import OverNumpy
from backhand.checking.sources.pairs import Pair, check_pair
from backhand.checking.sources.returned import tensor_named
from backhand.checking.sources.subjects import Subject
from backhand.checking.sources.truths import plainly
from backhand.errors import CheckError, in_short

# What a backward is called.
BACKWARD = "backward|back_?prop"


def layers_of(module: ModuleType, *, draws: int = 3, seed: int = 0) -> list[Subject]:
    """Return what a module has, in the order of its text."""
    own = {
        name: f
        for name, f in vars(module).items()
        if isinstance(f, FunctionType) and f.__module__ == module.__name__
    }
    found = [
        Subject(name, partial(_check_class, module, value, draws, seed))
        for name, value in vars(module).items()
        if (is_layer(value) or is_model(value)) and value.__module__ == module.__name__
    ]
    for name, function in own.items():
        if re.search(BACKWARD, name):
            check = partial(_check_backward, module, own, function, draws, seed)
        elif returns_its_gradients(function):
            check = partial(_check, module, function, None, draws, seed)
        else:
            continue
        found.append(Subject(name, check, _called(function)))
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


def is_model(value: object) -> bool:
    """Tell whether a value is a class that gives a loss and its gradients, and none of torch."""
    if not isinstance(value, type) or any(base.__module__.startswith("torch") for base in value.__mro__):
        return False
    return calls_of(value) is not None


def _only_raises(function: Any) -> bool:
    source = source_of(function)
    body = [s for s in source.statements if not isinstance(s, ast.Expr)] if source is not None else []
    return source is not None and all(isinstance(s, ast.Raise | ast.Pass) for s in body)


def _check_class(module: ModuleType, layer: type, draws: int, seed: int) -> Report:
    calls = calls_of(layer)
    made_of = made(layer, vars(module), model=calls is not None)
    if made_of is None:
        raise CheckError(
            f"how to make {layer.__name__}{inspect.signature(layer)} is not known: "
            f"let the file hold one, or call backhand.check_class."
        )
    forward = made_of.forward if calls is None else getattr(made_of, calls[0])
    accepts = partial(runs, partial(Class.of, made_of))
    inputs = _inputs(module, forward, layer.__name__, model=calls is not None, accepts=accepts)
    return check_class(made_of, inputs, draws=draws, seed=seed)


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
    if (whole := functions_of(backward, known)) is not None:
        return _check_whole(module, whole, draws, seed)
    forward = forward_of(name, own) or forward_of(name, known)
    if forward is None:
        wanted = name.replace("backward", "forward")
        raise CheckError(f"{name} has no {wanted}: a backward is checked beside the forward of its name.")
    return _check(module, known[forward], backward, draws, seed)


def _check_whole(module: ModuleType, calls: Functions, draws: int, seed: int) -> Report:
    """Check a model that is written as functions."""
    found = drawing(calls)
    if found is None:
        raise CheckError(
            f"inputs of {calls.forward.__name__}({', '.join(parameters_of(calls.forward))}) are not known."
        )
    draw, kept = found
    model = Composed.of(calls, kept, draw(np.random.default_rng(seed)), seed)
    return OverNumpy.of(model, draw, seed).report(draws=draws, seed=seed)


def _check(
    module: ModuleType, forward: FunctionType, backward: FunctionType | None, draws: int, seed: int
) -> Report:
    inputs = _inputs(module, forward, accepts=partial(runs, partial(Pair.of, forward, backward)))
    return check_pair(forward, backward, inputs, draws=draws, seed=seed)


def runs(subject_of: Callable[..., Pair | Class], inputs: dict[str, Any]) -> bool:
    """Tell whether a backward runs on inputs of a forward."""
    try:
        subject = subject_of(inputs, 0)
        rng = np.random.default_rng(0)
        own = subject.parameters if isinstance(subject, Class) else ()
        given = inputs | {n: subject.drawn_parameter(n, rng) for n in own if isinstance(subject, Class)}
        called = subject.forward(copy.deepcopy(given))
        upstream = {f"d{n}": o for n, o in zip(subject.outputs, called.outputs, strict=True)}
        backward, arguments = subject.backward(called, upstream)
        plainly(backward, arguments)
    except Exception:  # the user's code may raise anything
        return False
    return True


def _inputs(
    module: ModuleType,
    forward: Callable[..., Any],
    name: str | None = None,
    *,
    accepts: Callable[[dict[str, Any]], bool],
    model: bool = False,
) -> Callable[[np.random.Generator], Any]:
    """Return what draws a forward's inputs: the module's own function, or what the courses say."""
    given: Any = getattr(module, "inputs", None)
    names = list(parameters_of(forward))
    if given is not None:
        drawn: Any = given(np.random.default_rng(0))
        needed = [p.name for p in parameters_of(forward).values() if p.default is p.empty]
        if set(needed) <= set(drawn):
            return lambda rng: {k: v for k, v in given(rng).items() if k in names}
    draw = inputs_for(forward, name, model=model, accepts=accepts)
    if draw is None or isinstance(draw, Exception):
        why = "are not known" if draw is None else f"of the usual shapes do not fit ({in_short(draw)})"
        raise CheckError(
            f"inputs of {name or forward.__name__}({', '.join(names)}) {why}: write a function "
            "inputs(rng) that returns them by name, drawn from a numpy.random.Generator."
        )
    return draw


def _called(function: FunctionType) -> frozenset[str]:
    source = source_of(function)
    return frozenset(n for s in source.statements for n in reads(s)) if source is not None else frozenset()


@contextlib.contextmanager
def layers_opened(path: Path, draws: int, seed: int) -> Iterator[list[Subject]]:
    """Give the layers that a file has; what it imports stays importable meanwhile."""
    with sandbox(), contextlib.ExitStack() as folders:
        for folder in roots_of(path):
            folders.enter_context(imports_from(folder))
        layers = layers_of(module_of(path), draws=draws, seed=seed)
        if not layers:
            raise CheckError(
                f"{path} has no backward that computes something, only what is to be derived from."
            )
        yield layers
