"""Whole models over NumPy as classes: `loss, grads = model.loss(X, y)`, or `loss` and `gradient` apart."""

import ast
from collections.abc import Mapping

from backhand.checking.running.program import source_of
from backhand.checking.running.returning import returns


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
