"""Which input each gradient belongs to that a function returns, and its source with returns that say so."""

import ast
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backhand.checking.running.program import Source, source_of
from backhand.checking.running.returning import returned_variables, returns, spell_out

# `dx`, `d_x`, `grad_x`, `x_grad`: what is left is the name of the tensor.
PREFIXES = ("d_", "grad_", "grads_", "d", "g")
SUFFIXES = ("_grad", "_gradient", "_d")


def tensor_named(gradient: str) -> list[str]:
    """Return what the tensor of a gradient may be called, the likeliest first.

    >>> tensor_named("dW1"), tensor_named("grad_x")
    (['W1'], ['x', 'rad_x'])
    """
    found = [gradient.removeprefix(p) for p in PREFIXES if gradient.startswith(p)]
    found += [gradient.removesuffix(s) for s in SUFFIXES if gradient.endswith(s)]
    return [name for name in dict.fromkeys(found) if name]


def names_returned(function: Callable[..., Any], count: int, skip: int = 0) -> tuple[str | None, ...]:
    """Return the names that stand in a function's `return`, None for what has none.

    Args:
        function: the backward.
        count: how many gradients it gave.
        skip: how many other values come first, such as the loss.
    """
    source = source_of(function)
    for returned in reversed(returns(source.statements) if source is not None else []):
        found = _elements(returned)[skip:]
        if len(found) == count:
            return tuple(_name(node) for node in found)
    return (None,) * count


def count_returned(function: Callable[..., Any]) -> int:
    """Return how many values a function returns, by its text."""
    source = source_of(function)
    found = returns(source.statements) if source is not None else []
    return len(_elements(found[-1])) if found else 0


def _elements(returned: ast.Return) -> list[ast.expr]:
    if isinstance(returned.value, ast.Tuple | ast.List):
        return returned.value.elts
    return [returned.value] if returned.value is not None else []


def _each_of(returned: ast.Return, least: int, count: int | None) -> list[ast.expr]:
    """Return what is returned, one by one, also where that is one variable that holds them all."""
    value = returned.value
    if count is None and least > 1 and isinstance(value, ast.Name):
        items = [ast.Subscript(value, ast.Constant(i), ast.Load()) for i in range(least)]
        return [ast.fix_missing_locations(ast.copy_location(item, value)) for item in items]
    found = _elements(returned)
    return [] if any(isinstance(node, ast.Starred) for node in found[:least]) else found


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value) if str(node.slice.value).isidentifier() else None
    return node.attr if isinstance(node, ast.Attribute) and node.attr != "T" else None


def assigned_to(
    names: Sequence[str | None], gradients: Sequence[Any], inputs: Mapping[str, Any]
) -> dict[int, str]:
    """Return which input each returned gradient is of: by its name, else by its place and shape.

    Args:
        names: of the gradients, where they have one.
        gradients: what was returned.
        inputs: the floating-point inputs, in order.
    """
    found: dict[int, str] = {}
    for exactly in (True, False):
        for i, name in enumerate(names):
            match = _named(name, inputs, exactly) if name and i not in found else None
            if match is not None and match not in found.values():
                found[i] = match
    for same_shape in (True, False):
        for i, gradient in enumerate(gradients):
            left = [n for n in inputs if n not in found.values()]
            fits = [n for n in left if not same_shape or np.shape(inputs[n]) == np.shape(gradient)]
            if i not in found and fits and gradient is not None:
                found[i] = fits[0]
    return dict(sorted(found.items()))


def _named(name: str, inputs: Mapping[str, Any], exactly: bool) -> str | None:
    candidates = tensor_named(name)
    if exactly:
        return next((c for c in candidates if c in inputs), None)
    lower = {n.lower(): n for n in reversed(list(inputs))}
    return next((lower[c.lower()] for c in candidates if c.lower() in lower), None)


def by_name(
    source: Source,
    gradients: Mapping[int, str],
    count: int | None,
    skip: int = 0,
    also: Mapping[str, str] | None = None,
) -> Source | None:
    """Return a source whose returns give a dictionary; None where one of them gives something else.

    Args:
        source: of the backward.
        gradients: the name of each returned gradient that is judged.
        count: how many it returns; None where more may come after these.
        skip: how many other values come first.
        also: other gradients by name, as expressions over the variables at the end.
    """
    if source.definition is None:
        return None
    definition = copy.deepcopy(source.definition)
    also = also or {}
    if not isinstance(definition.body[-1], ast.Return):
        last = ast.copy_location(ast.Return(None), definition.body[-1])
        definition.body.append(ast.fix_missing_locations(last))
    for returned in returns(definition.body):
        found = _each_of(returned, 1 + max(gradients, default=0), count)[skip:]
        if len(found) <= max(gradients, default=0) or (count is not None and len(found) != count):
            return None
        keys: list[ast.expr | None] = [ast.Constant(name) for name in (*gradients.values(), *also)]
        stored = [ast.parse(where, mode="eval").body for where in also.values()]
        value = ast.Dict(keys, [found[i] for i in gradients] + stored)
        for node in stored:
            ast.increment_lineno(node, returned.lineno - 1)
        returned.value = ast.fix_missing_locations(ast.copy_location(value, returned))
    spell_out(definition.body, source.local_names)
    variables = source.local_names | set(returned_variables(definition.body).values())
    return replace(source, statements=tuple(definition.body), definition=definition, local_names=variables)
