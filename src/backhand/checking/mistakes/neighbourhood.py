"""The neighbourhood of one tensor: what each consumer contributes to its gradient, and what it could have."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import Node

from backhand.checking.running.complexes import is_differentiable
from backhand.checking.running.containers import flatten, is_strided
from backhand.checking.running.graph import Trace
from backhand.checking.running.names import operation_called
from backhand.checking.running.private import Gradients, raw_saved, results, saved, saved_names, step
from backhand.checking.running.walking import Step, walk
from backhand.checking.verdicts.comparing import TINY, close, off, root_mean_square

# How many operations of a line, or tensors between a gradient and the next given ones, are looked at: a line
# has a handful. Names are taken from the forward's nearest: more of them than the lecture has, and where a
# loop makes hundreds, those of the turns next to this one, so that the cost does not grow with the turns.
NEAR = 12
NAMES = 64
# A path through one operation takes a walk through all: with so many, some hundredths of a second each.
MOST_OPERATIONS = 100
# A coefficient this close to a whole number, or a factor to what it is taken for, is that; in float64.
EXACT = 1e-7
# What explains a gradient of a low dtype leaves less than this part of what is off: what is fitted to its
# rounding takes little of it away.
MOSTLY = 0.5
# A gradient of ten times the size of the right one is rounded by so much more.
TIMES_LARGER = 10


class Saved:
    """A tensor that autograd saved for one operation, which can be replaced for a while."""

    def __init__(self, original: Tensor, raw: Any):
        self.original: Tensor = original.detach()
        self._replacement: Tensor | None = None
        raw.register_hooks(
            lambda t: 0, lambda _: self.original if self._replacement is None else self._replacement
        )

    @contextlib.contextmanager
    def replaced(self, tensor: Tensor) -> Iterator[None]:
        """Let the operation find another tensor within a block."""
        self._replacement = tensor
        try:
            yield
        finally:
            self._replacement = None


@dataclass(frozen=True, eq=False)
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
        summands, noise: by which the rounding of the gradient is measured; see `close`.
        left_out: consumers whose branch is taken to be missing.
    """

    trace: Trace
    name: str
    value: Tensor
    expected: Tensor
    handed: dict[str, Tensor]
    given: frozenset[str]
    gradient_names: dict[str, str]
    summands: float = 0.0
    noise: float = math.inf
    left_out: frozenset[str] = frozenset()
    _contributions: dict[tuple[str, ...], dict[str, Tensor]] = field(default_factory=dict, init=False)

    @property
    def tensor(self) -> Tensor:
        """The tensor itself, with its graph."""
        return self.trace.tensors[self.name]

    @property
    def has_its_shape(self) -> bool:
        """Whether the user's gradient has the shape of the right one."""
        return self.value.shape == self.expected.shape

    def d(self, name: str) -> str:
        """Return the gradient's name, for a message."""
        return self.gradient_names.get(name, f"d{name}")

    def same(self, user: Tensor, predicted: Tensor | None) -> bool:
        """Tell whether a prediction reproduces the user's tensor, or what is left of it."""
        if predicted is None or user.shape != predicted.shape:
            return False
        noise = self.noise
        if noise < math.inf:  # what is larger than it should be is rounded by so much more
            noise *= max(1.0, root_mean_square(predicted) / max(root_mean_square(self.expected), TINY))
            noise = min(noise, MOSTLY * self._off)
        return close(user, predicted, max(TIMES_LARGER * self._size, self.summands), noise)

    @cached_property
    def _off(self) -> float:
        return off(self.value, self.expected) if self.has_its_shape else math.inf

    @cached_property
    def _size(self) -> float:
        return float(self.expected.abs().max()) if self.expected.numel() else 0.0

    @cached_property
    def exact(self) -> float:
        """How close a coefficient comes to what it is meant to be: the closer, the more elements."""
        size = root_mean_square(self.expected) * self.expected.numel() ** 0.5
        return max(EXACT, self.noise / size) if size and self.noise < math.inf else EXACT

    @cached_property
    def consumers(self) -> list[str]:
        """Named tensors made directly from this one, one name for each."""
        return [c for c in self._distinct(self.trace.consumers(self.name)) if c not in self.left_out]

    @cached_property
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

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """The forward's floating-point tensors by name, the nearest of them if there are many."""
        flat = {n: v for n, v in flatten(self.trace.values).items() if isinstance(v, Tensor)}
        return {n: flat[n].detach() for n in self._nearest([n for n in flat if is_differentiable(flat[n])])}

    @cached_property
    def others(self) -> dict[str, Tensor]:
        """The gradients that other tensors hand on, the nearest of them if there are many."""
        return {n: self.handed[n] for n in self._nearest([n for n in self.handed if n != self.name])}

    def _nearest(self, names: list[str]) -> list[str]:
        if len(names) <= NAMES:
            return names
        position = {n: i for i, n in enumerate(flatten(self.trace.values))}
        own = position.get(self.name, 0)
        near = set(sorted(names, key=lambda n: abs(position.get(n, 0) - own))[:NAMES])
        return [n for n in names if n in near]

    def contributions(self, consumers: Sequence[str]) -> dict[str, Tensor]:
        """Return what arrives through each consumer alone."""
        key = tuple(consumers)
        if key not in self._contributions:
            stops = None if consumers == self.consumers else list(consumers)
            self._contributions[key] = {c: self.through(c, self.handed[c], stops) for c in consumers}
        return self._contributions[key]

    @property
    def parts(self) -> dict[str, Tensor]:
        """What arrives through each direct consumer alone."""
        return self.contributions(self.consumers)

    def without(self, consumer: str) -> "Scene":
        """Return the scene in which the branch through one consumer is no part of what is expected."""
        expected = self.expected - self.parts[consumer]
        return replace(self, expected=expected, left_out=self.left_out | {consumer})

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
        """Return the operations between a consumer and this tensor, no other named tensor on the way.

        None where they are so many that a loop has made them: a slip there is in every turn, not in one.
        """
        edges = self.trace.edges
        named = set(edges.values())
        first = edges[consumer][0]
        found, stack = [first], [first]
        while stack:
            for following, number in stack.pop().next_functions:
                if following is None or (following, number) in named or following in found:
                    continue
                found.append(following)
                stack.append(following)
            if len(found) > MOST_OPERATIONS:
                return []
        return found

    def saved(self, consumer: str) -> Iterator[Saved]:
        """Yield the floating-point tensors that the operations up to a consumer have saved."""
        for node in self.nodes(consumer):
            for name in saved_names(node):
                kept = self.trace.saved  # a saved tensor takes hooks only once
                if (node, name) not in kept:
                    kept[node, name] = _replaceable(node, name)
                found = kept[node, name]
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

    def without_path(self, consumer: str, node: Node, i: int) -> Tensor:
        """Return what arrives from a consumer if an operation's i-th gradient were zero."""

        def changed(reached: Node, gradients: Gradients) -> Gradients:
            handed_on = step(reached, gradients)
            if reached != node:
                return handed_on
            return tuple(g * 0.0 if j == i and g is not None else g for j, g in enumerate(handed_on))

        return self.through(consumer, self.handed[consumer], step=changed)


