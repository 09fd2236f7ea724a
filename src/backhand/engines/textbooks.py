"""A model of whole words by its name: its pass, its parameters, and what the pass asks for besides.

Nothing is listed. The model `gru` is the pass `passes/gru_model.py` and, if they are there, its fused form
`passes/gru_fused.py` and the machine code `engines/gru_steps.py`. The pass says by SHAPES what its parameters
are, and by the names that its forward takes what it is given beside them and the words.
"""

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .axes import Axes, sizes_of
from .dropping import BRANCHES, masks
from .native_words import Settings
from .stepping import Parameters, wired

PASSES = "backhand.passes"


@dataclass(frozen=True)
class Asked:
    """One minibatch, and what is known of the step that is taken on it."""

    parameters: Parameters
    sizes: Mapping[str, int]
    X: Tensor
    settings: Settings
    step: int

    def kept(self) -> Tensor:
        """What dropout keeps, (L, BRANCHES, n, T, d), or what broadcasts to it."""
        layers, width = self.sizes["L"], self.sizes["d"]
        if not self.settings.dropout:
            return torch.ones(layers, BRANCHES, 1, 1, 1, dtype=torch.bool, device=self.X.device)
        ask = {"rate": self.settings.dropout, "seed": self.settings.seed, "step": self.step}
        return masks(self.X, layers, width, **ask) != 0


GIVEN: Mapping[str, Callable[[Asked], Any]] = {
    "heads": lambda asked: asked.settings.heads,
    "dropout": lambda asked: asked.settings.dropout,
    "kept": Asked.kept,
}
"""What a pass may ask for by name, beside words and parameters."""


@dataclass(frozen=True)
class Textbook:
    """A pass of whole words, wired by names.

    Attributes:
        module: its forward and backward.
        axes: those of each parameter.
    """

    module: ModuleType
    axes: Axes

    @cached_property
    def asks(self) -> tuple[str, ...]:
        """What the forward takes beside words and parameters."""
        names = tuple(inspect.signature(self.module.forward).parameters)[2:]
        return tuple(name for name in names if name not in self.axes)

    def given(self, parameters: Parameters, X: Tensor, settings: Settings, step: int) -> dict[str, Any]:
        """Return what the forward asks for, of a minibatch."""
        sizes = sizes_of(self.axes, {name: p.shape for name, p in parameters.items()})
        asked = Asked(parameters, sizes, X, settings, step)
        return {name: GIVEN[name](asked) for name in self.asks}

    def forward(self, X: Tensor, Y: Tensor, parameters: Parameters, given: Mapping[str, Any]) -> Any:
        """Return the forward's tensors."""
        return self.module.forward(X, Y, **parameters, **given)

    @cached_property
    def backward(self) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        """The backward, as a function of the forward's tensors."""
        return wired(self.module)


@cache
def textbook(kind: str, fused: bool = False) -> Textbook:
    """Return the pass of a model, an operation a line; or the fused one, if there is one."""
    module = importlib.import_module(f"{PASSES}.{kind}_model")
    axes: Axes = module.SHAPES
    if fused and importlib.util.find_spec(f"{PASSES}.{kind}_fused") is not None:
        module = importlib.import_module(f"{PASSES}.{kind}_fused")
    return Textbook(module, axes)


def has_machine_code(kind: str) -> bool:
    """Return whether a model's steps have been written as machine code."""
    return importlib.util.find_spec(f".{kind}_steps", __package__) is not None
