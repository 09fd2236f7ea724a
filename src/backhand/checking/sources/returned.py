"""Which input each gradient belongs to that a function returns, and its source with returns that say so.

Gradients are returned in a row, `dx, dw`, or in a dictionary, `grads["W1"]`, alone or beside a loss.
"""

import ast
import copy
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np

from backhand.checking.running.program import Source, plain_function, source_of
from backhand.checking.running.returning import blocks, returned_variables, returns, spell_out
from backhand.checking.running.statements import RIGHT_AS_IT_IS, reads, root_of, simple_statements
from backhand.checking.sources.chapters import changes, needed_for
from backhand.checking.sources.courses import word
from backhand.checking.sources.handed import with_arguments_apart

# `dx`, `d_x`, `grad_x`, `x_grad`: what is left is the name of the tensor.
PREFIXES = ("d_", "grad_", "grads_", "d", "g")
SUFFIXES = ("_grad", "_gradient", "_d")
# `dLdW`, `dL_dx`, `dloss_dx`: of what it is the derivative is said as well.
OF_THE_LOSS = r"d(L|J|C|E|loss|cost|out)_?d_?(?=\w)"


def tensor_named(gradient: str) -> list[str]:
    """Return what the tensor of a gradient may be called, the likeliest first.

    >>> tensor_named("dW1"), tensor_named("grad_x"), tensor_named("grad"), tensor_named("dL_dx")[0]
    (['W1'], ['x'], [], 'x')
    """
    beside = re.match(f"{OF_THE_LOSS}|grads?(?=[A-Z])", gradient)
    prefixes = [beside.group()] if beside else []
    prefixes += [p for p in PREFIXES if gradient.startswith(p) and not (p == "g" and gradient[:4] == "grad")]
    found = [gradient.removeprefix(p) for p in prefixes]
    found += [gradient.removesuffix(s) for s in SUFFIXES if gradient.endswith(s)]
    return [name for name in dict.fromkeys(found) if name]


# Where among what is returned a value stands: its number, in a dictionary or a list with its key.
Place = int | tuple[int, str | int]


