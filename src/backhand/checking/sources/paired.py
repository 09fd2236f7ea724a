"""The two functions of a pair: what they are called by, and over which arrays they are."""

import dis
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from backhand.checking.running.arrays import as_tensors
from backhand.checking.running.program import parameters_of, plain_function
from backhand.checking.sources.calling import Context
from backhand.checking.sources.courses import CONTEXTS, is_cache
from backhand.checking.sources.numpy_truths import Call, plainly
from backhand.checking.sources.parts import called_for_its_loss

# What reads an attribute: a name by itself, as the `float` of `astype(float)`, is none.
ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")


@dataclass(frozen=True)
class Functions:
    """The two functions of a pair.

    Attributes:
        forward, backward: the user's; without a backward the forward gives its gradients.
        title: what they are called.
        over_torch: they take torch's tensors.
        holders: the inputs that are dictionaries of arrays, with their keys; each array is an input.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any] | None
    title: str
    over_torch: bool
    holders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(
        forward: Callable[..., Any], backward: Callable[..., Any] | None, title: str | None = None
    ) -> "Functions":
        """Return two functions, by default under the backward's name."""
        last = backward or forward
        return Functions(forward, backward, title or last.__name__, _over_torch(forward, last))

    @property
    def context(self) -> str:
        """The forward's parameter that receives a context; empty where there is none."""
        first = next(iter(parameters_of(self.forward)), "")
        return first if first in CONTEXTS else ""

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the forward's inputs."""
        return tuple(p.name for p in inputs_of(self.forward))

    def call(self, inputs: Mapping[str, Any], call: Call = plainly) -> Any:
        """Call the forward on arrays; return what it gives, with the context at the end if it has one."""
        given = self.packed(as_tensors(dict(inputs)) if self.over_torch else inputs)
        if self.backward is None:
            return called_for_its_loss(self.forward, given, call)
        if not self.context:
            return call(self.forward, given)
        context = Context([True] * len(given))
        found = call(self.forward, {self.context: context, **given})
        return (*found, context) if isinstance(found, tuple) else (found, context)

    def holding(self, inputs: Mapping[str, Any]) -> "Functions":
        """Return the same, told which inputs are dictionaries of arrays, of other names than the rest."""
        holders = {n: tuple(v) for n, v in inputs.items() if _holds_arrays(v)}
        keys = [key for held in holders.values() for key in held]
        alone = len(keys) == len({*keys}) and not {*keys} & (inputs.keys() - holders.keys())
        return replace(self, holders=holders if alone else {})

    def unpacked(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return inputs with the arrays of dictionaries among them, by their own names."""
        rest = {n: v for n, v in self.with_options(inputs).items() if n not in self.holders}
        return rest | {k: inputs[n][k] for n, keys in self.holders.items() for k in keys}

    def with_options(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return inputs with the options of the forward that the backward asks for as well, as a stride."""
        asked = parameters_of(self.backward) if self.backward is not None else {}
        options = {n: p.default for n, p in parameters_of(self.forward).items() if p.default is not p.empty}
        return {n: v for n, v in options.items() if n in asked} | dict(inputs)

    def packed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return inputs as the functions take them."""
        held = {key for keys in self.holders.values() for key in keys}
        rest = {n: v for n, v in inputs.items() if n not in held}
        return rest | {n: {k: inputs[k] for k in keys} for n, keys in self.holders.items()}


def _holds_arrays(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    arrays = [isinstance(v, np.ndarray) and v.dtype.kind == "f" for v in value.values()]
    return all(arrays) and all(isinstance(k, str) for k in value)


def takes_cache(backward: Callable[..., Any]) -> bool:
    """Tell by its parameters whether a backward is handed what its forward left, and needs no object."""
    return any(is_cache(n) for n in parameters_of(backward))


def inputs_of(forward: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a forward that are inputs: not its context."""
    return [p for p in parameters_of(forward).values() if p.name not in CONTEXTS]


def _over_torch(*functions: Callable[..., Any]) -> bool:
    """Tell it by the modules that functions mention, by those of their file, by their methods."""
    plain = [plain_function(f)[0] for f in functions]
    named = (f.__globals__.get(n) for f in plain for n in f.__code__.co_names)
    of_the_file = (v for f in plain for v in list(f.__globals__.values()))
    for values in (named, of_the_file):
        found = {_package(value) for value in values} & {"numpy", "torch"}
        if len(found) == 1:
            return found == {"torch"}
    # layers call one another's `backward`, as tensors do
    methods = {i.argval for f in plain for i in dis.get_instructions(f.__code__) if i.opname in ATTRIBUTES}
    return any(map(_only_of_tensors, methods - {"backward"}))


def _only_of_tensors(method: str) -> bool:
    return hasattr(Tensor, method) and not hasattr(np.ndarray, method)


def _package(value: Any) -> str:
    return value.__name__.partition(".")[0] if isinstance(value, ModuleType) else ""
