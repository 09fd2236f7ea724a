"""What autograd knows around a tensor and a hand-written line may lack: local derivatives, branches."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import Node

from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.mistakes.places import Derived

NEAR = 12  # how many tensors between a gradient and the next given ones are looked at


def derived(scene: Scene) -> list[tuple[Derived, Tensor]]:
    """Return the local derivatives and branches on the way to the nearest gradients that the user gives.

    What lies in between is made within the user's statements, in temporaries or in one expression.
    """
    found = list(_of(scene))
    for name in _between(scene):
        found += _of(replace(scene, name=name, _contributions={}))
    whole = [c for c in scene.frontier if c not in scene.consumers]
    whole = [c for c in whole if not bool((scene.handed[c] == 1).all())]  # it would be the answer itself
    for consumer in whole:
        factor = scene.through(consumer, torch.ones_like(scene.handed[consumer]), scene.frontier)
        found.append((f"the derivative of {consumer} by {scene.name}", None, factor))
    return [
        (Derived(f"__derived_{i}__", words, branch), value) for i, (words, branch, value) in enumerate(found)
    ]


def _of(scene: Scene) -> Iterator[tuple[str, str | None, Tensor]]:
    for consumer in scene.consumers:
        upstream = scene.handed[consumer]
        factor = scene.through(consumer, torch.ones_like(upstream))
        yield f"the derivative of {consumer} by {scene.name}", None, factor
        for node in scene.nodes(consumer)[:NEAR]:
            inner = _elementwise(node, upstream)
            if inner is not None:
                yield f"the derivative of the {_operation(node)} in {consumer}", None, inner
        if len(scene.consumers) > 1 or scene.name in scene.trace.outputs:
            yield consumer, consumer, scene.through(consumer, upstream)


def _elementwise(node: Node, like: Tensor) -> Tensor | None:
    """Return the local derivative of an operation of one argument; None where it has none but constants."""
    arriving = getattr(node, "_input_metadata", ())
    if len(arriving) != 1 or len(node.next_functions) != 1:
        return None
    shape, dtype = tuple(arriving[0].shape), arriving[0].dtype
    ones = torch.ones(shape, dtype=dtype, device=like.device)
    other = torch.linspace(0.5, 1.5, ones.numel(), dtype=dtype, device=like.device).view(shape)
    try:
        found, check = (node(g) for g in (ones, other))  # type: ignore[operator]
    except (RuntimeError, TypeError):
        return None
    if not isinstance(found, Tensor) or found.shape != shape or found.dtype != dtype or found.numel() < 2:
        return None
    if not torch.allclose(check, other * found) or bool((found == found.flatten()[0]).all()):
        return None  # its elements are coupled, or it is but a constant factor
    return found.detach()


def _operation(node: Node) -> str:
    return node.name().partition("Backward")[0].lower()


def _between(scene: Scene) -> list[str]:
    """Return the tensors downstream, up to those whose gradient the user gives, the nearest ones only."""
    found: list[str] = []
    stack = [c for c in scene.consumers if c not in scene.given]
    while stack and len(found) < NEAR:
        name = stack.pop(0)
        if name not in found:
            found.append(name)
            stack += [c for c in scene.trace.consumers(name) if c not in scene.given]
    return found
