"""The arrays on a layer: where they lie, which of them is whose gradient, and what a method leaves there."""

import ast
import copy
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from backhand.checking.running.program import source_of
from backhand.checking.sources.courses import word
from backhand.checking.sources.returned import tensor_named

# What a parameter's value and its gradient are called where they are kept together.
VALUES, GRADIENTS = ("value", "data", "weight", "w", "val"), ("grad", "gradient", "d")
# Layers hold layers, in lists; deeper than this lies no parameter.
DEPTH = 4
# What has a `__dict__` of something else than the state of a layer.
NO_HOLDERS = (type, FunctionType, MethodType, ModuleType, partial)


def copied(value: Any) -> Any:
    """Return a copy of an object and of all that it holds, but for modules: `self.xp = np` stays NumPy."""
    return copy.deepcopy(value, {id(m): m for m in sys.modules.values() if isinstance(m, ModuleType)})


def arrays_of(value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of numbers on an object, in lists and on objects that it holds, by their path."""
    for path, held in _held(value):
        if isinstance(held, np.ndarray | np.generic) and held.dtype.kind in "fiub":
            yield path, np.asarray(held)


def holders_of(value: Any) -> Iterator[Any]:
    """Yield an object and all that it holds, in lists too, that have attributes of their own."""
    return (
        held for _, held in _held(value) if hasattr(held, "__dict__") and not isinstance(held, NO_HOLDERS)
    )


def _held(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield an object, and what is held by it and by that, by its path."""
    yield path, value
    if depth > DEPTH or isinstance(value, np.ndarray | np.generic):
        return
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{path}[{key!r}]", v) for key, v in value.items() if isinstance(key, str | int)]
    elif isinstance(value, list | tuple):
        items = [(f"{path}[{i}]", v) for i, v in enumerate(value)]
    elif hasattr(value, "__dict__") and not isinstance(value, NO_HOLDERS):  # `layer(x)` may be a call
        items = [(f"{path}.{name}" if path else name, v) for name, v in vars(value).items()]
    for inner, item in items:
        yield from _held(item, inner, depth + 1)


def put(layer: Any, path: str, value: Any) -> None:
    """Put an array where another one is, wherever else that is held too."""
    there = {"layer": layer}
    old = eval(f"layer.{path}", there)
    places = [where for where, array in arrays_of(layer) if array is old] or [path]
    for where in places:
        try:
            exec(f"layer.{where} = value", there | {"value": value})
        except TypeError:  # within a tuple: it is held elsewhere as well, or it is no parameter
            continue


def once(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return one path for each array, the shortest."""
    first: dict[int, str] = {}
    for where in sorted(arrays, key=lambda path: len(re.findall(r"\w+", path))):
        first.setdefault(id(arrays[where]), where)
    return [where for where in arrays if where in first.values()]


def is_another_part(places: Sequence[str], gradient: str, left: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a gradient is what another layer adds to that of a parameter which both have."""
    if any(left[gradient] is left[place] for place in places):
        return False
    first, other = (
        {re.sub(r"\d+", "0", where) for where, array in left.items() if array is left[one]}
        for one in (places[0], gradient)
    )
    return bool(first & other)  # as `layers[0].grads[0]` and `layers[1].grads[0]` are


def pairs_of(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each gradient's path with its parameter's.

    >>> list(pairs_of(["W", "params[0]"], ["W", "params[0]", "dW", "grads[0]"]))
    [('dW', 'W'), ('grads[0]', 'params[0]')]
    >>> list(pairs_of(["weights", "bias"], ["weights", "bias", "gradients['dLdW']", "dLdb"]))
    [("gradients['dLdW']", 'weights'), ('dLdb', 'bias')]
    """
    taken: set[str] = set()
    for gradient in after:
        for where in (*_parameters_of(gradient), *_in_other_words(gradient, before)):
            if where in before and where not in taken and where != gradient:
                taken.add(where)
                yield gradient, where
                break


def stored_gradients(
    before: Mapping[str, np.ndarray],
    left: Mapping[str, np.ndarray],
    parameters: Mapping[str, str],
    inputs: Mapping[str, Any],
    taken: Sequence[str],
) -> tuple[dict[str, str], dict[str, tuple[str, ...]], dict[str, str]]:
    """Return more parameters by their names, where their gradients are left, and whose each of these is.

    Args:
        before: the arrays on a layer before its backward, by their paths.
        left: those after it.
        parameters: those whose gradients are returned.
        inputs: of the forward.
        taken: names that no gradient may have.
    """
    more: dict[str, str] = {}
    stored: dict[str, tuple[str, ...]] = {}
    named: dict[str, str] = {}
    for gradient, where in pairs_of(list(before), list(left)):
        same = [n for n, w in {**parameters, **more}.items() if before[where] is before[w]]
        if not same:
            name, told = plain_name(where, inputs), plain_name(gradient, taken)
            more[name], stored[told], named[told] = where, (gradient,), name
        elif told := next((g for g, n in named.items() if n == same[0]), ""):  # else it is returned
            stored[told] += (gradient,) * is_another_part(stored[told], gradient, left)
    return more, stored, named


def _parameters_of(gradient: str) -> Iterator[str]:
    """Yield where the parameter of a gradient may lie."""
    match = re.fullmatch(r"((?:.*\.)?)(\w+)((?:\[[^]]*\])?)", gradient)
    if match is None:
        return
    owner, name, item = match.groups()
    if name.startswith("_"):  # `_gradient_weights`, of `weights` or of `_weights`
        for where in _parameters_of(f"{owner}{name.lstrip('_')}{item}"):
            own = where.removeprefix(owner)
            yield from (where, f"{owner}_{own}")
        return
    if item and re.match(r"d|grad", name):
        yield from (f"{owner}{container}{item}" for container in ("params", "parameters", "weights", "W"))
        key = ast.literal_eval(item[1:-1])
        if isinstance(key, str):
            for tensor in (key, *tensor_named(key)):
                yield from (f"{owner}{tensor}", f"{owner}params[{tensor!r}]")
    yield from _beside(owner, name, item)
    if not item:
        for tensor in (*tensor_named(name), *tensor_named(name.replace("gradient", "grad"))):
            yield from (f"{owner}{tensor}", f"{owner}{tensor.rstrip('s')}", f"{owner}{tensor}s")


def _in_other_words(gradient: str, before: Sequence[str]) -> list[str]:
    """Return the weights or the bias of the object that holds a `dW` or `db`, whatever they are called."""
    match = re.fullmatch(r"((?:.*\.)?)(\w+)(?:\['(\w+)'\])?", gradient)
    if match is None or not re.match("d|grad", match.group(2)):
        return []
    owner, name, key = match.groups()
    words = {word(tensor) for tensor in tensor_named(key or name)} & {"w", "b"}
    beside = (where for where in before if where.startswith(owner) and where[len(owner) :].isidentifier())
    found = [where for where in beside if word(where[len(owner) :]) in words]
    return found if len(found) == 1 else []


def _beside(owner: str, name: str, item: str) -> Iterator[str]:
    """Yield where a parameter lies that is kept together with its gradient."""
    if not item and name in GRADIENTS:
        yield from (f"{owner}{value}" for value in VALUES)
    if item.strip("[]'") in GRADIENTS:
        yield from (f"{owner}{name}[{value!r}]" for value in VALUES)


def plain_name(path: str, taken: Sequence[str] | Mapping[str, Any]) -> str:
    """Return a path as a name.

    >>> plain_name("layers[0].W", []), plain_name("params['W1']", [])
    ('layers_0_W', 'W1')
    """
    short = re.fullmatch(r"\w+\['(\w+)'\]", path)
    says = short is not None and short.group(1) not in (*VALUES, *GRADIENTS)
    name = short.group(1) if short and says else "_".join(re.findall(r"\w+", path))
    return f"own_{name}" if name in taken else name


def _kept_by(method: Callable[..., Any]) -> list[str]:
    """Return what a method puts on its object, in the order of its text."""
    source = source_of(method)
    nodes = [n for s in source.statements for n in ast.walk(s)] if source is not None else []
    stored = [n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    owner = next(iter(source.definition.args.args)).arg if source is not None and source.definition else ""
    return [n.attr for n in stored if isinstance(n.value, ast.Name) and n.value.id == owner]


def output_left_by(forward: Callable[..., Any], layer: Any) -> str:
    """Return where a forward that returns nothing leaves its output: what is called so, else the last."""
    stored = _kept_by(forward)
    called = [n for n in (*stored[::-1], *vars(layer)) if "out" in n.lower()]
    return next(iter((*called, *stored[::-1])), "output")


def gradients_left(
    backward: Callable[..., Any],
    begun: Mapping[str, np.ndarray],
    left: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    named: Mapping[str, str],
    given: Any,
) -> Iterator[tuple[str, str]]:
    """Yield what a backward leaves on its object of an input's gradient, with that input.

    Its name tells, or, where nothing is returned and one input is left, its shape.
    """
    rest = {n: v for n, v in inputs.items() if n not in named.values()}
    kept = [w for w in left if w not in begun or not np.array_equal(left[w], begun[w])]
    for where in sorted(kept, key=[*_kept_by(backward), *kept].index):
        if where in named or not re.match("d|grad", where) or not where.isidentifier():
            continue
        tensors = tensor_named(where)
        found = [n for n in rest if n in tensors or word(n) in map(word, tensors)]
        if not found and given in ((), ...) and len(rest) == 1:
            found = [n for n, v in rest.items() if v.shape == left[where].shape]
        if found:
            rest.pop(found[0])
            yield where, found[0]
