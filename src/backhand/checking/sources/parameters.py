"""A module as a function of its arguments and parameters, and what a reference holds in another dtype."""

import copy
from collections.abc import Callable, Mapping, Sequence
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from backhand.errors import CheckError


def with_parameters(
    module: nn.Module, reference: nn.Module
) -> tuple[dict[str, Tensor], Callable[..., Any], Callable[..., Any]]:
    """Return the parameters by name, and the two modules as functions of their arguments, then of these.

    Raises:
        CheckError: the two do not have the same parameters.
    """
    own, right = (dict(m.named_parameters()) for m in (module, reference))
    if own.keys() != right.keys():
        only = [f"only {who} has {', '.join(sorted(some))}" for who, some in _only(own, right) if some]
        raise CheckError(f"the module and its reference have different parameters: {'; '.join(only)}.")
    for name, value in own.items():
        if value.shape != right[name].shape:
            shapes = f"{tuple(value.shape)} and {tuple(right[name].shape)}"
            raise CheckError(f"the parameter {name} has the shapes {shapes} in the module and its reference.")
    names = list(own)
    values = {n: v.detach().clone().requires_grad_(v.requires_grad) for n, v in own.items()}
    return values, _as_function(module, names), _as_function(reference, names)


def _only(own: Mapping[str, Any], right: Mapping[str, Any]) -> list[tuple[str, set[str]]]:
    return [("the module", own.keys() - right.keys()), ("the reference", right.keys() - own.keys())]


def _as_function(module: nn.Module, names: Sequence[str]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        arguments, parameters = values[: -len(names) or None], values[len(values) - len(names) :]
        dtype = _dtype_of(values)
        held = {n: _as(b.clone(), dtype) for n, b in module.named_buffers()}  # what it counts stays as it is
        return functional_call(module, {**dict(zip(names, parameters, strict=True)), **held}, arguments)

    return call


def in_dtype_of(call: Callable[..., Any], values: Sequence[Any]) -> Callable[..., Any]:
    """Return a callable whose own tensors, and those that it closes over, have the dtype of its arguments.

    Args:
        call: a function, or a module.
        values: what it is called with.
    """
    dtype = _dtype_of(values)
    if isinstance(call, nn.Module):
        return _cast(call, dtype)
    if not isinstance(call, FunctionType) or not call.__closure__:
        return call
    cells = tuple(CellType(_cast(cell.cell_contents, dtype)) for cell in call.__closure__)
    made = FunctionType(call.__code__, call.__globals__, call.__name__, call.__defaults__, cells)
    made.__kwdefaults__ = call.__kwdefaults__
    return made


def _dtype_of(values: Sequence[Any]) -> torch.dtype | None:
    """Return the dtype of the first floating-point tensor."""
    found = (v.dtype for v in values if isinstance(v, Tensor) and v.is_floating_point())
    return next(found, None)


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        return value
    if isinstance(value, nn.Module):
        own = {t.dtype for t in (*value.parameters(), *value.buffers()) if t.is_floating_point()}
        return copy.deepcopy(value).to(dtype) if own - {dtype} else value
    return _as(value, dtype)


def _as(value: Any, dtype: torch.dtype | None) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_float and dtype is not None else value
