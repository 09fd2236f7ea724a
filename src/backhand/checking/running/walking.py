"""Autograd's graph walked operation by operation, from a tensor to the named tensors that it is made of.

autograd's own engine takes some 50 microseconds a call however little there is to do, and goes on past the
named tensors, down to the leaves. Between two names there are but a few operations.
"""

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

Edge = tuple[Node, int]
Gradients = tuple[Tensor | None, ...]
Step = Callable[[Node, Gradients], Gradients]


def step(node: Node, gradients: Gradients) -> Gradients:
    """Return what an operation hands on to its operands, given the gradients of its results."""
    call: Any = node
    if isinstance(node, BackwardCFunction):  # that of a custom Function: its backward is the user's
        call = node.apply
        results = zip(gradients, node._input_metadata, strict=True)
        gradients = tuple(_zeros(m) if g is None else g for g, m in results)
    found = call(*gradients)
    return found if isinstance(found, tuple) else (found,)


def _zeros(like: Any) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)


def walk(
    start: Edge, gradient: Tensor, ends: Set[Edge], stops: Set[Edge], step: Step = step
) -> dict[Edge, Tensor]:
    """Return what arrives at the ends if a tensor has this gradient.

    Args:
        start: where the tensor hangs in the graph.
        gradient: its gradient.
        ends: where to go.
        stops: where else to stop.
        step: does one operation.
    """
    useful = _towards(start[0], ends, stops)
    waiting: dict[Node, dict[int, Tensor]] = {start[0]: {start[1]: gradient}} if start[0] in useful else {}
    found: dict[Edge, Tensor] = {}
    with torch.no_grad():
        while waiting:
            node = max(waiting, key=_age)  # all that is made of the latest has been seen: it is done once
            given = waiting.pop(node)
            handed_on = step(node, tuple([given.get(i) for i in range(len(node._input_metadata))]))
            for (operand, number), value in zip(node.next_functions, handed_on, strict=False):
                if value is None or operand is None:
                    continue
                edge = operand, number
                if edge in ends:
                    _add(found, edge, value, edge)
                elif edge not in stops and operand in useful:
                    _add(waiting.setdefault(operand, {}), number, value, edge)
    return found


def _age(node: Node) -> int:
    return node._sequence_nr()


def _towards(start: Node, ends: Set[Edge], stops: Set[Edge]) -> set[Node]:
    """Return the operations from which an end can be reached."""
    seen, stack = {start}, [start]
    while stack:
        for edge in stack.pop().next_functions:
            operand = edge[0]
            if operand is not None and operand not in seen and edge not in ends and edge not in stops:
                seen.add(operand)
                stack.append(operand)
    useful: set[Node] = set()
    for node in sorted(seen, key=_age):  # operands before what is made of them
        if any(e in ends or (e not in stops and e[0] in useful) for e in node.next_functions):
            useful.add(node)
    return useful


def _add(sums: dict[Any, Tensor], key: Any, value: Tensor, edge: Edge) -> None:
    """Add to what has arrived, in the shape and dtype of the tensor there, as autograd does."""
    there = edge[0]._input_metadata[edge[1]]
    if value.shape != there.shape:
        value = value.sum_to_size(there.shape)
    if value.dtype != there.dtype:
        value = value.to(there.dtype)
    sums[key] = sums[key] + value if key in sums else value
