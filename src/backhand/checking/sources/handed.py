"""What a backward hands to another function, in statements of their own, so that it is seen.

In `dx[:, t], dprev = step_backward(dh[:, t] + dprev, cache[t])` the sum has no name: it is known what belongs
there, but not before it stands by itself.
"""

import ast
import copy
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from backhand.checking.running.importing import is_the_users
from backhand.checking.running.program import Source
from backhand.checking.running.returning import blocks
from backhand.checking.running.statements import ONLY_TAKES, WRITTEN_AS, root_of
from backhand.checking.running.taken import Taken
from backhand.checking.sources.courses import is_cache

# What has methods that are no function of the user's.
CONTAINERS = np.ndarray, list, dict, set, str
# What is handed to a method, whose parameters the text does not tell.
GIVEN = "given"
# What is given a name, if it has another one than the right one.
HANDED = ast.BinOp | ast.UnaryOp | ast.Call | ast.Subscript | ast.Name


def with_arguments_apart(source: Source, around: Mapping[str, Any]) -> Source:
    """Return a function's source in which what it hands to a call is given a name before that.

    The name is that of the parameter. It is done where the call is all that a statement takes the value of.

    Args:
        source: the function's.
        around: what it sees besides its own variables.
    """
    return _apart(source, lambda call: _handed(call, source, around))


def with_upstreams_apart(source: Source, around: Mapping[str, Any]) -> Source:
    """Return a function's source in which what it hands to autograd is given a name before that.

    A backward that runs the forward again asks `torch.autograd.grad(y, [x, *weights], dy)`: what arrives at
    `y` is known, and belongs in the last place.

    Args:
        source: the function's.
        around: what it sees besides its own variables.
    """
    found = _apart(source, lambda call: _upstreams(call, around))
    for statement in found.simple:
        if isinstance(statement, ast.Expr) and hasattr(statement, WRITTEN_AS):
            setattr(statement, ONLY_TAKES, True)
    return found


def _apart(source: Source, handed: Callable[[ast.Call], Iterable[tuple[ast.expr, str]]]) -> Source:
    """Return a source with what its calls are handed, each with a name, in statements of their own."""
    definition, taken = (
        copy.deepcopy(source.definition),
        Taken(set(source.local_names), {**source.as_written}),
    )
    if definition is None:
        return source
    for block in blocks(definition.body):
        for statement in list(block):
            call = statement.value if isinstance(statement, ast.Assign | ast.Expr) else None
            if not isinstance(call, ast.Call):
                continue
            written = copy.deepcopy(statement)
            for value, name in list(handed(call)):
                variable = taken.another(name)
                made = ast.Assign([ast.Name(variable, ast.Store())], value)
                _put(call, value, ast.copy_location(ast.Name(variable, ast.Load()), value))
                made = ast.fix_missing_locations(ast.copy_location(made, made.value))
                for part in (made, statement):
                    setattr(part, WRITTEN_AS, written)
                block.insert(block.index(statement), made)
    return source if taken.names == source.local_names else taken.rewritten(source, definition)


def _put(call: ast.Call, value: ast.expr, instead: ast.expr) -> None:
    """Put an expression in the place of one that a call is given."""
    for parent in ast.walk(call):
        for field, held in ast.iter_fields(parent):
            if held is value:
                setattr(parent, field, instead)
            elif isinstance(held, list):
                held[:] = [instead if each is value else each for each in held]


def _handed(call: ast.Call, source: Source, around: Mapping[str, Any]) -> Iterator[tuple[ast.expr, str]]:
    """Yield where a call of the user's function is given something, with the parameter's name."""
    pairs = zip(call.args, _parameters(call.func, source, around), strict=False)
    for value, name in pairs:
        if isinstance(value, ast.Starred):
            return
        if isinstance(value, HANDED) and not is_cache(name):
            yield value, name


def _upstreams(call: ast.Call, around: Mapping[str, Any]) -> Iterator[tuple[ast.expr, str]]:
    """Yield the gradients that autograd is given of what it is to differentiate."""
    import torch  # who looks at layers over NumPy does without

    # where among the arguments of what differentiates they stand, and what they are called
    upstreams = {
        torch.autograd.grad: (2, "grad_outputs"),
        torch.autograd.backward: (1, "grad_tensors"),
        torch.Tensor.backward: (0, "gradient"),
    }
    function = _held(call.func, around)
    if isinstance(call.func, ast.Attribute) and call.func.attr == "backward" and function is None:
        function = torch.Tensor.backward  # of a variable
    place, name = upstreams.get(function, (0, "")) if isinstance(function, FunctionType) else (0, "")
    in_order = itertools.takewhile(lambda value: not isinstance(value, ast.Starred), call.args)
    given = [*itertools.islice(in_order, place, place + 1)] if name else []
    given += [keyword.value for keyword in call.keywords if name and keyword.arg == name]
    for value in given:
        several = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
        yield from ((each, name) for each in several if isinstance(each, HANDED))


def _parameters(called: ast.expr, source: Source, around: Mapping[str, Any]) -> Iterable[str]:
    """Return the names of the parameters of what is called; none if that is no function of the user's."""
    if isinstance(called, ast.Attribute) and root_of(called) in source.local_names - around.keys():
        is_own = not any(hasattr(kind, called.attr) for kind in CONTAINERS)
        return itertools.repeat(GIVEN) if is_own else ()
    function = _held(called, around)
    if not isinstance(function, FunctionType) or not is_the_users(function.__globals__):
        return ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return names[1:] if isinstance(called, ast.Attribute) and not _is_module(called.value, around) else names


def _held(called: ast.expr, around: Mapping[str, Any]) -> Any:
    """Return what an expression of names and attributes is, without running anything."""
    if isinstance(called, ast.Name):
        return around.get(called.id)
    if not isinstance(called, ast.Attribute):
        return None
    owner = _held(called.value, around)
    found = getattr(owner, "__dict__", {}).get(called.attr)
    return inspect.getattr_static(type(owner), called.attr, None) if found is None else found


def _is_module(called: ast.expr, around: Mapping[str, Any]) -> bool:
    return isinstance(_held(called, around), ModuleType | type)
