"""Autograd's graph over named tensors: the right gradients, and what given upstream gradients make."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import Node

from backhand.checking.running.containers import flatten
from backhand.checking.running.layout import Layout
from backhand.checking.running.private import differentiated
from backhand.checking.running.walking import Edge, Walk, walk
from backhand.errors import CheckError


@dataclass
class Trace:
    """One forward.

    Attributes:
        inputs: what the forward was called with; leaves of the graph where a gradient is wanted.
        values: what the forward returned, with the inputs added.
        tensors: by flat name, every tensor that has a gradient and on which the output depends.
        unreached: inputs that want a gradient although the output does not depend on them.
        outputs, upstream: the outputs, and the gradients that arrive at them, by `d<output>`.
        gradients: autograd's gradient of every one of `tensors`.
        wanted: the inputs that need a gradient, in the order in which they were given.
        slack: how many times less precise the gradients are than autograd's.
    """

    inputs: dict[str, Any]
    values: dict[str, Any]
    tensors: dict[str, Tensor]
    unreached: dict[str, Tensor]
    outputs: dict[str, Tensor]
    upstream: dict[str, Tensor]
    gradients: dict[str, Tensor]
    wanted: tuple[str, ...]
    saved: dict[tuple[Node, str], Any] = field(default_factory=dict)
    slack: float = 1.0

    @cached_property
    def edges(self) -> dict[str, Edge]:
        """Where each tensor hangs in autograd's graph."""
        return {name: edge_of(t) for name, t in self.tensors.items()}

    @cached_property
    def named(self) -> frozenset[Edge]:
        """Where the named tensors hang, however many names they have."""
        return frozenset(self.edges.values())

    @cached_property
    def layout(self) -> Layout:
        """Where each gradient lies in the vector of all of them."""
        return Layout.of(self.gradients)

    @cached_property
    def joined(self) -> np.ndarray:
        """All of autograd's gradients as one vector."""
        return self.layout.join(self.gradients)

    @cached_property
    def largest(self) -> dict[str, float]:
        """The size of the largest element of each of autograd's gradients."""
        return self.layout.largest(np.abs(self.joined))

    def joined_with(self, others: Mapping[str, Tensor]) -> np.ndarray:
        """Return the vector of other gradients, with autograd's where one is missing."""
        return self.layout.join({**self.gradients, **others})

    def consumers(self, name: str) -> tuple[str, ...]:
        """Return the named tensors that are made from this one directly, in order of the forward."""
        return self._consumers.get(name, ())

    @cached_property
    def _consumers(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for consumer, parents in _direct_parents(self.edges).items():
            for parent in parents:
                found.setdefault(parent, []).append(consumer)
        return {parent: tuple(names) for parent, names in found.items()}

    def local_gradients(self, handed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what autograd makes of given upstream gradients, for every tensor.

        Each named tensor records what arrives there (what its gradient should be, given what is handed on
        above it), and hands on `handed[name]` instead, where there is one.
        """
        arrived: dict[Edge, Tensor] = {}
        hooks: dict[Edge, Any] = {}
        for name, t in self.tensors.items():
            edge = self.edges[name]
            if name in handed and edge not in hooks and not t.is_leaf:
                hooks[edge] = t.register_hook(_hander(arrived, edge, handed[name]))
        try:
            above = [self.upstream[f"d{name}"] for name in self.outputs]
            found = differentiated(self.outputs.values(), above, self.tensors.values())
        finally:
            for hook in hooks.values():
                hook.remove()
        seen = {n: arrived.get(self.edges[n], g) for n, g in zip(self.tensors, found, strict=True)}
        return {n: self._zero(n) if g is None else g for n, g in seen.items()}

    def arriving(
        self, handed: Mapping[str, Tensor], wanted: Iterable[str], walk: Walk = walk
    ) -> dict[str, Tensor]:
        """Return what arrives at these tensors, all of whose direct consumers are in `handed`."""
        wanted = list(wanted)
        ends = {self.edges[n] for n in wanted}
        consumers = {self.edges[c]: c for n in wanted for c in self.consumers(n)}
        found: dict[Edge, Tensor] = {}
        for edge, consumer in consumers.items():
            for end, part in walk(edge, handed[consumer], ends, self.named).items():
                found[end] = found[end] + part if end in found else part
        return {n: found[self.edges[n]] if self.edges[n] in found else self._zero(n) for n in wanted}

    def through(self, consumer: str, upstream: Tensor, name: str) -> Tensor:
        """Return what arrives at a tensor through one direct consumer, if that has this gradient."""
        end = self.edges[name]
        found = walk(self.edges[consumer], upstream, {end}, self.named).get(end)
        return self._zero(name) if found is None else found

    def _zero(self, name: str) -> Tensor:
        return torch.zeros_like(self.tensors[name].detach())


def edge_of(t: Tensor) -> Edge:
    """Return where a tensor hangs in autograd's graph."""
    if t.grad_fn is not None:
        return t.grad_fn, t.output_nr
    with torch.enable_grad():
        view = t.view_as(t)  # of a leaf, which hangs at the node that gathers its gradient
    assert view.grad_fn is not None
    node, number = view.grad_fn.next_functions[0]
    assert node is not None
    return node, number


def _hander(arrived: dict[Edge, Tensor], edge: Edge, given: Tensor) -> Callable[[Tensor | None], Tensor]:
    def hand_on(gradient: Tensor | None) -> Tensor:
        if gradient is not None:
            arrived[edge] = gradient
        return given

    return hand_on


def from_graph(
    inputs: dict[str, Any],
    values: dict[str, Any],
    outputs: dict[str, Tensor],
    upstream: dict[str, Tensor],
    *,
    lenient: bool = False,
) -> Trace:
    """Return the trace of tensors that already have their graph; a lenient one may reach no input."""
    flat = flatten(values)
    candidates = {k: v for k, v in flat.items() if isinstance(v, Tensor) and v.requires_grad}
    above = [upstream[f"d{name}"] for name in outputs]
    found = differentiated(outputs.values(), above, candidates.values())
    gradients = {
        k: g.detach() if g.requires_grad else g
        for k, g in zip(candidates, found, strict=True)
        if g is not None
    }
    wanted = tuple(k for k, v in flatten(inputs).items() if isinstance(v, Tensor) and v.requires_grad)
    if not lenient and not any(n in gradients for n in wanted) and any(n in candidates for n in wanted):
        raise CheckError(
            f"no input that needs a gradient reaches {', '.join(outputs)}: {', '.join(sorted(wanted))}."
        )
    return Trace(
        inputs=inputs,
        values=values,
        tensors={k: candidates[k] for k in gradients},
        unreached={k: candidates[k] for k in wanted if k in candidates and k not in gradients},
        outputs=outputs,
        upstream=upstream,
        gradients=gradients,
        wanted=wanted,
    )


def _direct_parents(edges: Mapping[str, Edge]) -> dict[str, set[str]]:
    by_edge: dict[Edge, set[str]] = {}
    for name, edge in edges.items():
        by_edge.setdefault(edge, set()).add(name)
    parents = {}
    for name, (node, _) in edges.items():
        found, stack, seen = set(), [node], {node}
        while stack:
            for following, number in stack.pop().next_functions:
                if following is None:
                    continue
                if (following, number) in by_edge:
                    found |= by_edge[following, number]
                elif following not in seen:
                    seen.add(following)
                    stack.append(following)
        parents[name] = found
    return parents
