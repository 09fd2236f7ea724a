"""`differentiable`: a pass as a torch function, so that autograd calls the hand-written backward."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backhand.checking.running.names import as_gradient, flatten, gradient_names, nearest
from backhand.checking.running.tracing import named_values
from backhand.checking.sources.protocol import Pass, arguments, resolve
from backhand.errors import CheckError


def differentiable(
    forward: Any,
    backward: Callable[..., Any] | None = None,
    *,
    out: str | Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> Callable[..., Any]:
    """Turn a pass into a function that autograd can use: its gradients are the hand-written ones.

    What the backward's signature asks for is saved between the two, and nothing else. The function is once
    differentiable; it does not check the gradients' values, which is what `check` is for.

    Args:
        forward, backward, out, names: the pass, as `check` takes it.

    Returns:
        A function with the forward's parameters. It returns the output, or the outputs as a tuple, in the
        order of `out`. Tensors that need a gradient are direct arguments, not items of a list.

    Raises:
        CheckError: the parts do not fit together; or, when the gradients are asked for, one that is needed
            is not there or has not its tensor's shape.

    >>> import torch
    >>> from backhand.passes import rms_norm
    >>> norm = differentiable(rms_norm)
    >>> x, gain = torch.randn(8, 5, requires_grad=True), torch.ones(5, requires_grad=True)
    >>> norm(x, gain).square().sum().backward()
    >>> gain.grad.shape
    torch.Size([5])
    """
    chosen = resolve(forward, backward, {}, out, names)
    signature = inspect.signature(chosen.forward)

    def function(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        return _Wired.apply(chosen, tuple(bound.arguments), *bound.arguments.values())

    function.__name__ = function.__qualname__ = getattr(forward, "__name__", "function").rsplit(".", 1)[-1]
    function.__doc__ = chosen.forward.__doc__
    function.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return function


@dataclass(frozen=True)
class _Slot:
    """Stands for a tensor among the backward's arguments: an upstream gradient, or one that is saved."""

    index: int


class _Wired(torch.autograd.Function):
    """The forward, what the backward saves of it, and the backward."""

    @staticmethod
    def forward(ctx: Any, chosen: Pass, names: tuple[str, ...], *given: Any) -> Any:
        """Run the forward on what it was given by name; save what the backward asks for."""
        inputs = dict(zip(names, given, strict=True))
        values = named_values(chosen.forward(**inputs), inputs)
        outputs = _outputs(chosen, flatten(values))
        upstream: dict[str, Any] = {f"d{name}": _Slot(i) for i, name in enumerate(outputs)}
        saved: list[Tensor] = []

        def set_aside(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            saved.append(value)
            return _Slot(len(outputs) + len(saved) - 1)

        ctx.chosen, ctx.is_last = chosen, chosen.is_last(outputs)
        ctx.offered = _each(arguments(chosen, values, upstream), set_aside)
        ctx.shapes = {name: v.shape if isinstance(v, Tensor) else None for name, v in inputs.items()}
        ctx.save_for_backward(*saved)
        return tuple(outputs.values()) if len(outputs) > 1 else next(iter(outputs.values()))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Run the hand-written backward and hand its gradients to autograd, each in its tensor's place."""
        chosen: Pass = ctx.chosen
        # a pass that ends in a scalar may be written for an upstream gradient of 1
        arrived = [torch.ones_like(g) for g in upstream] if ctx.is_last else upstream
        slots = [*arrived, *ctx.saved_tensors]
        offered = _each(ctx.offered, lambda v: slots[v.index] if isinstance(v, _Slot) else v)
        flat = flatten(chosen.backward(**offered))
        matched = gradient_names(ctx.shapes, flat, chosen.names)
        gradients = []
        for (name, shape), needed in zip(ctx.shapes.items(), ctx.needs_input_grad[2:], strict=True):
            gradient = _gradient(name, shape, matched, flat) if needed else None
            gradients.append(gradient * upstream[0] if ctx.is_last and gradient is not None else gradient)
        return None, None, *gradients


def _outputs(chosen: Pass, flat: Mapping[str, Any]) -> dict[str, Tensor]:
    for name in chosen.outputs:
        if not isinstance(flat.get(name), Tensor):
            raise CheckError(f"forward returns no tensor {name!r}{nearest(name, flat)}")
    return {name: flat[name] for name in chosen.outputs}


def _gradient(name: str, shape: torch.Size, matched: Mapping[str, str], flat: Mapping[str, Any]) -> Tensor:
    gradient = as_gradient(flat[matched[name]]) if name in matched else None
    if gradient is None:
        raise CheckError(f"backward returns no 'd{name}', though {name!r} needs a gradient.")
    if gradient.shape != shape:
        found, expected = tuple(gradient.shape), tuple(shape)
        raise CheckError(f"backward returns {matched[name]!r} in shape {found}; {name!r} has {expected}.")
    return gradient


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a container with every item that is no container changed."""
    if isinstance(value, Mapping):
        return {k: _each(v, change) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_each(v, change) for v in value)
    return change(value)
