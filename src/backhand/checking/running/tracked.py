"""An array on torch's own NumPy layer, so that autograd knows the derivatives of code over NumPy.

Where that layer is not there, or does not know a function, `UntrackedError` is raised, and the caller finds
derivatives by differences. What an array does
beyond it: it is changed by putting a new tensor in the place of the old one, so that autograd never meets a
value that was changed after it was used; and of floating point there is float64 alone, whatever is asked for.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from backhand.checking.running.private import is_of_the_layer, numpy_layer

Changed = Callable[[Tensor], None]
# Functions that take arrays in a list; of what the others take a list is one array: `np.sum([a, b])`.
OF_SEVERAL = {"concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "row_stack", "block"}


class UntrackedError(Exception):
    """A part of NumPy that the layer does not know: how far a derivative goes through it cannot be told."""


class Tracked:
    """An array whose values autograd follows.

    Args:
        tensor: the values.
        changed: what is to be told when they change, for a view: the array that it is a view of.
    """

    __array_priority__: float = 1000.0  # `ndarray * tracked` is for this class to answer
    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # compared element by element, like an array

    def __init__(self, tensor: Tensor, changed: Changed | None = None):
        self.tensor: Tensor = tensor
        self._changed = changed

    def become(self, tensor: Tensor) -> None:
        """Take other values; what it is a view of takes them as well."""
        self.tensor = tensor
        if self._changed is not None:
            self._changed(tensor)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, as NumPy tells it."""
        return tuple(self.tensor.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.tensor.dim()

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.tensor.numel()

    @property
    def strides(self) -> tuple[int, ...]:
        """The steps between elements in bytes: those of a contiguous array, for `as_strided`."""
        size = self.tensor.element_size()
        return tuple(size * step for step in self.tensor.contiguous().stride())

    @property
    def dtype(self) -> Any:
        """The dtype, of NumPy itself."""
        return numpy_dtype(self.tensor.dtype)

    @property
    def T(self) -> "Tracked":  # noqa: N802  (NumPy's name)
        """The transposed array, a view."""
        axes = tuple(range(self.ndim))[::-1]
        return Tracked(self.tensor.permute(axes), lambda new: self.become(new.permute(axes)))

    def reshape(self, *shape: Any, order: str = "C") -> "Tracked":
        """Return the array in another shape, a view."""
        if order != "C":
            raise UntrackedError("reshape(order=)")
        return _reshaped(self, shape[0] if len(shape) == 1 else shape)

    def ravel(self) -> "Tracked":
        """Return the array with one axis, a view."""
        return _reshaped(self, -1)

    def astype(self, dtype: Any, **_: Any) -> "Tracked":
        """Return a copy in another dtype, in float64 where any of floating point is asked for."""
        return Tracked(self.tensor.to(torch_dtype(dtype), copy=True))

    def copy(self, *_: Any, **__: Any) -> "Tracked":
        """Return a copy."""
        return Tracked(self.tensor.clone())

    def fill(self, value: Any) -> None:
        """Set all elements."""
        self[...] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.tensor is None:
            raise AttributeError(name)
        method = getattr(layer("ndarray"), name, None)
        if method is None:
            raise UntrackedError(f"ndarray.{name}")
        if not callable(method):
            return wrapped(getattr(unwrapped(self), name))
        return partial(called, method, self)

    def __getitem__(self, index: Any) -> "Tracked":
        index = _index(self, index)
        found = unwrapped(self)[index]
        copy = Tracked(found.tensor.clone())
        copy._changed = partial(self.__setitem__, index) if _is_view(index) else None
        return copy

    def __setitem__(self, index: Any, value: Any) -> None:
        new = Tracked(self.tensor.clone())
        value = unwrapped(value)
        if isinstance(value, layer("ndarray")) and not self.tensor.dtype.is_floating_point:
            value = value.astype(self.tensor.dtype)
        unwrapped(new)[_index(self, index)] = value
        self.become(new.tensor)

    def __iter__(self) -> Iterator["Tracked"]:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self.tensor)

    def __int__(self) -> int:
        return int(self.tensor)

    def __index__(self) -> int:
        return self.tensor.__index__()

    def __float__(self) -> float:
        if self.tensor.requires_grad:
            raise UntrackedError("float() of what a gradient goes through")
        return float(self.tensor)

    def item(self) -> Any:
        """Return the only element as a number; with its gradient, if it has one."""
        if self.tensor.requires_grad:
            return Tracked(self.tensor.reshape(()))
        return self.tensor.item()

    def __repr__(self) -> str:
        return repr(self.tensor.detach().numpy())

    def __format__(self, spec: str) -> str:
        return format(self.tensor.detach().numpy()[()], spec)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.tensor.requires_grad:
            raise UntrackedError("an array that only NumPy itself can take")
        return np.array(self.tensor.numpy(), dtype=dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **options: Any) -> Any:
        if method != "__call__":
            raise UntrackedError(f"{ufunc.__name__}.{method}")
        return called(layer(ufunc.__name__), *args, **options)

    def __array_function__(self, function: Any, _: Any, args: Any, options: Any) -> Any:
        return called(layer(function.__name__), *args, **options)


def _reshaped(array: Tracked, shape: Any) -> Tracked:
    shape = tuple(int(n) for n in shape) if isinstance(shape, tuple | list) else (int(shape),)
    return Tracked(array.tensor.reshape(shape), lambda new: array.become(new.reshape(array.shape)))


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: Tracked, *others: Any) -> Any:
        if not all(isinstance(o, Tracked | np.ndarray | np.generic | int | float | list) for o in others):
            return NotImplemented
        return called(getattr(layer("ndarray"), name), self, *others)

    return apply