def _replaceable(node: Node, name: str) -> Saved | None:
    raw = raw_saved(node, name)
    if raw is None or isinstance(raw, tuple | list):
        return None
    try:
        original = saved(node, name)
        if not is_strided(original) or not is_differentiable(original):
            return None
        return Saved(original, raw)
    except RuntimeError:
        return None


@dataclass(frozen=True, eq=False)
class Derived:
    """A tensor that autograd knows and a statement may lack.

    Attributes:
        words: what it is.
        branch: the consumer through which it arrives, if it is a term; otherwise it is a factor.
        value: the tensor.
    """

    words: str
    branch: str | None
    value: Tensor


def derived(scene: Scene) -> list[Derived]:
    """Return the local derivatives and branches on the way to the nearest gradients that the user gives.

    What lies in between is made within the user's statements, in temporaries or in one expression.
    """
    found = list(_derived(scene))
    for name in _between(scene):
        found += _derived(replace(scene, name=name))
    whole = [c for c in scene.frontier if c not in scene.consumers]
    whole = [c for c in whole if not bool((scene.handed[c] == 1).all())]  # it would be the answer itself
    for consumer in whole:
        factor = scene.through(consumer, torch.ones_like(scene.handed[consumer]), scene.frontier)
        found.append(Derived(f"the derivative of {consumer} by {scene.name}", None, factor))
    return found


def _derived(scene: Scene) -> Iterator[Derived]:
    for consumer in scene.consumers[:NEAR]:
        upstream = scene.handed[consumer]
        factor = scene.through(consumer, torch.ones_like(upstream))
        yield Derived(f"the derivative of {consumer} by {scene.name}", None, factor)
        for node in scene.nodes(consumer)[:NEAR]:
            inner = _elementwise(node, upstream)
            if inner is not None:
                yield Derived(
                    f"the derivative of the {operation_called(node.name())} in {consumer}", None, inner
                )
        if len(scene.consumers) > 1 or scene.name in scene.trace.outputs:
            yield Derived(consumer, consumer, scene.through(consumer, upstream))


def _elementwise(node: Node, like: Tensor) -> Tensor | None:
    """Return the local derivative of an operation of one argument; None where it has none but constants."""
    arriving = results(node) or ()
    if len(arriving) != 1 or len(node.next_functions) != 1 or isinstance(node, FunctionCtx):
        return None
    shape, dtype = tuple(arriving[0].shape), arriving[0].dtype
    ones = torch.ones(shape, dtype=dtype, device=like.device)
    other = torch.linspace(0.5, 1.5, ones.numel(), dtype=dtype, device=like.device).view(shape)
    try:
        found, check = (step(node, (g,))[0] for g in (ones, other))
    except (RuntimeError, TypeError):
        return None
    if found is None or check is None or found.shape != shape or found.dtype != dtype or found.numel() < 2:
        return None
    if not close(check, other * found) or bool((found == found.flatten()[0]).all()):
        return None  # its elements are coupled, or it is but a constant factor
    return found.detach()


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