@dataclass(frozen=True)
class Returned:
    """The gradients that a function returns.

    Attributes:
        function: the user's.
        places: the name of each gradient that is judged, by its place.
        named: which tensor each of these belongs to.
        count: how many values are returned, dictionaries among them.
        loss: whether the loss of which they are the gradients is one of these values.
    """

    function: Callable[..., Any]
    places: Mapping[Place, str]
    named: Mapping[str, str]
    count: int
    loss: bool = False

    @staticmethod
    def of(
        function: Callable[..., Any],
        found: Any,
        tensors: Mapping[str, Any],
        taken: Collection[str],
        *,
        parameters: Mapping[str, Any] | None = None,
        loss: bool = False,
    ) -> "Returned":
        """Return which gradient stands where.

        Args:
            function: the user's.
            found: what it returned once; `...` where it raised, then its text tells.
            tensors: the inputs that may have a gradient, by name.
            taken: names that are no gradient's.
            parameters: what else may have one; its name tells, not its place.
            loss: a loss stands among them.
        """
        raised = found is ...
        values = (() if raised else as_tuple(found)) or (None,) * _count(function)
        names = _names(function, values)
        if loss:  # beside it may stand what is handed on to the next call, as `hs[-1]`
            nodes = _returned(source_of(function), len(values))
            others = {i for i, node in enumerate(nodes) if not _may_be_a_gradient(node)}
            first = 0 if raised else loss_among(values, function)
            names = {p: n for p, n in names.items() if p not in {*others, first}}
        judged = _assigned(names, values, tensors, parameters or {}, raised)
        places = {
            place: name if (name := names[place]) and name not in taken else f"d{tensor}"
            for place, tensor in judged.items()
        }
        return Returned(function, places, {places[p]: t for p, t in judged.items()}, len(values), loss)

    def gradients(self, found: Any) -> dict[str, Any]:
        """Return the gradients by name, of what the function returned."""
        values = as_tuple(found)
        return {
            name: _at(values, place)
            for place, name in self.places.items()
            if (place if isinstance(place, int) else place[0]) < len(values)
        }

    def mended(self, found: Any, gradients: Mapping[str, Any]) -> Any:
        """Return what the function returned with other gradients, by name, in their places.

        Where it raised, `found` is `...`, its text tells how many values it returns.
        """
        if found is ...:
            found = (None,) * self.count if self.count > 1 else None
        values = list(as_tuple(found)) or [None] * self.count
        for place, name in self.places.items():
            if isinstance(place, int):
                values[place] = gradients[name]
            else:
                at, key = place
                held = dict(values[at]) if isinstance(values[at], Mapping) else list(values[at])
                held[key] = gradients[name]  # type: ignore[index]
                values[at] = held
        return type(found)(values) if isinstance(found, tuple | list) else next(iter(values), None)

    def source(self, also: Mapping[str, str] | None = None, source: Source | None = None) -> Source | None:
        """Return the function's source with returns that give the gradients by name.

        Args:
            also: other gradients by name, as expressions over the variables at the end.
            source: the function's, where it has been changed.
        """
        source = source or self.original
        found = _by_name(source, self.places, self.count, also or {}) if source is not None else None
        if found is None or found.definition is None:
            return found
        function, owner = plain_function(self.function)
        own = dict(zip(function.__code__.co_varnames, owner, strict=False))
        found = with_arguments_apart(found, {**function.__globals__, **own})
        if self.loss:
            values = _returned(self.original, self.count)
            loss = next(filter(is_called_a_loss, values), values[0])
            _leave_as_they_are(found.statements, reads(ast.Expr(loss)) if loss is not None else ())
        return found

    @cached_property
    def original(self) -> Source | None:
        """The function's source as it stands."""
        return source_of(self.function)


def as_tuple(returned: Any) -> tuple[Any, ...]:
    """Return what a function returned as its values."""
    if returned is None:
        return ()
    return tuple(returned) if isinstance(returned, tuple | list) else (returned,)


def loss_among(values: Sequence[Any], function: Callable[..., Any] | None = None) -> int | None:
    """Return where the loss stands among the values that a function returns: the first single number.

    Of several the text of the function tells which is a loss, as of `return accuracy, loss`. Where there is
    none, an array of one element may be it.
    """
    held = (Mapping, list, tuple, type(None))
    sizes = {i: (np.ndim(v), np.size(v)) for i, v in enumerate(values) if not isinstance(v, held)}
    numbers = [i for i, (axes, _) in sizes.items() if not axes]
    if len(numbers) > 1 and function is not None:
        nodes = _returned(source_of(function), len(values))
        numbers = [i for i in numbers if is_called_a_loss(nodes[i])] or numbers
    return next(iter(numbers), next((i for i, (_, size) in sizes.items() if size == 1), None))


def _leave_as_they_are(statements: Sequence[ast.stmt], loss: Collection[str]) -> None:
    """Note on the statements that make a loss that they are right: what it is, they say.

    One that makes something else besides, as a loop that adds up loss and gradients, may be wrong.
    """
    making = needed_for(statements, loss)
    asked = frozenset(loss).union(*map(reads, making))
    for s in simple_statements([s for s in making if changes(s) <= asked]):
        setattr(s, RIGHT_AS_IT_IS, True)


def is_called_a_loss(node: ast.expr | None) -> bool:
    """Tell by the text of what is returned whether it is a loss."""
    return node is not None and re.search("loss|cost", ast.unparse(node).lower()) is not None


def _may_be_a_gradient(node: ast.expr | None) -> bool:
    """Tell by the name of a returned value whether it may be one; what has none may be one."""
    name = root_of(node) if node is not None else None
    return name is None or re.match("_*(d|g|nabla|self$)|.*(grad|deriv)", name) is not None


