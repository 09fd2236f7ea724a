"""A call of an opened Function, kept: its backward is run on it again and again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.containers import each_tensor, flatten
from backhand.checking.running.trials import leaf_like

# What is the same if it is equal.
PLAIN = (int, float, bool, str, bytes, type(None))


class Kept:
    """The context of a call, which PyTorch 2.11, for one, empties as soon as what the call gave is gone.

    Once the run is over it gives copies of what it held at first: a backward that writes into its saved
    tensors can have its statements run again.
    """

    def __init__(self, node: Any, results: Any):
        vars(self).update(_node=node, _results=results, _at_first={}, _is_over=False, _is_set=False)

    def __getattr__(self, name: str) -> Any:
        held = vars(self)
        if not held["_is_over"]:
            value = getattr(held["_node"], name)
            held["_at_first"].setdefault(name, each_tensor(value, leaf_like))
            return value
        if name not in held["_at_first"]:
            return getattr(held["_node"], name)
        return each_tensor(held["_at_first"][name], leaf_like)

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)["_is_set"] = True
        setattr(vars(self)["_node"], name, value)

    def __delattr__(self, name: str) -> None:
        vars(self)["_is_set"] = True
        delattr(vars(self)["_node"], name)

    def numbers(self) -> dict[str, int | float]:
        """Return the numbers that the forward has kept."""
        kept = vars(vars(self)["_node"])
        return {n: v for n, v in kept.items() if isinstance(v, int | float) and not isinstance(v, bool)}

    def is_as_before(self) -> bool:
        """Tell whether the run has left the context as it was."""
        held = vars(self)
        try:
            # copied as the first was: of what was expanded a copy has other strides
            now = {name: each_tensor(getattr(held["_node"], name), leaf_like) for name in held["_at_first"]}
        except RuntimeError:  # PyTorch gives no saved tensor that was changed
            return False
        return not held["_is_set"] and all(is_equal(now[n], first) for n, first in held["_at_first"].items())


def is_equal(one: Any, other: Any) -> bool:
    """Tell whether two values are the same, tensor by tensor."""
    left, right = flatten({"": one}), flatten({"": other})
    return left.keys() == right.keys() and all(_is_same(value, right[n]) for n, value in left.items())


def _is_same(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other or (type(one) in PLAIN and type(one) is type(other) and one == other)
    if one.layout != torch.strided or other.layout != torch.strided:
        return False
    return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)


@dataclass(frozen=True, eq=False)
class Made:
    """A call of an opened Function, on which its backward can be run again.

    Attributes:
        key: what it was called with, and under which settings.
        results: what it gave.
        node: of the graph; None where the outputs are not those of one call.
        outputs: at which place the node has each output, by name.
        random: where PyTorch's random numbers stood after it.
    """

    key: tuple[Any, ...]
    results: tuple[Any, ...]
    node: Any
    outputs: Mapping[str, int]
    random: Tensor

    def arriving(self, upstream: Mapping[str, Any]) -> list[Any]:
        """Return the upstream gradient of each result, by the outputs' names; zeros for what has none."""
        found: list[Any] = [torch.zeros_like(r) if isinstance(r, Tensor) else None for r in self.results]
        for name, place in self.outputs.items():
            if f"d{name}" in upstream:
                found[place] = upstream[f"d{name}"]
        return found
