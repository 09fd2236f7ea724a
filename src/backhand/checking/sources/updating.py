"""Layers whose backward moves their parameters on the spot, and keeps no gradient of them.

`self.W -= learning_rate * dW`, `self.W = self.optimizer.update(self.W, dW)`: the gradient is the way that the
parameter went, divided by the rate.
"""

import ast
import contextlib
import copy
import dis
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import numpy as np

from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.program import Source, parameters_of
from backhand.checking.running.returning import blocks
from backhand.checking.sources.held import holders_of

RATE = r"(learn(ing)?_?|l_?)rate|lr|eta|step_?size"
# An alpha may be a slope as well, but not that of a backward's own argument; a letter that is the only one
# is what arrives.
RATE_GIVEN, LETTERS = rf"{RATE}|alpha", ("eta", "alpha")
# What an optimiser is called where a layer is handed one, and the shape of what it will be given.
OPTIMISER, SHAPE = "optimi[sz]er|opt", "((in|input|x)_?)?shape|x_dims?"
# The same of a method that makes the parameters: of a constructor an `input_size` is a number.
SHAPE_TOLD = f"{SHAPE}|in(put)?_?(size|dims)"
# Where the layer as it was before its backward keeps its parameters.
BEGUN = "begun_"


@dataclass(frozen=True)
class PlainStep:
    """An optimiser whose step is the gradient, so that this can be told from the step.

    Of gradients by name, which it is handed with their layer, it takes no step: it leaves them there.
    """

    def update(self, weights: Any, gradient: Any, *_: Any) -> Any:
        """Return weights a step further."""
        if isinstance(gradient, Mapping):
            weights.grads = dict(gradient)
            return weights
        return weights - gradient


@dataclass(frozen=True)
class Steps:
    """The parameters that a backward moves.

    Attributes:
        places: where on the layer each lies, by its gradient's name.
        tensors: which parameter it is of.
        rate: the rate as an expression over the backward's variables, `self` among them; empty where it is 1.
        variables: the gradients that are the values of variables of these names.
    """

    places: Mapping[str, str]
    tensors: Mapping[str, str]
    rate: str = ""
    variables: frozenset[str] = frozenset()

    def called_as(self, found: Mapping[str, np.ndarray], variables: Mapping[str, Any]) -> "Steps":
        """Return the same with each gradient called as the variable that holds it, of those at the end."""
        own = {g: {g: variables[g]} if g in variables else variables for g in found}
        names = {g: _name_of(value, own[g]) or _name_of(value, variables) for g, value in found.items()}
        known = [n for n in names.values() if n]
        names = {g: n if n and known.count(n) == 1 else g for g, n in names.items()}
        places = {names[g]: where for g, where in self.places.items()}
        tensors = {names[g]: n for g, n in self.tensors.items()}
        return Steps(places, tensors, self.rate, frozenset(n for g, n in names.items() if n in known))

    def gradients(self, layer: Any, arguments: Mapping[str, Any], left: Mapping[str, Any]) -> dict[str, Any]:
        """Return the gradients, of a layer after its backward."""
        rate = eval(self.rate, {"self": layer, **arguments}) if self.rate else 1.0
        begun = vars(layer).get(BEGUN, {})
        return {g: (begun[g] - left[where]) / rate for g, where in self.places.items() if where in left}