def _at(values: Sequence[Any], place: Place) -> Any:
    if isinstance(place, int):
        return values[place]
    held, key = values[place[0]], place[1]
    if isinstance(held, Mapping):
        return held.get(key)
    if not isinstance(held, list | tuple) or not isinstance(key, int):
        return None
    return held[key] if key < len(held) else None


def names_returned(function: Callable[..., Any], count: int | None = None) -> tuple[str | None, ...]:
    """Return the names in a function's last `return`, of so many values; None for what has none."""
    count = _count(function) if count is None else count
    return tuple(_name(node) for node in _returned(source_of(function), count))


def _names(function: Callable[..., Any], values: Sequence[Any]) -> dict[Place, str | None]:
    """Return the places of what a function returns, each with the name that it has in the text, if any."""
    source = source_of(function)
    found: dict[Place, str | None] = {}
    for i, (value, node) in enumerate(zip(values, _returned(source, len(values)), strict=True)):
        keys = [k for k in value if isinstance(k, str)] if isinstance(value, Mapping) else []
        if value is None and source is not None and isinstance(node, ast.Name):
            keys = keys_put(source.statements, node.id)
        found |= {(i, key): key for key in keys} if keys else {i: _name(node)}
        if is_row_of_arrays(value):
            found.pop(i)
            written = node.elts if isinstance(node, ast.List | ast.Tuple) else []  # `dx, [dW, db]`
            names = [_name(n) for n in written] if len(written) == len(value) else [None] * len(value)
            row = _name(node) or "gradients"
            found |= {(i, k): name or f"{row}_{k}" for k, name in enumerate(names)}
    return found


