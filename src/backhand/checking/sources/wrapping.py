"""A custom Function in the function or module that calls it, `def norm(x, w): return Norm.apply(x, w, 0)`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from backhand.checking.running.private import function_of
from backhand.checking.running.sandbox import running
from backhand.checking.running.tracing import as_leaf


@dataclass(frozen=True)
class Called:
    """A custom Function, and what it is called with.

    Attributes:
        fn: the Function.
        arguments: of each the name of the input that it is, or an empty one, and its value.
    """

    fn: type[Function]
    arguments: tuple[tuple[str, Any], ...]

    @property
    def names(self) -> list[str]:
        """The names of the arguments, where one is no input another that no input has."""
        return [name or f"constant {i}" for i, (name, _) in enumerate(self.arguments)]

    def with_inputs(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Return the arguments for other inputs."""
        return [inputs[name] if name else value for name, value in self.arguments]

    @staticmethod
    def directly(fn: type[Function], names: Sequence[str]) -> "Called":
        """Return that a Function is called with all inputs in order."""
        return Called(fn, tuple((name, None) for name in names))


def called_by(call: Callable[..., Any], inputs: Mapping[str, Any], seed: int) -> Called | None:
    """Return the one Function that a callable calls, each argument an input as it is or no tensor.

    None where there is no such Function, or what it is called with is made of the inputs.
    """
    leaves = {n: as_leaf(v) for n, v in inputs.items()}
    values = list(leaves.values())
    with running(None, seed, promote=False), torch.enable_grad():
        fn = function_of(_first(call(*values)))
        if fn is None:
            return None
        seen = _arguments_of(fn, lambda: call(*values))
    names = {id(v): n for n, v in leaves.items() if isinstance(v, Tensor)}
    arguments = tuple((names.get(id(a), ""), a) for a in (seen[0] if len(seen) == 1 else ()))
    made = any(not name and isinstance(a, Tensor) and a.requires_grad for name, a in arguments)
    return None if made or not arguments else Called(fn, arguments)


def _arguments_of(fn: type[Function], run: Callable[[], Any]) -> list[tuple[Any, ...]]:
    """Return what a Function's `apply` is called with while something runs."""
    seen: list[tuple[Any, ...]] = []
    own: Any = vars(fn).get("apply")

    def noted(cls: type[Function], *arguments: Any) -> Any:
        seen.append(arguments)
        applied: Any = super(fn, cls)
        return applied.apply(*arguments) if own is None else own.__get__(None, cls)(*arguments)

    fn.apply = classmethod(noted)  # type: ignore[assignment]
    try:
        run()
    finally:
        if own is None:
            del fn.apply
        else:
            fn.apply = own
    return seen


def _first(result: Any) -> Tensor | None:
    results = result if isinstance(result, tuple | list) else (result,)
    return next((r for r in results if isinstance(r, Tensor) and r.requires_grad), None)