def with_gradients(
    source: Source | None, steps: Steps, parameters: Collection[str], owner: str
) -> Source | None:
    """Return a backward's source in which what a line moves a parameter by has the name of the gradient.

    Such a name stands for an expression of the user's: `dW = E` before `self.W -= rate * E`. What moves a
    parameter that is not read any more is left out, for lines are looked at with their object as it is last.

    Args:
        source: the backward's.
        steps: the gradients that only the steps show.
        parameters: where on the object all parameters lie.
        owner: the object with its dot, as the backward calls it; empty for global variables.
    """
    if source is None or source.definition is None:
        return source
    definition = copy.deepcopy(source.definition)
    rate = steps.rate.replace("self.", owner, 1)
    wanted = {f"{owner}{where}": g for g, where in steps.places.items()}
    kept_elsewhere = {f"{owner}{where}" for where in parameters}
    for block in blocks(definition.body):
        for statement in list(block):
            handed = _handed(statement, owner)
            if handed is not None:
                block[block.index(statement)] = ast.copy_location(handed, statement)
            target = _target(statement)
            known = target in wanted or target in kept_elsewhere
            made = _moved_by(statement, target, rate) if known else None
            if made is None:
                continue
            at = block.index(statement)
            named = ast.Assign([ast.Name(wanted.get(target, ""), ast.Store())], made)
            has_a_name = isinstance(made, ast.Name) or target not in wanted
            kept: list[ast.stmt] = [] if has_a_name else [named]
            if _is_read_after(statement, target, definition):
                kept.append(statement)
            kept = kept or [ast.Pass()]
            block[at : at + 1] = [ast.fix_missing_locations(ast.copy_location(s, statement)) for s in kept]
    names = source.local_names | set(wanted.values())
    return replace(
        source, statements=tuple(definition.body), definition=definition, local_names=frozenset(names)
    )


