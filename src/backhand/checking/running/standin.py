"""A stand-in for NumPy that works on tracked arrays, and puts itself where the user's modules see NumPy."""

import contextlib
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

import numpy as np
import torch

from backhand.checking.running.containers import each
from backhand.checking.running.private import numpy_defaults
from backhand.checking.running.tracked import (
    Number,
    Tracked,
    UntrackedError,
    as_one,
    called,
    layer,
    plain_dtype,
    torch_dtype,
    wrapped,
)


def _array(value: Any, dtype: Any = None, **_: Any) -> Tracked:
    found = value.copy() if isinstance(value, Tracked) else as_one(value)
    return found if dtype is None else found.astype(dtype)


def _asarray(value: Any, dtype: Any = None, **_: Any) -> Tracked:
    same = isinstance(value, Tracked) and (dtype is None or torch_dtype(dtype) == value.tensor.dtype)
    return value if same else _array(value, dtype)


def _allocated(name: str, *args: Any, dtype: Any = None, **options: Any) -> Tracked:
    """Allocate as NumPy does, in float64 where any floating point is asked for."""
    plain = [a.tensor.detach().numpy() if isinstance(a, Tracked) else a for a in args]
    if name.startswith("empty"):  # what is in it by chance would not be the same twice
        name = name.replace("empty", "zeros")
    return wrapped(getattr(np, name)(*plain, dtype=plain_dtype(dtype), **options))


def _as_strided(x: Tracked, shape: Any = None, strides: Any = None, **_: Any) -> Tracked:
    size = x.tensor.element_size()
    found = x.tensor.contiguous().as_strided([int(n) for n in shape], [int(s) // size for s in strides])
    return Tracked(found)


def _windows(x: Tracked, window_shape: Any, axis: Any = None, **_: Any) -> Tracked:
    """Return what `sliding_window_view` does: the windows along the axes come last, in their order."""
    sizes = (window_shape,) if isinstance(window_shape, int | np.integer) else tuple(window_shape)
    axes = range(len(sizes)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    found = x.tensor
    for along, size in zip(axes, sizes, strict=True):
        found = found.unfold(along if along >= 0 else along + x.tensor.dim(), int(size), 1)
    return Tracked(found)


def _nansum(x: Any, *args: Any, **options: Any) -> Any:
    tensor = _asarray(x).tensor
    return called(layer("sum"), Tracked(torch.where(tensor.isnan(), 0.0, tensor)), *args, **options)


def _repeat(x: Any, repeats: Any, axis: Any = None) -> Any:
    """Repeat elements as often as NumPy does, which takes a whole number as a float too."""
    times = int(repeats) if isinstance(repeats, float) and repeats.is_integer() else repeats
    return called(layer("repeat"), x, times, axis)


class _Known(partial):
    """A function of the layer, with what a ufunc of NumPy has besides."""

    def at(self, x: Tracked, index: Any, values: Any) -> None:
        """Add to elements, to one that stands in the index twice both times: `np.add.at`."""
        name = self.args[0].__name__
        if name not in ("add", "subtract"):
            raise UntrackedError(f"{name}.at")
        places = index if isinstance(index, tuple) else (index,)
        indices = tuple(torch.as_tensor(np.asarray(place)) for place in places)
        added = _asarray(values).tensor.to(x.tensor.dtype)
        x.become(x.tensor.index_put(indices, -added if name == "subtract" else added, accumulate=True))


class _Module(types.ModuleType):
    """A stand-in for NumPy, or for a module within it."""

    def __init__(self, real: Any, known: Callable[[], Any], own: Mapping[str, Any]):
        super().__init__(real.__name__)
        self._real, self._known, self._own = real, known, own

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._own:
            return self._own[name]
        real = getattr(self._real, name)
        if isinstance(real, type) or not callable(real):
            return real if not isinstance(real, types.ModuleType) else _Module(real, _nothing, {})
        known = getattr(self._known(), name, None)
        return partial(_by_numpy, real) if known is None else _Known(called, known)


def _nothing() -> None:
    """Stand for a module that the layer does not have."""


def _by_numpy(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Let NumPy itself do what no gradient goes through."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tracked):
            if value.tensor.requires_grad:
                raise UntrackedError(getattr(function, "__name__", "a function"))
            return value.tensor.numpy()
        return value

    return wrapped(function(*each(args, plain), **each(options, plain)))


_ALLOCATING = ("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like")
_STRIDED: dict[str, Any] = {"as_strided": _as_strided, "sliding_window_view": _windows}
_OWN: dict[str, Any] = {
    "ndarray": Tracked,
    "array": _array,
    "asarray": _asarray,
    "ascontiguousarray": _asarray,
    "copy": lambda x: _array(x),
    "nansum": _nansum,
    "repeat": _repeat,
    "shape": lambda x: x.shape if isinstance(x, Tracked) else np.shape(x),
    "ndim": lambda x: x.ndim if isinstance(x, Tracked) else np.ndim(x),
    "reshape": lambda x, shape, **options: x.reshape(shape, **options),
    "random": _Module(np.random, _nothing, {}),
    "linalg": _Module(np.linalg, partial(layer, "linalg"), {}),
    "lib": _Module(np.lib, _nothing, {"stride_tricks": _Module(np.lib.stride_tricks, _nothing, _STRIDED)}),
    **{name: partial(_allocated, name) for name in _ALLOCATING},
}
NUMPY = _Module(np, layer, _OWN)


@contextlib.contextmanager
def tracking(spaces: list[MutableMapping[str, Any]]) -> Iterator[None]:
    """Let modules see the stand-in where they see NumPy, and tracked arrays where they hold arrays.

    Args:
        spaces: the global variables of the user's modules.
    """
    before = [{k: v for k, v in space.items() if stand_in(v) is not v} for space in spaces]
    try:
        for space, replaced in zip(spaces, before, strict=True):
            space.update({k: stand_in(v) for k, v in replaced.items()})
            space.setdefault("float", Number)  # `return float(loss)`
        with numpy_defaults():
            yield
    finally:
        for space, replaced in zip(spaces, before, strict=True):
            space.update(replaced)
            if space.get("float") is Number:
                del space["float"]


def stand_in(value: Any) -> Any:
    """Return what stands for a global variable; itself where nothing needs to."""
    if isinstance(value, np.ndarray | np.generic):
        return wrapped(value)
    if isinstance(value, types.ModuleType):
        path = value.__name__.split(".")
        if path[0] != "numpy":
            return value
        found: Any = NUMPY
        for name in path[1:]:
            found = getattr(found, name)
        return found
    name, module = getattr(value, "__name__", None), getattr(value, "__module__", None)
    ours = isinstance(value, np.ufunc) or (isinstance(module, str) and module.split(".")[0] == "numpy")
    if not ours or isinstance(value, type) or not isinstance(name, str):
        return value
    if name in _STRIDED:  # `from numpy.lib.stride_tricks import ...`
        return _STRIDED[name]
    return getattr(NUMPY, name) if getattr(np, name, None) is value else value
