"""Run a forward once, keep its named tensors with autograd's graph, and ask for the right gradients."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from backhand.checking.running.flattening import flatten, nearest
from backhand.checking.running.layout import Layout
from backhand.checking.running.precision import Promoting, default_dtype
from backhand.checking.running.protocol import Pass
from backhand.errors import CheckError

Edge = tuple[Node, int]


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
    """

    inputs: dict[str, Any]
    values: dict[str, Any]
    tensors: dict[str, Tensor]
    unreached: dict[str, Tensor]
    outputs: dict[str, Tensor]
    upstream: dict[str, Tensor]
    gradients: dict[str, Tensor]
    saved: dict[tuple[Node, str], Any] = field(default_factory=dict)

    @cached_property
    def wanted(self) -> tuple[str, ...]:
        """The inputs that need a gradient, in the order in which they were given."""
        return _wanted(self.inputs)

    @cached_property
    def edges(self) -> dict[str, Edge]:
        """Where each tensor hangs in autograd's graph."""
        found = {name: get_gradient_edge(t) for name, t in self.tensors.items()}
        return {name: (edge.node, edge.output_nr) for name, edge in found.items()}

    @cached_property
    def layout(self) -> Layout:
        """Where each gradient lies in the vector of all of them."""
        return Layout.of(self.gradients)

    @cached_property
    def joined(self) -> Tensor:
        """All of autograd's gradients as one vector."""
        return self.layout.join(self.gradients)

    @cached_property
    def largest(self) -> dict[str, float]:
        """The size of the largest element of each of autograd's gradients."""
        return self.layout.largest(self.joined.abs())

    def joined_with(self, others: Mapping[str, Tensor]) -> Tensor:
        """Return the vector of other gradients, with autograd's where one is missing or of another shape."""
        shapes = self.layout.shapes
        alike = {n: v for n, v in others.items() if shapes.get(n) == v.shape}
        return self.layout.join({**self.gradients, **alike})

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

    def local_gradients(
        self, handed: Mapping[str, Tensor], wanted: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """Return what autograd makes of given upstream gradients.

        Each named tensor records what arrives there (what its gradient should be, given what is handed on
        above it), and hands on `handed[name]` instead, where there is one.

        Args:
            handed: gradients by tensor name.
            wanted: the tensors in question, all of whose direct consumers hand something on; by default all.
        """
        names = list(self.tensors if wanted is None else wanted)
        if not names:
            return {}
        roots = self.outputs if wanted is None else self._made_of(names)
        # what a consumer hands on is what its hook returns, whatever it starts from
        starts = [self.upstream.get(f"d{n}", self._zero(n)) for n in roots]
        arrived: dict[Edge, Tensor] = {}
        hooks: dict[Edge, Any] = {}
        for name in (*names, *roots):
            t, edge = self.tensors[name], self.edges[name]
            if name in handed and edge not in hooks and not t.is_leaf:
                hooks[edge] = t.register_hook(_hander(arrived, edge, handed[name]))
        try:
            found = torch.autograd.grad(
                list(roots.values()),
                [self.tensors[n] for n in names],
                grad_outputs=starts,
                retain_graph=True,
                allow_unused=True,
            )
        finally:
            for hook in hooks.values():
                hook.remove()
        seen = {n: arrived.get(self.edges[n], g) for n, g in zip(names, found, strict=True)}
        return {n: self._zero(n) if g is None else g for n, g in seen.items()}

    def _zero(self, name: str) -> Tensor:
        return torch.zeros_like(self.tensors[name].detach())

    def between(self, names: Iterable[str]) -> list[Node]:
        """Return the operations between these tensors and their direct consumers, where no name is."""
        named = set(self.edges.values())
        stack = [self.edges[c][0] for n in names for c in self.consumers(n)]
        seen, found = set(stack), []
        while stack:
            for following, number in stack.pop().next_functions:
                if following is None or (following, number) in named or following in seen:
                    continue
                seen.add(following)
                if following.next_functions:  # otherwise a leaf without a name
                    found.append(following)
                    stack.append(following)
        return found

    def _made_of(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return the direct consumers of these tensors, one name for each."""
        consumers = {self.edges[c]: c for n in names for c in self.consumers(n)}
        return {c: self.tensors[c] for c in consumers.values()}


def _hander(arrived: dict[Edge, Tensor], edge: Edge, given: Tensor) -> Callable[[Tensor | None], Tensor]:
    def hand_on(gradient: Tensor | None) -> Tensor:
        if gradient is not None:
            arrived[edge] = gradient
        return given

    return hand_on


def trace(
    chosen: Pass, inputs: Mapping[str, Any], dtype: torch.dtype | None, seed: int, *, promote: bool = False
) -> Trace:
    """Run the forward on copies of the inputs.

    Args:
        chosen: the pass.
        inputs: one draw.
        dtype: the dtype in which floating-point inputs are given; None leaves each as it is.
        seed: for the upstream gradients and for what the forward itself draws.
        promote: turn the forward's own requests for lower precision into float64.

    Raises:
        CheckError: the forward does not fit the protocol.
    """
    leaves = leaf_inputs(inputs, dtype)
    with running(dtype, seed, promote), torch.enable_grad():
        returned = _called(chosen, leaves)
    values = named_values(returned, leaves)
    flat = flatten(values)
    outputs = _outputs(chosen, flat)
    upstream = _upstream(chosen, outputs, seed)
    return from_graph(leaves, values, outputs, upstream)


def _called(chosen: Pass, leaves: dict[str, Any]) -> object:
    """Call the forward; one that changes its inputs in place gets copies, for a leaf must not be changed."""
    try:
        return chosen.forward(**leaves)
    except RuntimeError as error:
        if "leaf Variable" not in str(error):
            raise
    return chosen.forward(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in leaves.items()})


@contextlib.contextmanager
def running(dtype: torch.dtype | None, seed: int, promote: bool) -> Iterator[None]:
    """Set what the user's code should find: the default dtype, and a generator that starts the same."""
    # not torch.manual_seed, which takes a millisecond where there is no GPU
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    try:
        promoting = Promoting() if promote else contextlib.nullcontext()
        with default_dtype(dtype or torch.get_default_dtype()), promoting:
            yield
    finally:
        generator.set_state(state)


def leaf_inputs(inputs: Mapping[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    """Return copies of the inputs, those that need a gradient as leaves that require one."""
    tensors = [v for v in flatten(inputs).values() if isinstance(v, Tensor)]
    chosen_by_user = any(t.requires_grad for t in tensors)

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor):
            chosen = (dtype or value.dtype) if value.is_floating_point() else value.dtype
            needs = value.is_floating_point() and (value.requires_grad or not chosen_by_user)
            return value.detach().to(chosen, copy=True).requires_grad_(needs)
        if isinstance(value, Mapping):
            return {k: leaf(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [leaf(v) for v in value]
        return value

    return {name: leaf(value) for name, value in inputs.items()}


def named_values(returned: object, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the forward's names with the inputs before them."""
    if not isinstance(returned, Mapping):
        raise CheckError(
            f"forward returned {type(returned).__name__}; expected its names: end it in `return locals()`."
        )
    return {**{k: v for k, v in inputs.items() if k not in returned}, **returned}


def _outputs(chosen: Pass, flat: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name in chosen.outputs:
        value = flat.get(name)
        if value is None:
            hint = (
                nearest(name, flat)
                or "; name the output with out=, or in a file with a line such as out = 'y'."
            )
            raise CheckError(f"forward returns no {name!r}{hint}")
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise CheckError(f"the output {name!r} depends on no input that needs a gradient.")
        if not chosen.out and value.numel() != 1:
            raise CheckError(
                f"'loss' has shape {tuple(value.shape)}; expected a scalar, or outputs named with out=."
            )
        found[name] = value
    return found


def _upstream(chosen: Pass, outputs: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    if not chosen.out or chosen.scope is not None:  # a script ends in its loss, whatever its name is
        return {f"d{name}": torch.ones_like(value) for name, value in outputs.items()}
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, value in outputs.items():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        drawn[f"d{name}"] = noise.to(value.dtype).to(value.device)
    return drawn


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
    found = torch.autograd.grad(
        list(outputs.values()),
        list(candidates.values()),
        grad_outputs=list(upstream.values()),
        retain_graph=True,
        allow_unused=True,
    )
    right = {k: g for k, g in zip(candidates, found, strict=True) if g is not None}
    tensors = {k: candidates[k] for k in right}
    wanted = _wanted(inputs)
    if not lenient and not any(n in right for n in wanted) and any(n in candidates for n in wanted):
        raise CheckError(
            f"no input that needs a gradient reaches {', '.join(outputs)}: {', '.join(sorted(wanted))}."
        )
    return Trace(
        inputs=inputs,
        values=values,
        tensors=tensors,
        unreached={k: v for k, v in candidates.items() if k not in right and k in wanted},
        outputs=outputs,
        upstream=upstream,
        gradients={k: g.detach() for k, g in right.items()},
    )


def _wanted(inputs: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(k for k, v in flatten(inputs).items() if isinstance(v, Tensor) and v.requires_grad)


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
