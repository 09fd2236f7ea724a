"""Containers of tensors: their leaves by path, and what counts as a gradient."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from backhand.checking.running.complexes import is_differentiable


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return every leaf by its path: `hs[0]` for an item of a list, `cache["h"]` for one of a dictionary.

    >>> flatten({"hs": [1, 2], "cache": {"h": 3}})
    {'hs[0]': 1, 'hs[1]': 2, 'cache["h"]': 3}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):  # most are; a call each is what this function costs
            flat[name] = value
        else:
            _add(flat, name, value, depth=0)
    return flat


def _add(flat: dict[str, Any], path: str, value: object, depth: int) -> None:
    if isinstance(value, Tensor):
        flat[path] = value
    elif depth < 4 and isinstance(value, Mapping):
        for key, item in value.items():
            quoted = f'"{key}"' if isinstance(key, str) else repr(key)
            _add(flat, f"{path}[{quoted}]", item, depth + 1)
    elif depth < 4 and isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _add(flat, f"{path}[{i}]", item, depth + 1)
    else:
        flat[path] = value


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with something else for each leaf; a container stays of its kind.

    >>> each({"hs": [1, 2], "at": (3,)}, lambda leaf: leaf + 1)
    {'hs': [2, 3], 'at': (4,)}
    """
    if isinstance(value, Tensor):  # most are
        return change(value)
    if isinstance(value, Mapping):
        changed = {k: each(v, change) for k, v in value.items()}
        if not isinstance(value, dict) or type(value) is dict:
            return changed
        kept = copy.copy(value)  # a `defaultdict` knows more than its items
        kept.update(changed)
        return kept
    if isinstance(value, list):
        return [each(v, change) for v in value]
    if type(value) is tuple or hasattr(value, "_fields"):
        items = (each(v, change) for v in value)
        return tuple(items) if type(value) is tuple else type(value)(*items)
    return change(value)


def each_tensor(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a value, or containers of values, with something else for each tensor."""
    if isinstance(value, Tensor):  # most are
        return change(value)
    return each(value, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def as_gradient(value: object) -> Tensor | None:
    """Return a value as a gradient: a tensor as it is, a number as a scalar tensor, anything else as None."""
    if isinstance(value, Tensor):
        value = value.detach() if value.requires_grad else value
        if is_differentiable(value):
            return value
        if value.dtype == torch.bool:  # a mask that its upstream gradient was never multiplied with
            return value.to(torch.get_default_dtype())
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.as_tensor(float(value), dtype=torch.float64)
    return None


def as_gradient_of(tensor: Tensor | None, value: object) -> Tensor | None:
    """Return a value as the gradient of a tensor: complex if that is, and else real."""
    gradient = as_gradient(value)
    if gradient is None or tensor is None or tensor.is_complex() == gradient.is_complex():
        return gradient
    if tensor.is_complex():
        return gradient.to(tensor.dtype)
    # the power of a negative number, say: as torch itself would tell it, NaN
    return gradient.real.where(gradient.imag == 0, float("nan"))


def identical(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors hold the same numbers in the same places, NaN among them."""
    if a.shape != b.shape:
        return False
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())


def is_strided(value: object) -> TypeGuard[Tensor]:
    """Tell whether a value is a tensor with strides: a sparse one cannot be laid out otherwise."""
    return isinstance(value, Tensor) and value.layout == torch.strided


def is_one_tensor(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are one and the same, in all of their elements."""
    return is_strided(a) and is_strided(b) and a.data_ptr() == b.data_ptr() and a.shape == b.shape


def place_of(value: object) -> int | None:
    """Return where a tensor's elements lie in memory; views of one lie there too."""
    return value.untyped_storage().data_ptr() if is_strided(value) else None
