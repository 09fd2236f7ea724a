"""What a module has over NumPy: which values are layers or models, which function is whose forward."""

import ast
import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import FunctionType
from typing import Any

from backhand.checking.running.program import parameters_of, source_of
from backhand.checking.running.returning import returns
from backhand.checking.sources.returned import tensor_named

_judging: ContextVar[bool] = ContextVar("what is called is called by the checker", default=False)


@contextlib.contextmanager
def judging() -> Iterator[None]:
    """Tell those who watch for the user's calls that what is called meanwhile is none of them."""
    token = _judging.set(True)
    try:
        yield
    finally:
        _judging.reset(token)


def is_judging() -> bool:
    """Tell whether what is called is called by the checker, not by the user."""
    return _judging.get()


def is_layer(value: object) -> bool:
    """Tell whether a value is a class with a forward and a backward of its own, and none of torch."""
    if not isinstance(value, type):
        return False
    parts = [getattr(value, name, None) for name in ("forward", "backward")]
    plain = all(isinstance(part, FunctionType) for part in parts)
    plain = plain and not any(base.__module__.startswith("torch") for base in value.__mro__)
    # an interface whose methods do nothing but raise is there to be derived from
    return plain and not any(_only_raises(part) for part in parts)


def is_static(layer: type) -> bool:
    """Tell whether a class's two functions need no object of it."""
    return all(isinstance(inspect.getattr_static(layer, n), staticmethod) for n in ("forward", "backward"))


def is_model(value: object) -> bool:
    """Tell whether a value is a class that gives a loss and its gradients, and none of torch."""
    if not isinstance(value, type) or any(base.__module__.startswith("torch") for base in value.__mro__):
        return False
    return calls_of(value) is not None


def calls_of(model: type) -> tuple[str, str] | None:
    """Return which of a class's methods give the loss, and which the gradients; None if it is no model.

    >>> class Model:
    ...     def loss(self, x, y):
    ...         loss = ((x - y) ** 2).sum()
    ...         return loss, {}
    >>> calls_of(Model)
    ('loss', 'loss')
    """
    if all(callable(getattr(model, name, None)) for name in ("forward", "backward")):
        return None
    methods = {n: getattr(model, n) for n in dir(model) if callable(getattr(model, n, None)) and n[0] != "_"}
    sources = {n: source_of(f) for n, f in methods.items() if "loss" in n or "grad" in n}
    return calls_among({n: s.definition for n, s in sources.items() if s is not None and s.definition})


def calls_among(methods: Mapping[str, ast.FunctionDef]) -> tuple[str, str] | None:
    """Return the same of a class's methods as they stand in the text."""
    losses = [n for n in methods if "loss" in n]
    for name in losses:
        tuples = [r.value for r in returns(methods[name].body) if isinstance(r.value, ast.Tuple)]
        if "grad" in name or any(len(t.elts) > 1 for t in tuples):
            return name, name
    gradient = next((n for n in methods if n in ("gradient", "gradients", "grad")), None)
    return (losses[0], gradient) if losses and gradient is not None else None


def _only_raises(function: Any) -> bool:
    source = source_of(function)
    body = [s for s in source.statements if not isinstance(s, ast.Expr)] if source is not None else []
    return source is not None and all(isinstance(s, ast.Raise | ast.Pass) for s in body)


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
