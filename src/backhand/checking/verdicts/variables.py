"""Where each gradient lies in the backward's own variables."""

import ast
import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from backhand.checking.running.drawing import Draw
from backhand.checking.running.executing import Namespace, returned_variables
from backhand.checking.running.flattening import flatten, root
from backhand.checking.running.source import Source, writes


class Variables:
    """Where each gradient lies in the backward's own variables."""

    def __init__(self, source: Source, matched: Mapping[str, str]):
        self.path: dict[str, str] = {}
        renamed = returned_variables(source)
        last = source.statements[-1] if source.statements else None
        value = last.value if isinstance(last, ast.Return) else None
        for tensor, gradient in matched.items():
            variable, rest = root(gradient), gradient[len(root(gradient)) :]
            if isinstance(value, ast.Name):
                self.path[tensor] = f'{value.id}["{variable}"]{rest}'
            elif variable in renamed:
                self.path[tensor] = renamed[variable] + rest
            elif not isinstance(value, ast.Dict):
                self.path[tensor] = gradient
        self._of_root: dict[str, list[tuple[int, str]]] = {}
        for i, (tensor, path) in enumerate(self.path.items()):
            self._of_root.setdefault(root(path), []).append((i, tensor))

    def held_by(self, variables: Iterable[str]) -> list[str]:
        """Return the tensors whose gradients lie in these variables."""
        found = [held for v in variables if v in self._of_root for held in self._of_root[v]]
        return [tensor for _, tensor in sorted(found)]

    def get(self, namespace: Namespace, tensor: str) -> Any:
        """Return the gradient of a tensor, or None where it is not there."""
        path = self.path[tensor]
        if path in namespace:
            return namespace[path]
        variable = root(path)
        return flatten({variable: namespace[variable]}).get(path) if variable in namespace else None

    def set(self, namespace: Namespace, tensor: str, value: Tensor) -> None:
        """Replace a gradient."""
        path = self.path[tensor]
        if re.fullmatch(r"\w+", path):
            namespace[path] = value
            return
        namespace["__value__"] = value
        # an item of a tuple, or of a container that is not there, is left as it is
        with contextlib.suppress(TypeError, KeyError, IndexError, NameError):
            exec(f"{path} = __value__", namespace)


def extended(draw: Draw, source: Source) -> dict[str, str]:
    """Return the matched gradients, with those added that the source writes but a raising line kept away."""
    matched = dict(draw.matched)
    if draw.error is not None:
        written = {name for s in source.statements for name in writes(s)}
        for tensor in draw.trace.tensors:
            if tensor not in matched and tensor not in draw.trace.outputs and f"d{tensor}" in written:
                matched[tensor] = f"d{tensor}"
    return matched
