"""Where each gradient lies in the backward's own variables."""

import ast
import contextlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from backhand.checking.running.containers import flatten
from backhand.checking.running.instrumenting import surroundings
from backhand.checking.running.names import gradient_names, root
from backhand.checking.running.program import Namespace, Source
from backhand.checking.running.returning import returned_so_far
from backhand.checking.running.statements import places_written, writes, writes_surely
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass


class Variables:
    """Where each gradient lies in the backward's own variables."""

    def __init__(self, source: Source, matched: Mapping[str, str]):
        self.path: dict[str, str] = {}
        self._matched = matched
        renamed, container = source.returned, source.container
        for tensor, gradient in matched.items():
            variable, rest = root(gradient), gradient[len(root(gradient)) :]
            if container is not None:
                self.path[tensor] = f'{container}["{variable}"]{rest}'
            elif variable in renamed:
                self.path[tensor] = renamed[variable] + rest
            elif not renamed:
                self.path[tensor] = gradient
        self._of_root: dict[str, list[tuple[int, str]]] = {}
        for i, (tensor, path) in enumerate(self.path.items()):
            self._of_root.setdefault(root(path), []).append((i, tensor))

    def held_by(self, variables: Iterable[str]) -> list[str]:
        """Return the tensors whose gradients lie in these variables."""
        found = [held for v in variables if v in self._of_root for held in self._of_root[v]]
        return [tensor for _, tensor in sorted(found)]

    def is_renamed(self, tensor: str) -> bool:
        """Tell whether a gradient lies in a variable of another name than it is returned under."""
        return root(self.path[tensor]) != root(self._matched[tensor])

    def aimed_at(self, statement: ast.stmt, namespace: Mapping[str, Any]) -> list[str]:
        """Return the tensors whose gradients a statement would have written, had it not raised."""
        held = self.held_by(writes_surely(statement))
        parts = (
            n for place in places_written(statement) for n in ast.walk(place) if isinstance(n, ast.Subscript)
        )
        paths = {_item(part, namespace) for part in parts}
        return [t for t in held if "[" not in self.path[t] or self.path[t] in paths]

    def values(self, namespace: Mapping[str, Any], tensors: Iterable[str]) -> dict[str, Any]:
        """Return the gradients of these tensors, None where there is none, in one walk of each container."""
        leaves: dict[str, dict[str, Any]] = {}
        found: dict[str, Any] = {}
        for tensor in tensors:
            path = self.path[tensor]
            variable = root(path)
            if path == variable:
                found[tensor] = namespace.get(path)
                continue
            if variable not in leaves:
                leaves[variable] = flatten({variable: namespace[variable]}) if variable in namespace else {}
            found[tensor] = leaves[variable].get(path)
        return found


def at_place(namespace: Mapping[str, Any], place: str) -> Any:
    """Return what lies at a place, a variable or an item of a container; None where nothing does."""
    variable = root(place)
    if place == variable:
        return namespace.get(place)
    return flatten({variable: namespace[variable]}).get(place) if variable in namespace else None


def put_at(namespace: Mapping[str, Any], place: str, value: Tensor) -> Namespace:
    """Put a value at a place; return the variables that are to be bound anew for that."""
    if place == root(place):
        return {place: value}
    # an item of a tuple, or of a container that is not there, is left as it is
    with contextlib.suppress(TypeError, KeyError, IndexError, NameError):
        exec(f"{place} = __value__", {root(place): namespace[root(place)], "__value__": value})
    return {}


def around(chosen: Pass) -> Namespace:
    """Return what the statements of a backward see besides their own variables."""
    if chosen.runner is not None:
        return chosen.runner.around()
    return surroundings(chosen.backward) if chosen.scope is None else {}


def extended(draw: Draw, chosen: Pass) -> Mapping[str, str]:
    """Return the matched gradients, with those added that the source writes but a raising line kept away."""
    source = chosen.backward_source
    if draw.error is None or source is None:
        return draw.matched
    missing = [t for t in draw.trace.tensors if t not in draw.matched and t not in draw.trace.outputs]
    promised = returned_so_far(source.statements, dict.fromkeys(_written(source)), around(chosen))
    found = gradient_names(map(root, missing), promised, chosen.names)
    added = {t: found[root(t)] + t.removeprefix(root(t)) for t in missing if root(t) in found}
    added = {t: gradient for t, gradient in added.items() if not is_rebound(chosen, draw, t)}
    return {**draw.matched, **added}


def is_rebound(chosen: Pass, draw: Draw, name: str) -> bool:
    """Tell whether the forward binds an intermediate's name more than once: its gradient is ambiguous."""
    source = chosen.forward_source
    inner = name not in draw.trace.wanted and "[" not in name
    return inner and source is not None and source.times_assigned(name) > 1


@lru_cache(maxsize=64)
def _written(source: Source) -> frozenset[str]:
    """Return the names that a run to the end might give."""
    container = source.container
    found = {name for s in source.statements for name in writes(s)}
    items = [n for s in source.statements for n in ast.walk(s) if isinstance(n, ast.Subscript)]
    keys = {
        str(n.slice.value)
        for n in items
        if isinstance(n.slice, ast.Constant) and isinstance(n.value, ast.Name) and n.value.id == container
    }
    return frozenset(found | keys)


def _item(target: ast.Subscript, namespace: Mapping[str, Any]) -> str:
    """Return the path of an item that is assigned, by its index at this moment; empty where it has none."""
    try:
        index = eval(compile(ast.Expression(target.slice), "<index>", "eval"), {}, dict(namespace))
        return next(iter(flatten({ast.unparse(target.value): {index: None}})))
    except Exception:  # the index may be what raised, or a slice
        return ""