def _in_place(name: str) -> Callable[..., Any]:
    def apply(self: Tracked, other: Any) -> Tracked:
        found = called(getattr(layer("ndarray"), name), self, other)
        self.become(found.tensor.to(self.tensor.dtype).expand(self.tensor.shape))
        return self

    return apply


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
for _name in (*_BINARY, *(f"r{name}" for name in _BINARY), "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Tracked, f"__{_name}__", _operator(f"__{_name}__"))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(Tracked, f"__{_name}__", _operator(f"__{_name}__"))
for _name in _BINARY:
    setattr(Tracked, f"__i{_name}__", _in_place(f"__{_name}__"))


def layer(path: str = "") -> Any:
    """Return the layer, or what it has under a name such as `exp` or `linalg.norm`."""
    found = numpy_layer()
    try:
        for name in path.split(".") if path else ():
            found = getattr(found, name)
    except AttributeError as error:
        raise UntrackedError(path) from error
    if found is None:
        raise UntrackedError("torch has no NumPy layer")
    return found


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return torch's dtype for one of NumPy's: float64 for all of floating point.

    >>> torch_dtype(np.float32), torch_dtype("int32"), torch_dtype(bool)
    (torch.float64, torch.int32, torch.bool)
    """
    found = np.dtype(plain_dtype(getattr(dtype, "name", dtype)))
    if found.kind in "f":
        return torch.float64
    return torch.from_numpy(np.empty(0, found)).dtype


class _Numeric(type):
    """What `isinstance` asks of `Number`."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, float)


class Number(float, metaclass=_Numeric):
    """Stands for `float`: what a gradient goes through stays tracked."""

    def __new__(cls, value: Any = 0.0) -> Any:
        """Return a number, or the only element of a tracked array."""
        return value.item() if isinstance(value, Tracked) else float(value)


def plain_dtype(dtype: Any) -> Any:
    """Return a dtype as NumPy knows it."""
    return float if dtype is Number else dtype


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Return NumPy's dtype for one of torch's."""
    return torch.empty(0, dtype=dtype).numpy().dtype


def wrapped(value: Any) -> Any:
    """Return arrays, within containers too, as tracked ones; anything else as it is."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "fiub":
            return value
        tensor = torch.from_numpy(np.array(value))
        return Tracked(tensor.to(torch.float64) if tensor.is_floating_point() else tensor)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(wrapped(v) for v in value)
    if type(value) is dict:
        return {k: wrapped(v) for k, v in value.items()}
    inner = getattr(value, "tensor", None) if is_of_the_layer(value) else None
    return value if inner is None else Tracked(inner)


def unwrapped(value: Any) -> Any:
    """Return tracked arrays, and NumPy's, as those of the layer, which is what it takes."""
    if isinstance(value, Tracked):
        return layer().asarray(value.tensor)
    if isinstance(value, np.ndarray | np.generic):
        return unwrapped(wrapped(value)) if value.dtype.kind in "fiub" else value
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(unwrapped(v) for v in value)
    return value


def as_one(value: Any) -> Tracked:
    """Return numbers, arrays and tracked ones in lists as one tracked array."""
    if isinstance(value, Tracked):
        return value
    if not holds_tracked(value):
        return wrapped(np.array(value))
    return Tracked(torch.stack([as_one(v).tensor for v in value]))


def holds_tracked(value: Any) -> bool:
    """Tell whether a value is a tracked array, or has some in lists."""
    if isinstance(value, list | tuple):
        return any(map(holds_tracked, value))
    return isinstance(value, Tracked)


def called(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of the layer; what it does not know, or gives to NumPy, is not tracked."""
    out = options.pop("out", None)
    if args and isinstance(args[0], list | tuple) and function.__name__ not in OF_SEVERAL:
        args = (as_one(args[0]) if holds_tracked(args[0]) else args[0], *args[1:])
    if options.get("dtype") is not None:
        options["dtype"] = torch_dtype(options["dtype"])
    try:
        found = wrapped(function(*unwrapped(args), **{k: unwrapped(v) for k, v in options.items()}))
    except (NotImplementedError, AttributeError) as error:
        raise UntrackedError(str(error)) from error
    if isinstance(out, Tracked):
        out.become(found.tensor)
        return out
    return found


def _index(array: Tracked, index: Any) -> Any:
    """Return an index as the layer takes it: torch knows no slice that goes backwards."""
    if isinstance(index, tuple):
        axes = [i for i in index if i is not None]
        if Ellipsis in [i for i in axes if not isinstance(i, Tracked | np.ndarray)]:
            return tuple(unwrapped(i) for i in index)
        at = iter(range(array.ndim))
        return tuple(None if i is None else _one_index(i, array.shape[next(at)]) for i in index)
    return _one_index(index, array.shape[0] if array.ndim else 0)


def _one_index(index: Any, size: int) -> Any:
    if isinstance(index, slice):
        begin, end, step = (None if v is None else int(v) for v in (index.start, index.stop, index.step))
        if step is None or step > 0:
            return slice(begin, end, step)
        return layer().asarray(torch.arange(size).numpy()[slice(begin, end, step)].copy())
    if isinstance(index, Tracked) and not index.ndim and not index.tensor.is_floating_point():
        return index.tensor.item()
    if isinstance(index, range):
        return list(index)
    return int(index) if isinstance(index, np.integer) else unwrapped(index)


def _is_view(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or type(p) in (int, slice) for p in parts)
