"""The neighbourhood of one tensor: what each consumer contributes to its gradient, and what it could have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from backhand.checking.running.graph import Trace
from backhand.checking.running.walking import Gradients, Step, step, walk


class Saved:
    """A tensor that autograd saved for one operation, which can be replaced for a while."""

    def __init__(self, node: Node, attribute: str, raw: Any):
        self.node = node
        self.attribute = attribute
        self.original: Tensor = getattr(node, attribute.replace("_raw", "", 1)).detach()
        self.replacement: Tensor | None = None
        raw.register_hooks(
            lambda t: 0, lambda _: self.original if self.replacement is None else self.replacement
        )


@dataclass
class Scene:
    """One wrong gradient, with all that is needed to explain it.

    Attributes:
        trace: the forward, with autograd's graph.
        name: the tensor's name.
        value: the user's gradient, of the right shape or not.
        expected: the right gradient, given what is handed on.
        handed: the gradient that each tensor hands on.
        given: the tensors whose gradient the user gives.
        gradient_names: tensor name to gradient name, for messages.
        summands: the size of the terms that are added up to the gradient.
    """

    trace: Trace
    name: str
    value: Tensor
    expected: Tensor
    handed: dict[str, Tensor]
    given: frozenset[str]
    gradient_names: dict[str, str]
    summands: float = 0.0
    _contributions: dict[tuple[str, ...], dict[str, Tensor]] = field(default_factory=dict)

    @property
    def tensor(self) -> Tensor:
        """The tensor itself, with its graph."""
        return self.trace.tensors[self.name]

    def d(self, name: str) -> str:
        """Return the gradient's name, for a message."""
        return self.gradient_names.get(name, f"d{name}")

    @property
    def consumers(self) -> list[str]:
        """Named tensors made directly from this one, one name for each."""
        return self._distinct(self.trace.consumers(self.name))

    @property
    def frontier(self) -> list[str]:
        """The nearest tensors downstream whose gradient the user gives; past those that were left out."""
        found, stack, seen = [], list(self.consumers), set()
        while stack:
            name = stack.pop(0)
            if name in seen:
                continue
            seen.add(name)
            if name in self.given or name in self.trace.outputs:
                found.append(name)
            else:
                stack.extend(self.trace.consumers(name))
        return self._distinct(found)

    def _distinct(self, names: Sequence[str]) -> list[str]:
        found: dict[Any, str] = {}
        for name in names:
            found.setdefault(self.trace.edges[name], name)
        return list(found.values())

    def contributions(self, consumers: Sequence[str]) -> dict[str, Tensor]:
        """Return what arrives through each consumer alone."""
        key = tuple(consumers)
        if key not in self._contributions:
            stops = list(self.trace.tensors) if consumers == self.consumers else list(consumers)
            self._contributions[key] = {c: self.through(c, self.handed[c], stops) for c in consumers}
        return self._contributions[key]

    def through(
        self, consumer: str, upstream: Tensor, stops: Sequence[str] | None = None, step: Step = step
    ) -> Tensor:
        """Return what arrives from one consumer if `upstream` is its gradient, past no other named tensor."""
        edges = self.trace.edges
        end = edges[self.name]
        blocked = self.trace.named if stops is None else {edges[s] for s in stops}
        found = walk(edges[consumer], upstream, {end}, blocked, step).get(end)
        return torch.zeros_like(self.tensor).detach() if found is None else found

    def nodes(self, consumer: str) -> list[Node]:
        """Return the operations between a consumer and this tensor, no other named tensor on the way."""
        edges = self.trace.edges
        named = set(edges.values())
        first = edges[consumer][0]
        found, stack = [first], [first]
        while stack:
            for following, number in stack.pop().next_functions:
                if following is None or (following, number) in named or following in found:
                    continue
                if following.name() != "torch::autograd::AccumulateGrad":
                    found.append(following)
                    stack.append(following)
        return found

    def saved(self, consumer: str) -> Iterator[Saved]:
        """Yield the floating-point tensors that the operations up to a consumer have saved."""
        for node in self.nodes(consumer):
            for attribute in dir(node):
                if not attribute.startswith("_raw_saved_"):
                    continue
                kept = self.trace.saved  # a saved tensor takes hooks only once
                if (node, attribute) not in kept:
                    kept[node, attribute] = _saved(node, attribute)
                found = kept[node, attribute]
                if found is not None:
                    yield found

    def terms(self) -> list[Tensor]:
        """Return what each operation hands to this tensor before it is summed over broadcast axes."""
        end = self.trace.edges[self.name]
        found: list[Tensor] = []

        def recorded(node: Node, gradients: Gradients) -> Gradients:
            handed_on = step(node, gradients)
            pairs = zip(node.next_functions, handed_on, strict=False)
            found.extend(g for edge, g in pairs if edge == end and g is not None)
            return handed_on

        for consumer in self.consumers:
            self.through(consumer, self.handed[consumer], step=recorded)
        return found

    def with_factor(self, consumer: str, node: Node, i: int, factor: float) -> Tensor:
        """Return what arrives from a consumer if an operation's i-th gradient were multiplied by a factor."""

        def changed(reached: Node, gradients: Gradients) -> Gradients:
            handed_on = step(reached, gradients)
            if reached != node:
                return handed_on
            return tuple(g * factor if j == i and g is not None else g for j, g in enumerate(handed_on))

        return self.through(consumer, self.handed[consumer], step=changed)


def _saved(node: Node, attribute: str) -> Saved | None:
    raw = getattr(node, attribute, None)
    if raw is None or isinstance(raw, tuple | list):
        return None
    try:
        original = getattr(node, attribute.replace("_raw", "", 1))
        if not isinstance(original, Tensor) or not original.is_floating_point():
            return None
        return Saved(node, attribute, raw)
    except RuntimeError:
        return None
