"""What a backward hands to another function of the user's, in statements of their own, so that it is seen.

In `dx[:, t], dprev = step_backward(dh[:, t] + dprev, cache[t])` the sum has no name: it is known what belongs
there, but not before it stands by itself.
"""

import ast
import copy
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from backhand.checking.running.importing import is_the_users
from backhand.checking.running.program import Source
from backhand.checking.running.returning import blocks
from backhand.checking.running.statements import WRITTEN_AS, root_of
from backhand.checking.sources.courses import is_cache

# What has methods that are no function of the user's.
CONTAINERS = np.ndarray, list, dict, set, str
# What is handed to a method, whose parameters the text does not tell.
GIVEN = "given"


def with_arguments_apart(source: Source, around: Mapping[str, Any]) -> Source:
    """Return a function's source in which what it hands to a call is given a name before that.

    The name is that of the parameter. It is done where the call is all that a statement takes the value of.

    Args:
        source: the function's.
        around: what it sees besides its own variables.
    """
    definition, taken, as_written = copy.deepcopy(source.definition), set(source.local_names), {}
    if definition is None:
        return source

    def another(name: str) -> str:
        free = name
        while free in taken:
            free += "_"
        taken.add(free)
        as_written.update({free: name} if free != name else {})
        return free

    for block in blocks(definition.body):
        for statement in list(block):
            call = statement.value if isinstance(statement, ast.Assign | ast.Expr) else None
            if not isinstance(call, ast.Call):
                continue
            written = copy.deepcopy(statement)
            for place, name in list(_handed(call, source, around)):
                variable = another(name)
                made = ast.Assign([ast.Name(variable, ast.Store())], call.args[place])
                call.args[place] = ast.copy_location(ast.Name(variable, ast.Load()), made.value)
                made = ast.fix_missing_locations(ast.copy_location(made, made.value))
                for part in (made, statement):
                    setattr(part, WRITTEN_AS, written)
                block.insert(block.index(statement), made)
    if taken == source.local_names:
        return source
    return replace(
        source,
        statements=tuple(definition.body),
        definition=definition,
        local_names=frozenset(taken),
        as_written={**source.as_written, **as_written},
    )


def _handed(call: ast.Call, source: Source, around: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield where a call of the user's function is given something, with the parameter's name."""
    handed = ast.BinOp | ast.UnaryOp | ast.Call | ast.Subscript | ast.Name  # another name than the right one
    pairs = zip(call.args, _parameters(call.func, source, around), strict=False)
    for place, (value, name) in enumerate(pairs):
        if isinstance(value, ast.Starred):
            return
        if isinstance(value, handed) and not is_cache(name):
            yield place, name


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
