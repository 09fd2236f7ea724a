"""A differentiable function and its reference, called: outputs, and the gradients of their arguments."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.graph import Trace, differentiated, from_graph
from backhand.checking.running.sandbox import running
from backhand.checking.running.tracing import leaf_inputs
from backhand.checking.verdicts.comparing import close, largest_difference
from backhand.errors import CheckError

Gradients = dict[str, Tensor]


class Subject:
    """The function and its reference.

    Attributes:
        call, reference: the two, as plain callables.
        title: the function's name.
    """

    def __init__(self, fn: Any, reference: Callable[..., Any]):
        custom = isinstance(fn, type) and issubclass(fn, torch.autograd.Function)
        self.call: Callable[..., Any] = fn.apply if custom else fn
        self.reference = reference
        self.title: str = getattr(fn, "__name__", type(fn).__name__)

    def named(self, inputs: Any) -> dict[str, Any]:
        """Return the arguments by name, in order; raise `CheckError` where they are none."""
        if isinstance(inputs, Mapping):
            return dict(inputs)
        if isinstance(inputs, Tensor):
            inputs = [inputs]
        if not isinstance(inputs, Sequence):
            raise CheckError(
                f"inputs are {type(inputs).__name__}; expected the arguments, by name or in order."
            )
        names = list(inspect.signature(self.reference).parameters)
        return {names[i] if i < len(names) else f"input{i}": value for i, value in enumerate(inputs)}

    def right(self, values: Mapping[str, Any], dtype: torch.dtype | None, seed: int) -> Trace:
        """Run the reference and return its graph; raise `CheckError` where no input has a gradient."""
        traced = from_graph(*self.run(self.reference, values, dtype, seed), lenient=True)
        if not traced.wanted:
            raise CheckError(f"no input of {self.title} needs a gradient; expected a floating-point tensor.")
        return traced

    def own(
        self, values: Mapping[str, Any], dtype: torch.dtype | None, seed: int
    ) -> tuple[dict[str, Tensor], Gradients, Exception | None]:
        """Run the function; return its outputs, its gradients, and autograd's words if it refuses them."""
        leaves, named, outputs, upstream = self.run(self.call, values, dtype, seed)
        try:
            return outputs, from_graph(leaves, named, outputs, upstream, lenient=True).gradients, None
        except RuntimeError as error:
            found = _returned(leaves, outputs, upstream)
            if not found:
                raise
            return outputs, found, error

    def run(
        self, call: Callable[..., Any], values: Mapping[str, Any], dtype: torch.dtype | None, seed: int
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
        """Call one of the two; return its arguments, these with the outputs, the outputs, their upstream."""
        leaves = leaf_inputs(values, dtype)
        with running(dtype, seed, False), torch.enable_grad():
            result = call(*leaves.values())
        results = result if isinstance(result, tuple | list) else [result]
        outputs = {
            "y" if len(results) == 1 else f"y{i}": r
            for i, r in enumerate(results)
            if isinstance(r, Tensor) and r.requires_grad
        }
        if not outputs:
            raise CheckError(
                f"{self.title} gives no output that needs a gradient; expected at least one tensor."
            )
        generator = torch.Generator().manual_seed(seed)
        upstream = {
            f"d{n}": torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype).to(r.device)
            for n, r in outputs.items()
        }
        return leaves, {**leaves, **outputs}, outputs, upstream

    def compare_outputs(self, own: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
        """Raise `CheckError` unless the two forwards agree."""
        for name, expected in right.items():
            got = own.get(name)
            if got is None or got.shape != expected.shape:
                shape = None if got is None else tuple(got.shape)
                raise CheckError(
                    f"{self.title} gives an output of shape {shape}, its reference {tuple(expected.shape)}: "
                    "the forwards differ, so that there is no gradient to compare."
                )
            if not close(got.detach(), expected.detach(), float(expected.detach().abs().max())):
                worst = largest_difference(got.detach(), expected.detach())
                raise CheckError(
                    f"{self.title} and its reference give different outputs (by {worst:.3g}): "
                    "mend the forward first, or give the reference that is meant."
                )


def gradients(
    call: Callable[..., Any], values: Mapping[str, Any], upstream: Mapping[str, Tensor], wanted: Iterable[str]
) -> Gradients:
    """Return a callable's gradients, by `d<argument>`, for exactly these tensors, layouts included."""
    values = dict(values)
    leaves = {name: values[name].detach().requires_grad_() for name in wanted}
    with torch.enable_grad():
        result = call(*(values | leaves).values())
    results = [result] if isinstance(result, Tensor) else [r for r in result if r.requires_grad]
    found = differentiated(results, upstream.values(), leaves.values())
    return {f"d{k}": g.clone() for k, g in zip(leaves, found, strict=True) if g is not None}


def _returned(
    leaves: Mapping[str, Any], outputs: Mapping[str, Tensor], upstream: Mapping[str, Tensor]
) -> Gradients:
    """Return what a custom Function's backward itself returns, before autograd looks at the shapes.

    Only where the outputs are those of one Function, and only for the arguments that go into it as they are.
    """
    nodes = {r.grad_fn for r in outputs.values()}
    node: Any = nodes.pop()
    if nodes or not isinstance(node, torch.autograd.function.BackwardCFunction):
        return {}
    arriving: list[Tensor | None] = [None] * (1 + max(r.output_nr for r in outputs.values()))
    for name, r in outputs.items():
        arriving[r.output_nr] = upstream[f"d{name}"]
    with torch.no_grad():
        raw = node.apply(*arriving)
    raw = raw if isinstance(raw, tuple) else (raw,)
    returned = [g for g, needed in zip(raw, node.needs_input_grad, strict=False) if needed]
    into = [edge for edge, _ in node.next_functions if edge is not None]
    names = {id(v): k for k, v in leaves.items()}
    by_leaf = {id(getattr(edge, "variable", None)): g for edge, g in zip(into, returned, strict=False)}
    return {names[i]: g.detach() for i, g in by_leaf.items() if i in names and isinstance(g, Tensor)}
