"""Run a forward once and keep its named tensors with autograd's graph."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.complexes import in_dtype, is_differentiable
from backhand.checking.running.containers import each_tensor, flatten
from backhand.checking.running.graph import Trace, from_graph
from backhand.checking.running.names import nearest
from backhand.checking.running.precision import lowest
from backhand.checking.running.sandbox import running
from backhand.checking.sources.protocol import Pass
from backhand.errors import CheckError


class IndependentError(CheckError):
    """An output depends on no input; with inputs or a layer of other sizes it may."""


def trace(
    chosen: Pass,
    inputs: Mapping[str, Any],
    dtype: torch.dtype | None,
    seed: int,
    *,
    promote: bool = False,
    upstream: Mapping[str, Tensor] | None = None,
) -> Trace:
    """Run the forward on copies of the inputs.

    Args:
        chosen: the pass.
        inputs: one draw.
        dtype: the dtype in which floating-point inputs are given; None leaves each as it is.
        seed: for the upstream gradients and for what the forward itself draws.
        promote: turn the forward's own requests for lower precision into float64.
        upstream: the gradients that arrive at the outputs; None draws them.

    Raises:
        CheckError: the forward does not fit the protocol.
    """
    parts = forwarded(chosen, leaf_inputs(inputs, dtype), dtype, seed, promote, lowest(inputs), upstream)
    found = from_graph(*parts, lenient=chosen.contract == "returned")
    return found if chosen.slack == 1 else replace(found, slack=chosen.slack)


Forwarded = tuple[dict[str, Any], dict[str, Any], dict[str, Tensor], dict[str, Tensor]]


def forwarded(
    chosen: Pass,
    leaves: dict[str, Any],
    dtype: torch.dtype | None,
    seed: int,
    promote: bool = False,
    own: torch.dtype = torch.float64,
    upstream: Mapping[str, Tensor] | None = None,
) -> Forwarded:
    """Run the forward; return its inputs, its names, its outputs and the gradients that arrive at them.

    These are numbers that `own`, the dtype of the inputs as given, can hold.
    """
    with running(dtype, seed, promote), torch.enable_grad():
        returned = _called(chosen, leaves)
    values = named_values(returned, leaves)
    new = [k for k in values if k not in leaves]
    outputs = _outputs(chosen, values) if chosen.out is not None else {k: values[k] for k in new}
    arriving = _upstream(chosen, outputs, seed, own) if upstream is None else dict(upstream)
    return leaves, values, outputs, arriving


def _called(chosen: Pass, leaves: dict[str, Any]) -> object:
    """Call the forward; one that changes its inputs in place gets copies, for a leaf must not be changed."""
    try:
        return chosen.forward(**leaves)
    except RuntimeError as error:
        if not changes_a_leaf(error):
            raise
    return chosen.forward(**{k: copied(v) for k, v in leaves.items()})


def changes_a_leaf(error: Exception) -> bool:
    """Tell whether code raised because it changes a leaf in place; with copies it does not."""
    return isinstance(error, RuntimeError) and "leaf Variable" in str(error)


def as_leaf(value: Any) -> Any:
    """Return a tensor that may have a gradient as a leaf that needs one; anything else as it is."""
    return value.detach().clone().requires_grad_() if is_differentiable(value) else value


def copied(value: Any) -> Any:
    """Return a copy of a tensor, with its gradient; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) else value


def apart_from(inputs: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the inputs, some of them without a gradient."""
    return {n: v.detach() if n in names and isinstance(v, Tensor) else v for n, v in inputs.items()}


def leaf_inputs(
    inputs: Mapping[str, Any], dtype: torch.dtype | None, *, lent: bool = False
) -> dict[str, Any]:
    """Return copies of the inputs, those that need a gradient as leaves that require one.

    Such leaves may be lent instead: the forward cannot change them in place.
    """
    tensors = [v for v in flatten(inputs).values() if isinstance(v, Tensor)]
    chosen_by_user = any(t.requires_grad for t in tensors)

    def leaf(value: Tensor) -> Tensor:
        may = is_differentiable(value)
        chosen = in_dtype(value, dtype) if may and dtype is not None else value.dtype
        needs = may and (value.requires_grad or not chosen_by_user)
        if lent and needs:
            return value.detach().to(chosen).requires_grad_()
        copy = value.clone() if value.dtype == chosen else value.to(chosen)
        return copy.requires_grad_() if needs else copy

    with torch.no_grad():
        return {name: each_tensor(value, leaf) for name, value in inputs.items()}


def named_values(returned: object, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the forward's names with the inputs before them."""
    if not isinstance(returned, Mapping):
        raise CheckError(
            f"forward returned {type(returned).__name__}; expected its names: end it in `return locals()`."
        )
    return {**{k: v for k, v in inputs.items() if k not in returned}, **returned}


def _outputs(chosen: Pass, values: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name in chosen.outputs:
        value = values[name] if name in values else flatten(values).get(name)
        if value is None:
            hint = (
                nearest(name, flatten(values))
                or "; name the output with out=, or in a file with a line such as out = 'y'."
            )
            raise CheckError(f"forward returns no {name!r}{hint}")
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise IndependentError(f"the output {name!r} depends on no input that needs a gradient.")
        if chosen.out == () and value.numel() != 1:
            raise CheckError(
                f"'loss' has shape {tuple(value.shape)}; expected a scalar, or outputs named with out=."
            )
        found[name] = value
    return found


def _upstream(
    chosen: Pass, outputs: Mapping[str, Tensor], seed: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Draw the gradients that arrive: numbers that this dtype holds, so that each run has the same.

    Those that are given to this run are taken as they are, unless they do not fit.
    """
    if chosen.arrives_as_ones or chosen.is_last(outputs):
        return {f"d{name}": torch.ones_like(value) for name, value in outputs.items()}
    generator = torch.Generator().manual_seed(seed)
    given = chosen.arriving.get(seed, {})
    drawn = {}
    for name, value in outputs.items():
        arriving = given.get(f"d{name}")
        if arriving is None or arriving.shape != value.shape:
            drawn_in = in_dtype(value, torch.float64)
            arriving = torch.randn(value.shape, generator=generator, dtype=drawn_in)
            arriving = arriving.to(in_dtype(value, dtype))
        drawn[f"d{name}"] = arriving.to(value.dtype).to(value.device)
    return drawn
