"""Containers of tensors as a flat dictionary, and the names that gradients go by."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


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


def each_tensor(value: Any, copy: Callable[[Tensor], Tensor]) -> Any:
    """Return a value, or containers of values, with something else for each tensor."""
    if isinstance(value, Tensor):
        return copy(value)
    if isinstance(value, Mapping):
        return {k: each_tensor(v, copy) for k, v in value.items()}
    if isinstance(value, list):
        return [each_tensor(v, copy) for v in value]
    if type(value) is tuple:
        return tuple(each_tensor(v, copy) for v in value)
    return value


@lru_cache(maxsize=4096)
def root(name: str) -> str:
    """Return the variable that a path starts with: `hs` of `hs[0]`."""
    return name.split("[", 1)[0]


def gradient_names(
    tensors: Iterable[str], given: Iterable[str], names: Mapping[str, str] | None
) -> dict[str, str]:
    """Return which of the given names is the gradient of which tensor: tensor name to gradient name.

    `d<name>` is taken first, then `d_<name>`, then the user's own mapping of gradient to tensor. Names are
    compared exactly: `dbn_diff_2` is not the gradient of `bn_diff2`.
    """
    present = set(given)
    mapped = {tensor: gradient for gradient, tensor in (names or {}).items()}
    found = {}
    for tensor in tensors:
        for candidate in (f"d{tensor}", f"d_{tensor}", mapped.get(tensor)):
            if candidate in present:
                found[tensor] = candidate
                break
    return found


# As alike as `dgian` and `dgain`, of five letters two exchanged; `dcounts2` and `dcounts_sum` are less so.
MISSPELT = 0.8


def nearest(name: str, candidates: Iterable[str], alike: float = 0.5) -> str:
    """Return a clause that suggests the names most like this one, or an empty string.

    >>> nearest("dgian", ["dgain", "dbias"], MISSPELT)
    '; did you mean dgain?'
    """
    close = difflib.get_close_matches(name, list(candidates), n=2, cutoff=alike)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def as_gradient(value: object) -> Tensor | None:
    """Return a value as a gradient: a tensor as it is, a number as a scalar tensor, anything else as None."""
    if isinstance(value, Tensor):
        value = value.detach() if value.requires_grad else value
        if value.is_floating_point():
            return value
        if value.is_complex():  # the power of a negative number, say: as torch itself would tell it, NaN
            return value.real.where(value.imag == 0, float("nan"))
        if value.dtype == torch.bool:  # a mask that its upstream gradient was never multiplied with
            return value.to(torch.get_default_dtype())
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.as_tensor(float(value), dtype=torch.float64)
    return None
