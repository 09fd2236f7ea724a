"""How a pass is wired into autograd: what of its forward is saved, and what its backward is given.

A plan is made at the first of calls that are alike, and serves all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.containers import as_gradient, flatten
from backhand.checking.running.names import nearest
from backhand.checking.sources.protocol import Pass
from backhand.errors import CheckError

CONTAINERS = (list, tuple, Mapping)


class Slot(int):
    """Stands for a tensor among the backward's arguments: an upstream gradient, or one that is saved."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How calls are wired that have the same arguments and need the same gradients.

    Attributes:
        chosen: the pass.
        call: runs the forward with its arguments by name.
        leaves: the arguments, those in containers one by one.
        needed: which of them need a gradient.
        candidates: the names that the gradient of each of these can have, in order.
        backward: the backward, or the part of it that makes these gradients.
        wanted: the names that it asks for; None for all.
        count: how many outputs there are.
        is_loss: whether the pass ends in its loss, and is written for an upstream gradient of 1.
    """

    chosen: Pass
    call: Callable[[dict[str, Any]], Any]
    leaves: tuple[str, ...]
    needed: tuple[int, ...]
    candidates: Mapping[str, tuple[str, ...]]
    backward: Callable[..., Any]
    wanted: tuple[str, ...] | None
    count: int
    is_loss: bool

    def shapes(self, leaves: Sequence[Any]) -> list[torch.Size]:
        """Return the shape of each leaf that needs a gradient; autograd itself turns it into their dtype."""
        return [leaves[i].shape for i in self.needed]

    def asked(self, values: Mapping[str, Any]) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """Return the outputs, and what the backward asks for, upstream gradients as slots."""
        upstream = {f"d{name}": Slot(i) for i, name in enumerate(self.chosen.outputs)}
        outputs = outputs_of(self.chosen, values)
        if self.wanted is None:
            return outputs, {**upstream, **values}
        asked = {}
        for name in self.wanted:
            if name in values:
                asked[name] = values[name]
            elif name in upstream:
                asked[name] = upstream[name]
            elif name not in self.chosen.optional:
                offered = {**values, **upstream}
                raise CheckError(
                    f"backward asks for {name!r}, which forward does not return{nearest(name, offered)} "
                    f"It may ask for: {', '.join(sorted(offered))}."
                )
        return outputs, asked

    def gradients(self, returned: Any, shapes: Sequence[torch.Size]) -> list[Tensor]:
        """Return the gradient of each leaf that needs one, from what the backward has returned.

        Args:
            returned: the gradients by name.
            shapes: see `shapes`.
        """
        if not isinstance(returned, Mapping):
            raise CheckError(
                f"backward returned {type(returned).__name__}; expected its gradients: end it in "
                "`return locals()`."
            )
        pairs = zip(self.candidates.items(), shapes, strict=True)
        return [_looked_for(leaf, names, returned, size) for (leaf, names), size in pairs]


def _looked_for(leaf: str, names: tuple[str, ...], returned: Mapping[str, Any], size: torch.Size) -> Tensor:
    """Return a leaf's gradient by whichever of its names, wherever it stands; raise where it does not fit."""
    flat = flatten(returned) if "[" in leaf else returned
    name = next((name for name in names if name in flat), leaf)
    gradient = flat.get(name) if name != leaf else None
    if not isinstance(gradient, Tensor):
        gradient = as_gradient(gradient)
    if gradient is None:
        raise CheckError(f"backward returns no 'd{leaf}', though {leaf!r} needs a gradient.")
    if gradient.shape != size:
        found, expected = tuple(gradient.shape), tuple(size)
        raise CheckError(f"backward returns {name!r} in shape {found}; {leaf!r} has {expected}.")
    return gradient


def outputs_of(chosen: Pass, values: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Return the outputs, in order, from the forward's names."""
    outputs = tuple(value for name in chosen.outputs if isinstance(value := values.get(name), Tensor))
    if len(outputs) == len(chosen.outputs):
        return outputs
    flat = flatten(values)
    for name in chosen.outputs:
        if not isinstance(flat.get(name), Tensor):
            raise CheckError(f"forward returns no tensor {name!r}{nearest(name, flat)}")
    return tuple(flat[name] for name in chosen.outputs)