def _handed(statement: ast.stmt, owner: str) -> ast.stmt | None:
    """Return as an assignment what a line hands to an optimiser with the object itself; see `PlainStep`."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or len(call.args) < 2 or not owner:
        return None
    to_optimiser = re.fullmatch(rf"{re.escape(owner)}({OPTIMISER})\.update", ast.unparse(call.func).lower())
    if not to_optimiser or f"{ast.unparse(call.args[0])}." != owner:
        return None
    found = ast.parse(f"{owner}grads = {ast.unparse(call.args[1])}").body[0]
    for node in ast.walk(found):
        ast.copy_location(node, statement)
    return found


def _is_read_after(statement: ast.stmt, target: str, within: ast.FunctionDef) -> bool:
    """Tell whether a line below another one, or any line of its loop, names what that moves."""
    loops = [n for n in ast.walk(within) if isinstance(n, ast.For | ast.While) and statement in ast.walk(n)]
    nodes = [n for n in ast.walk(within) if isinstance(n, ast.Attribute | ast.Subscript)]
    below = [n for n in nodes if n.lineno > (statement.end_lineno or statement.lineno)]
    again = [n for loop in loops for n in ast.walk(loop) if n in nodes and n not in ast.walk(statement)]
    return any(ast.unparse(n) == target for n in (*below, *again))


def _target(statement: ast.stmt) -> str:
    if isinstance(statement, ast.AugAssign):
        return ast.unparse(statement.target)
    single = isinstance(statement, ast.Assign) and len(statement.targets) == 1
    return ast.unparse(statement.targets[0]) if single else ""  # type: ignore[attr-defined]


def _moved_by(statement: ast.stmt, target: str, rate: str) -> ast.expr | None:
    """Return the expression of the gradient by which a line moves a parameter, negative where it adds."""
    made = statement.value if isinstance(statement, ast.Assign) else None
    way, operator = None, None
    if isinstance(statement, ast.AugAssign):
        way, operator = statement.value, statement.op
    else:
        if isinstance(made, ast.BinOp) and ast.unparse(made.left) == target:
            way, operator = made.right, made.op
        if isinstance(made, ast.Call) and len(made.args) == 2 and ast.unparse(made.args[0]) == target:
            return copy.deepcopy(made.args[1])
    if way is None or not isinstance(operator, ast.Add | ast.Sub):
        return None
    if rate:
        parts = (way.left, way.right) if isinstance(way, ast.BinOp) and isinstance(way.op, ast.Mult) else ()
        rest = [part for part in parts if ast.unparse(part) != rate]
        if len(rest) != 1:
            return None
        (way,) = rest
    way = copy.deepcopy(way)
    return ast.UnaryOp(ast.USub(), way) if isinstance(operator, ast.Add) else way


def _name_of(value: np.ndarray, variables: Mapping[str, Any]) -> str:
    """Return the variable that holds an array, up to the rounding of the step; empty if none does."""
    arrays = {n: v for n, v in variables.items() if isinstance(v, np.ndarray) and v.shape == value.shape}
    return next((n for n, v in arrays.items() if v.size and np.allclose(v, value, rtol=1e-9, atol=1e-12)), "")


class AtTheEnd(Watcher):
    """Keeps the variables of a function after its last statement."""

    def __init__(self) -> None:
        self.variables: Mapping[str, Any] = {}

    def ran(self, step: int, statement: Any, variables: Mapping[str, Any]) -> None:
        """Keep them."""
        self.variables = dict(variables)


def rate_of(backward: Callable[..., Any], layer: Any) -> str:
    """Return a layer's learning rate as an expression over its backward's variables; empty if it has none."""
    given = next(iter(rates_asked(backward)), "")
    kept = (n for n, v in vars(layer).items() if isinstance(v, float) and re.fullmatch(RATE, n.lower()))
    return given or next((f"self.{n}" for n in kept), "")


def rates_asked(backward: Callable[..., Any]) -> dict[str, float]:
    """Return the learning rates that a backward asks for, by name, each as 1: its step is a gradient then."""
    asked = list(parameters_of(backward))
    is_upstream = len(asked) == 1 and asked[0].lower() in LETTERS
    return {} if is_upstream else {n: 1.0 for n in asked if re.fullmatch(RATE_GIVEN, n.lower())}


def given_besides(backward: Callable[..., Any]) -> dict[str, float]:
    """Return what a backward is given besides what arrives: its rates, and a `_` that it never reads."""
    code = getattr(backward, "__code__", None)
    read = {i.argval for i in dis.get_instructions(code) if "LOAD" in i.opname} if code is not None else set()
    unread = {n: 1.0 for n in parameters_of(backward) if n.startswith("_") and n not in read}
    return rates_asked(backward) | (unread if code is not None else {})


def prepared(layer: Any, shape: tuple[int, ...]) -> Any:
    """Return a layer after the calls that tell it the shape of its input, and with an optimiser."""
    given = ((SHAPE_TOLD, shape), (OPTIMISER, PlainStep()))
    for pattern, value in given:
        for method in methods_asking_for(type(layer), pattern):
            with contextlib.suppress(Exception):  # a helper of its forward, which takes the shape of a batch
                getattr(layer, method)(value)
    for holder in holders_of(layer):  # a model would put one there
        lacking = [n for n, v in vars(holder).items() if v is None and re.fullmatch(OPTIMISER, n.lower())]
        functions = (getattr(type(holder), n) for n in dir(type(holder)))
        called = [f.__code__.co_names for f in functions if isinstance(f, FunctionType)]
        for name in lacking:
            if any({name, "update"} <= {*names} for names in called):
                setattr(holder, name, PlainStep())
    return layer


def methods_asking_for(layer: type, pattern: str) -> Iterator[str]:
    """Yield the methods of a class that ask for one thing, which is called so."""
    for name in dir(layer):
        function = getattr(layer, name)
        if name.startswith("__") or not isinstance(function, FunctionType):
            continue
        asked = [p for p in list(inspect.signature(function).parameters.values())[1:] if p.default is p.empty]
        if len(asked) == 1 and re.fullmatch(pattern, asked[0].name):
            yield name


def in_proportion(once: Mapping[str, np.ndarray], twice: Mapping[str, np.ndarray]) -> bool:
    """Tell whether steps grew as their upstream gradients did, to the double; an optimiser's own do not."""
    return all(np.allclose(2 * once[g], twice[g], rtol=1e-6, atol=1e-9) for g in once)
