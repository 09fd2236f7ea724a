"""Autograd's graph walked operation by operation, from a tensor to the named tensors that it is made of.

autograd's own engine takes some 50 microseconds a call however little there is to do, and goes on past the
named tensors, down to the leaves. Between two names there are but a few operations.
"""

from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from backhand.checking.running.private import Gradients, in_order, results, step

Edge = tuple[Node, int]
Step = Callable[[Node, Gradients], Gradients]
Walk = Callable[[Edge, Tensor, Set[Edge], Set[Edge]], dict[Edge, Tensor]]


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
    waiting: dict[Node, dict[int, Tensor]] = {}
    if start[0] in useful:
        _add(waiting.setdefault(start[0], {}), start[1], gradient, start)
    found: dict[Edge, Tensor] = {}
    with torch.no_grad():
        while waiting:
            # all that is made of the latest has been seen: it is done once
            node = max(waiting, key=useful.__getitem__)
            handed_on = step(node, _each_result(node, waiting.pop(node)))
            for (operand, number), value in zip(node.next_functions, handed_on, strict=False):
                if value is None or operand is None:
                    continue
                edge = operand, number
                if edge in ends:
                    _add(found, edge, value, edge)
                elif edge not in stops and operand in useful:
                    _add(waiting.setdefault(operand, {}), number, value, edge)
    return found


def _each_result(node: Node, given: Mapping[int, Tensor]) -> Gradients:
    there = results(node)
    return tuple([given.get(i) for i in range(len(there) if there is not None else 1 + max(given))])


def _towards(start: Node, ends: Set[Edge], stops: Set[Edge]) -> dict[Node, int]:
    """Return the operations from which an end can be reached, numbered: operands before what takes them."""
    seen, stack = {start}, [start]
    while stack:
        for edge in stack.pop().next_functions:
            operand = edge[0]
            if operand is not None and operand not in seen and edge not in ends and edge not in stops:
                seen.add(operand)
                stack.append(operand)
    useful: dict[Node, int] = {}
    for node in in_order(seen):
        if any(e in ends or (e not in stops and e[0] in useful) for e in node.next_functions):
            useful[node] = len(useful)
    return useful


def _add(sums: dict[Any, Tensor], key: Any, value: Tensor, edge: Edge) -> None:
    """Add to what has arrived, in the shape and dtype of the tensor there, as autograd does."""
    all_there = results(edge[0])
    if all_there is not None:
        there = all_there[edge[1]]
        value = value if value.shape == tuple(there.shape) else value.sum_to_size(there.shape)
        if value.is_complex() and not there.dtype.is_complex:
            value = value.real  # what a real tensor sends into complex ones comes back as that
        value = value if value.dtype == there.dtype else value.to(there.dtype)
    sums[key] = sums[key] + value if key in sums else value