def is_row_of_arrays(value: Any) -> TypeGuard[Sequence[np.ndarray]]:
    """Tell whether a value is a list or a tuple of arrays, as the gradients of all weights are."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, np.ndarray) for v in value)


def _returned(source: Source | None, count: int) -> Sequence[ast.expr | None]:
    """Return the expressions of the last `return` that gives so many."""
    for returned in reversed(returns(source.statements) if source is not None else []):
        if len(found := _elements(returned)) == count:
            return found
    return (None,) * count


def keys_put(statements: Sequence[ast.stmt], name: str) -> list[str]:
    """Return the keys that a function puts into its dictionary of this name."""
    found: dict[str, None] = {}
    for node in (n for s in statements for n in ast.walk(s)):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice] if getattr(node.value, "id", "") == name else []
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            keys = node.value.keys if getattr(node.targets[0], "id", "") == name else []
        found |= {k.value: None for k in keys if isinstance(k, ast.Constant) and isinstance(k.value, str)}
    return list(found)


def _count(function: Callable[..., Any]) -> int:
    """Return how many values a function returns, by its text."""
    source = source_of(function)
    found = returns(source.statements) if source is not None else []
    return len(_elements(found[-1])) if found else 0


def _elements(returned: ast.Return) -> list[ast.expr]:
    if isinstance(returned.value, ast.Tuple | ast.List):
        return returned.value.elts
    return [returned.value] if returned.value is not None else []


def _each_of(returned: ast.Return, least: int) -> list[ast.expr]:
    """Return at least so many values of a `return`, one by one, also where one variable holds them all."""
    value = returned.value
    if least > 1 and isinstance(value, ast.Name):
        return _items(value, least)
    found = _elements(returned)
    starred = [(i, node.value) for i, node in enumerate(found[:least]) if isinstance(node, ast.Starred)]
    if len(starred) == 1 and isinstance(several := starred[0][1], ast.Name):
        i = starred[0][0]
        return [*found[:i], *_items(several, least + 1 - len(found)), *found[i + 1 :]]
    return [] if starred else found


def _items(several: ast.Name, count: int) -> list[ast.expr]:
    items = [ast.Subscript(several, ast.Constant(i), ast.Load()) for i in range(count)]
    return [ast.fix_missing_locations(ast.copy_location(item, several)) for item in items]


def _name(node: ast.expr | None) -> str | None:
    """Return what an expression calls its value; `self.W.grad` and `self.W["grad"]` do not say of what."""
    found = _plain_name(node)
    return (
        None if isinstance(node, ast.Attribute | ast.Subscript) and found in ("grad", "gradient") else found
    )


def _plain_name(node: ast.expr | None) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value) if str(node.slice.value).isidentifier() else None
    return node.attr if isinstance(node, ast.Attribute) and node.attr != "T" else None


def _assigned(
    names: Mapping[Place, str | None],
    values: Sequence[Any],
    tensors: Mapping[str, Any],
    parameters: Mapping[str, Any],
    raised: bool,
) -> dict[Place, str]:
    """Return which tensor each returned gradient is of: by its name, else by its place and shape."""
    found = _by_rows(names, values, parameters)
    for candidates, exactly in itertools.product((tensors, parameters), (True, False)):
        for place, name in names.items():
            match = _named(name, candidates, exactly) if name and place not in found else None
            if match is not None and match not in found.values():
                found[place] = match
    row = [place for place in names if isinstance(place, int)]  # in a dictionary the key tells
    for same_shape in (True, False):
        for place in row:
            gradient = values[place]
            left = sorted((n for n in tensors if n not in found.values()), key=_is_label)
            fits = [n for n in left if not same_shape or np.shape(tensors[n]) == np.shape(gradient)]
            if place not in found and fits and (gradient is not None or raised):
                found[place] = fits[0]
    return {place: found[place] for place in names if place in found}


def _by_rows(
    names: Mapping[Place, str | None], values: Sequence[Any], parameters: Mapping[str, Any]
) -> dict[Place, str]:
    """Return which parameter each array of a list is the gradient of, where these lie in a list as well.

    The two have as many, and the first letter tells, as of `nabla_b` and `biases`; else the shapes.
    """
    rows: dict[str, list[str]] = {}
    for name in parameters:
        if row := re.fullmatch(r"(\w+)_\d+", name):
            rows.setdefault(row[1], []).append(name)
    found: dict[Place, str] = {}
    for i, value in enumerate(values):
        if not is_row_of_arrays(value):
            continue
        shapes = [v.shape for v in value]
        alike = [r for r in rows if len(rows[r]) == len(shapes)]
        told = re.sub(r".*_(?=[A-Za-z]\w*_\d)|_\d+$|^d(?=[A-Z])", "", names.get((i, 0)) or "").lower()
        fits = [r for r in alike if told and r.lstrip("_")[0].lower() == told[0]]
        fits = fits or [r for r in alike if [np.shape(parameters[n]) for n in rows[r]] == shapes]
        if fits:
            found |= {(i, k): name for k, name in enumerate(rows.pop(fits[0]))}
    return found


def _named(name: str, inputs: Mapping[str, Any], exactly: bool) -> str | None:
    candidates = [*tensor_named(name), name]  # the last in `grads["W1"]`
    if exactly:
        return next((c for c in candidates if c in inputs), None)
    lower = {n.lower(): n for n in reversed(list(inputs))}
    return next((lower[c.lower()] for c in candidates if c.lower() in lower), None)


def _is_label(name: str) -> bool:
    return word(name) == "y"


def in_order(source: Source, gradients: Sequence[str]) -> Source | None:
    """Return a source whose returns give these gradients, the first of what it returns, as a dictionary."""
    return _by_name(source, dict(enumerate(gradients)), None, {})


def _by_name(
    source: Source, gradients: Mapping[Place, str], count: int | None, also: Mapping[str, str]
) -> Source | None:
    """Return a source whose returns give a dictionary; None where none of them gives the gradients.

    It is to be so many values, or, for None, at least the gradients.
    """
    if source.definition is None:
        return None
    definition = copy.deepcopy(source.definition)
    if not isinstance(definition.body[-1], ast.Return):
        last = ast.copy_location(ast.Return(None), definition.body[-1])
        definition.body.append(ast.fix_missing_locations(last))
    if count is None and len(gradients) > 1:
        _keep_what_is_made(definition.body, source.local_names)
    fitting = 0
    for returned in returns(definition.body):
        found = _elements(returned) if count is not None else _each_of(returned, len(gradients))
        value = ast.Dict([], [])  # of what gives something else, as a model's scores without labels
        if len(found) == count or (count is None and len(found) >= len(gradients)):
            fitting += 1
            stored = [ast.parse(where, mode="eval").body for where in also.values()]
            for node in stored:
                ast.increment_lineno(node, returned.lineno - 1)
            keys: list[ast.expr | None] = [ast.Constant(name) for name in (*gradients.values(), *also)]
            value = ast.Dict(keys, [_part(found, place) for place in gradients] + stored)
        returned.value = ast.fix_missing_locations(ast.copy_location(value, returned))
    spell_out(definition.body, source.local_names)
    variables = source.local_names | set(returned_variables(definition.body).values())
    statements = tuple(definition.body)
    changed = replace(source, statements=statements, definition=definition, local_names=variables)
    return changed if fitting else None


def _keep_what_is_made(body: list[ast.stmt], taken: Collection[str]) -> None:
    """Give a name to what a `return` makes of all gradients at once: `f(dy, x)`, `(dx,) + (None,) * 3`.

    Of `dx, *f(dy, W)` only to what is starred.
    """
    name = "returned" + "_" * sum(n.rstrip("_") == "returned" for n in taken)
    for block in blocks(body):
        for returned in [s for s in block if isinstance(s, ast.Return)]:
            parts = [returned, *(part for part in _elements(returned) if isinstance(part, ast.Starred))]
            for part in parts[:2]:
                if isinstance(made := part.value, ast.Call | ast.BinOp):
                    kept, at = ast.Assign([ast.Name(name, ast.Store())], made), block.index(returned)
                    part.value = ast.copy_location(ast.Name(name, ast.Load()), part)
                    block.insert(at, ast.fix_missing_locations(ast.copy_location(kept, part)))


def _part(elements: Sequence[ast.expr], place: Place) -> ast.expr:
    """Return the expression that stands in a place."""
    if isinstance(place, int):
        return elements[place]
    held, key = elements[place[0]], place[1]
    if isinstance(held, ast.Dict):
        for k, value in zip(held.keys, held.values, strict=True):
            if isinstance(k, ast.Constant) and k.value == key:
                return value
    return ast.copy_location(ast.Subscript(copy.deepcopy(held), ast.Constant(key), ast.Load()), held)


class Returning:
    """What a subject over NumPy tells of its gradients, where its backward returns them all."""

    returned: Returned

    @property
    def unjudged(self) -> tuple[str, ...]:
        """Nothing: it is a function of its inputs."""
        return ()

    def gradients(self, returned: Any, called: Any) -> Mapping[str, Any]:
        """Return the gradients by name."""
        return self.returned.gradients(returned)

    def mended(self, returned: Any, called: Any, gradients: Mapping[str, Any]) -> Any:
        """Return other gradients as they were returned."""
        return self.returned.mended(returned, gradients)

    def within(self, called: Any) -> AbstractContextManager[None]:
        """Nothing: the backward's arguments are all that it sees."""
        return nullcontext()

    def seen(self, called: Any) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    @property
    def named(self) -> Mapping[str, str]:
        """Which input or parameter each gradient belongs to."""
        return self.returned.named

    @property
    def source(self) -> Source | None:
        """The backward's statements, at whose end the gradients are returned by name."""
        return self._source

    @cached_property
    def _source(self) -> Source | None:
        return self.returned.source()
