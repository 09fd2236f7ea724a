"""A module as a function of its arguments and parameters, and what a reference holds in another dtype."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from backhand.checking.running.private import put_tensor
from backhand.errors import CheckError


def with_parameters(
    module: nn.Module, reference: nn.Module
) -> tuple[dict[str, Tensor], Callable[..., Any], Callable[..., Any]]:
    """Return the parameters by name, and the two modules as functions of their arguments, then of these.

    Raises:
        CheckError: the two do not have the same parameters, or cannot be given others.
    """
    if any(isinstance(part, torch.jit.ScriptModule) for m in (module, reference) for part in m.modules()):
        raise CheckError(
            "a scripted module cannot be given other parameters: check it before it is scripted."
        )
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
    return values, ByParameters(module, names, False), ByParameters(reference, names, True)


def _only(own: Mapping[str, Any], right: Mapping[str, Any]) -> list[tuple[str, set[str]]]:
    return [("the module", own.keys() - right.keys()), ("the reference", right.keys() - own.keys())]


class ByParameters:
    """A module as a function of its arguments and parameters, which it keeps until it is called again.

    Its backward is to find them as well: one that recomputes runs the module, or a part of it, once more. Of
    a reference some backwards are waiting at a time, so that each call is of a copy; a module that is judged
    stays itself, for what it keeps from one call to the next may be its mistake.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], is_reference: bool):
        self.module = module
        self._is_reference = is_reference
        self._names = names
        self._places_of_parameters, self._places_of_buffers = (
            _places(module.named_parameters),
            _places(module.named_buffers),
        )
        self._before = dict(module.named_parameters()), dict(module.named_buffers())
        self._counted = {n: b.clone() for n, b in module.named_buffers()}

    def __call__(self, *values: Any) -> Any:
        """Call the module."""
        count, dtype = len(self._names), _dtype_of(values)
        arguments, given = values[: -count or None], values[len(values) - count :]
        parameters = dict(zip(self._names, given, strict=True))
        buffers = {n: _as(b.clone(), dtype) for n, b in self._counted.items()}
        module = None
        if self._is_reference:
            now = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
            held = {id(now[name]): value for name, value in (parameters | buffers).items()}
            with contextlib.suppress(RuntimeError, TypeError):  # not everything can be copied
                module = copy.deepcopy(self.module, held)
        if module is None:
            module = self.module
            self.hold(parameters, buffers)
        return module(*arguments)

    def hold(self, parameters: Mapping[str, Any], buffers: Mapping[str, Tensor] | None = None) -> None:
        """Let the module hold parameters, which may be among other inputs, and buffers like them."""
        dtype = _dtype_of([parameters[name] for name in self._names])
        if buffers is None:
            buffers = {n: _as(b.clone(), dtype) for n, b in self._counted.items()}
        _put(self.module, self._places_of_parameters, {name: parameters[name] for name in self._names})
        _put(self.module, self._places_of_buffers, buffers)

    def close(self) -> None:
        """Give the module back what it held before."""
        parameters, buffers = self._before
        _put(self.module, self._places_of_parameters, parameters)
        _put(self.module, self._places_of_buffers, buffers)


def _places(named: Callable[..., Iterator[tuple[str, Tensor]]]) -> dict[str, list[str]]:
    """Return the names of all places in which a module has each of its tensors: tied ones have several."""
    first = {id(value): name for name, value in named()}
    found: dict[str, list[str]] = {}
    for name, value in named(remove_duplicate=False):
        found.setdefault(first[id(value)], []).append(name)
    return found


def _put(module: nn.Module, places: Mapping[str, Sequence[str]], values: Mapping[str, Tensor]) -> None:
    """Let a module have other tensors for all its parameters or buffers, so that their order stays."""
    for name, value in values.items():
        for place in places[name]:
            path, _, attribute = place.rpartition(".")
            put_tensor(module.get_submodule(path), attribute, value)


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
