"""Functions that find their parameters among the global variables of their module, as min-char-rnn does.

Such variables are to them what the arrays on a layer are to its methods. So they are held as a layer that has
the functions for methods, and each call sees the layer's arrays in the place of the module's.
"""

import ast
import contextlib
import copy
import dis
import inspect
from collections.abc import Callable, Collection, Iterator, MutableMapping
from dataclasses import replace
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any, ClassVar

from backhand.checking.running.program import Source, parameters_of, plain_function
from backhand.checking.sources.held import arrays_of


class Globals:
    """The global variables with arrays that some functions read, those that they call among them.

    What derives from it has the functions as its methods, `loss`, or `forward` and `backward`.
    """

    space: ClassVar[MutableMapping[str, Any]]


def held_globally(
    forward: Callable[..., Any], backward: Callable[..., Any] | None, title: str
) -> Globals | None:
    """Return the arrays that two functions read as global variables, as a layer; None where there are none.

    Args:
        forward, backward: the functions; without a backward the one gives a loss and its gradients.
        title: what they are called.
    """
    functions = [plain_function(f)[0] for f in (forward, backward) if f is not None]
    space = functions[0].__globals__
    read = {n: space[n] for f in functions for n in read_by(f, space) if n in space}
    held = {n: v for n, v in read.items() if not _is_no_variable(v) and any(True for _ in arrays_of(v))}
    if not held or any(f.__globals__ is not space for f in functions):
        return None
    names = ("forward", "backward") if backward is not None else ("loss",)
    methods = {name: staticmethod(f) for name, f in zip(names, functions, strict=True)}
    layer = type(title, (Globals,), {**methods, "space": space})()
    vars(layer).update(copy.deepcopy(held))
    return layer


def sizes_of(layer: Any) -> tuple[int, ...]:
    """Return how long the axes of a layer's arrays are, of none nothing."""
    shapes = [array.shape for _, array in arrays_of(layer)] if layer is not None else []
    return tuple(dict.fromkeys(size for shape in shapes for size in shape if size > 1))


def _is_no_variable(value: Any) -> bool:
    return isinstance(value, ModuleType | type) or callable(value)


def read_by(function: FunctionType, space: MutableMapping[str, Any]) -> list[str]:
    """Return the global variables that a function reads or binds, and those that it calls of its module."""
    found: dict[str, None] = {}
    stack = [function]
    seen: set[CodeType] = set()
    while stack:
        code = stack.pop().__code__
        if code in seen:
            continue
        seen.add(code)
        for name in _globals_in(code):
            found[name] = None
            value = inspect.unwrap(space[name]) if callable(space.get(name)) else None
            if isinstance(value, FunctionType) and value.__globals__ is space:
                stack.append(value)
    return list(found)


@lru_cache(maxsize=256)
def _globals_in(code: CodeType) -> tuple[str, ...]:
    inner = [name for c in code.co_consts if isinstance(c, CodeType) for name in _globals_in(c)]
    return (*(i.argval for i in dis.get_instructions(code) if i.opname.endswith("_GLOBAL")), *inner)


@lru_cache(maxsize=256)
def _bound_in(code: CodeType) -> frozenset[str]:
    """Return the names that a function assigns, as global variables or as its own."""
    bound = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_GLOBAL"}
    return frozenset({*code.co_varnames, *code.co_cellvars, *bound})


@contextlib.contextmanager
def in_place(layer: Any) -> Iterator[None]:
    """Let a layer's arrays be the global variables that its functions see; it keeps what they are bound to.

    A layer of any other kind is left as it is.
    """
    if not isinstance(layer, Globals):
        yield
        return
    space, before = layer.space, dict(layer.space)
    space.update(vars(layer))
    try:
        yield
    finally:
        bound = {n: v for n, v in space.items() if n in vars(layer) or before.get(n, layer) is not v}
        vars(layer).update({n: v for n, v in bound.items() if not _is_no_variable(v)})
        for name in bound.keys() - before.keys():
            del space[name]
        space.update({n: before[n] for n in bound if n in before})


def seen_by(layer: Any, function: Callable[..., Any]) -> dict[str, Any]:
    """Return the arrays that a function sees as global variables and does not bind, by their names."""
    if not isinstance(layer, Globals):
        return {}
    plain = plain_function(function)[0]
    read = set(_globals_in(plain.__code__)) - _bound_in(plain.__code__) - {*parameters_of(plain)}
    return {n: v for n, v in vars(layer).items() if n in read}


def owner_of(layer: Any, method: Callable[..., Any]) -> str:
    """Return what stands before the name of a layer's array in one of its methods, `self.` or nothing."""
    return "" if isinstance(layer, Globals) else f"{next(iter(parameters_of(plain_function(method)[0])))}."


def taking(source: Source | None, names: Collection[str]) -> Source | None:
    """Return a function's source with more parameters, so that these are variables like all others."""
    if source is None or source.definition is None or not names:
        return source
    definition = copy.copy(source.definition)
    definition.args = copy.copy(definition.args)
    definition.args.kwonlyargs = [*definition.args.kwonlyargs, *(ast.arg(name) for name in names)]
    definition.args.kw_defaults = [*definition.args.kw_defaults, *(None for _ in names)]
    return replace(source, definition=definition, local_names=source.local_names | {*names})
