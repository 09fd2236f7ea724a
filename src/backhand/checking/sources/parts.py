"""Parts of a user's function as functions of their own, with the lines of that."""

import ast
import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import FunctionType, MethodType
from typing import Any

from backhand.checking.running.program import made_of, plain_function, source_of
from backhand.checking.running.statements import reads
from backhand.checking.sources.chapters import needed_for
from backhand.checking.sources.numpy_truths import Call
from backhand.checking.sources.returned import is_called_a_loss
from backhand.checking.sources.roles import STEP
from backhand.checking.sources.steps import Step


def called_for_its_loss(function: Callable[..., Any], arguments: Mapping[str, Any], call: Call) -> Any:
    """Call a function that gives a loss with its gradients; for the loss alone where these raise.

    So a wrong line of the gradients is told, and not what the whole raises.
    """
    alone = loss_alone(plain_function(function)[0])
    try:
        found = call(function, arguments)
    except Exception:  # the user's code may raise anything
        if alone is None:
            raise
        found = None
    if found is not None or alone is None:  # what is watched gives nothing where it raised
        return found
    owner = getattr(function, "__self__", None)
    return call(alone if owner is None else MethodType(alone, owner), arguments)


@lru_cache(maxsize=64)
def loss_alone(function: FunctionType) -> FunctionType | None:
    """Return a function that gives a loss and its gradients without the lines that only these need.

    It gives the loss and None. None if it does not end in a `return` of several values.
    """
    source = source_of(function)
    last = source.statements[-1] if source is not None else None
    if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Tuple) or len(last.value.elts) < 2:
        return None
    assert source is not None
    loss = next(filter(is_called_a_loss, last.value.elts), last.value.elts[0])
    returned = ast.Return(ast.Tuple([copy.deepcopy(loss), ast.Constant(None)], ast.Load()))
    ast.fix_missing_locations(ast.copy_location(returned, last))
    return part_of(function, [*needed_for(source.statements[:-1], reads(returned)), returned])


def part_of(
    function: FunctionType, body: Sequence[ast.stmt], needed: Collection[str] | None = None
) -> FunctionType | None:
    """Return a function of some statements of another one's; None if it is a closure.

    Args:
        function: the other one.
        body: the statements.
        needed: the parameters that are kept, besides the first one; all by default.
    """
    source = source_of(function)
    if source is None or source.definition is None or function.__closure__:
        return None
    definition = copy.deepcopy(source.definition)
    definition.body, definition.decorator_list, definition.returns = [*map(copy.deepcopy, body)], [], None
    given = definition.args
    kept = [n for i, n in enumerate(given.args) if not i or needed is None or n.arg in needed]
    defaults = _defaults_of(function)
    for one in (*given.args, *given.kwonlyargs):
        one.annotation = None  # it may name what only the class knows, as a default may
    given.args, given.defaults = kept, [ast.Constant(None) for n in kept if n.arg in defaults]
    given.kw_defaults = [ast.Constant(None) if n.arg in defaults else None for n in given.kwonlyargs]
    module, space = ast.fix_missing_locations(ast.Module([definition], [])), dict[str, Any]()
    exec(compile(module, function.__code__.co_filename, "exec"), function.__globals__, space)
    found: FunctionType = space[definition.name]
    found.__defaults__ = tuple(defaults[n.arg] for n in kept if n.arg in defaults)
    found.__kwdefaults__ = function.__kwdefaults__
    found.__module__, found.__qualname__ = function.__module__, function.__qualname__
    return made_of(found, replace(source, statements=tuple(definition.body), definition=definition))


def _defaults_of(function: FunctionType) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def with_step(layer: type) -> type | None:
    """Return a class with what its method that trains makes, as a method of a model; None if none does."""
    methods: Mapping[str, object] = {n: getattr(layer, n) for n in vars(layer) if n[:2] != "__"}
    for method in methods.values():
        source = source_of(method) if isinstance(method, FunctionType) else None
        if source is None or source.definition is None or not isinstance(method, FunctionType):
            continue
        if (step := Step.of(source.definition)) is None:
            continue
        body = step.body()
        read = {n for s in body for n in reads(s)}
        if (found := part_of(method, body, read)) is not None:
            return type(layer.__name__, (layer,), {STEP: found, "__module__": layer.__module__})
    return None
