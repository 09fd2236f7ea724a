"""NumPy code run on torch's own NumPy layer, so that autograd knows its derivative: an array, and a stand-in for NumPy.

`torch._numpy` is private to torch, and this is the only module that touches it; where it is not there, or does
not know a function, `UntrackedError` is raised and the caller finds derivatives by differences. What an array
does beyond it: it is changed by putting a new tensor in the place of the old one, so that autograd never meets
a value that was changed after it was used; and floating-point arrays are float64 whatever was asked for.
"""

import contextlib
import importlib
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

Changed = Callable[[Tensor], None]


class UntrackedError(Exception):
    """A part of NumPy that the layer does not know: how far a derivative goes through it cannot be told."""


class Tracked:
    """An array whose values autograd follows.

    Args:
        tensor: the values.
        changed: what is to be told when they change, for a view: the array that it is a view of.
    """

    __array_priority__ = 1000.0  # `ndarray * tracked` is for this class to answer
    __hash__ = None  # type: ignore[assignment]  # compared element by element, like an array

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
        """The steps between elements, in bytes: those of a contiguous array, which `as_strided` makes of it."""
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
        method = getattr(_layer().ndarray, name, None)
        if method is None:
            raise UntrackedError(f"ndarray.{name}")
        if not callable(method):
            return wrapped(getattr(unwrapped(self), name))
        return partial(_call, method, self)

    def __getitem__(self, index: Any) -> "Tracked":
        index = _index(self, index)
        found = unwrapped(self)[index]
        copy = Tracked(found.tensor.clone())
        copy._changed = partial(self.__setitem__, index) if _is_view(index) else None
        return copy

    def __setitem__(self, index: Any, value: Any) -> None:
        new = Tracked(self.tensor.clone())
        value = unwrapped(value)
        if isinstance(value, _layer().ndarray) and not self.tensor.dtype.is_floating_point:
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
        """Return the only element as a number."""
        return float(self) if self.tensor.is_floating_point() else self.tensor.item()

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
        return getattr(NUMPY, ufunc.__name__)(*args, **options)

    def __array_function__(self, function: Any, _: Any, args: Any, options: Any) -> Any:
        return getattr(NUMPY, function.__name__)(*args, **options)


def _reshaped(array: Tracked, shape: Any) -> Tracked:
    shape = tuple(int(n) for n in shape) if isinstance(shape, tuple | list) else (int(shape),)
    return Tracked(array.tensor.reshape(shape), lambda new: array.become(new.reshape(array.shape)))


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: Tracked, *others: Any) -> Any:
        if not all(isinstance(o, Tracked | np.ndarray | np.generic | int | float | list) for o in others):
            return NotImplemented
        return _call(getattr(_layer().ndarray, name), self, *others)

    return apply


def _in_place(name: str) -> Callable[..., Any]:
    def apply(self: Tracked, other: Any) -> Tracked:
        found = _call(getattr(_layer().ndarray, name), self, other)
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


def _layer() -> Any:
    try:
        import torch._numpy as layer  # at its first use: torch's users do without
    except ImportError as error:
        raise UntrackedError("torch has no NumPy layer") from error
    return layer


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return torch's dtype for one of NumPy's: float64 for all of floating point.

    >>> torch_dtype(np.float32), torch_dtype("int32"), torch_dtype(bool)
    (torch.float64, torch.int32, torch.bool)
    """
    found = np.dtype(getattr(dtype, "name", dtype))
    if found.kind in "f":
        return torch.float64
    return torch.from_numpy(np.empty(0, found)).dtype


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
    if type(value).__module__.startswith("torch._numpy") and hasattr(value, "tensor"):
        return Tracked(value.tensor)
    return value


def unwrapped(value: Any) -> Any:
    """Return tracked arrays, and NumPy's, as those of the layer, which is what it takes."""
    if isinstance(value, Tracked):
        return _layer().asarray(value.tensor)
    if isinstance(value, np.ndarray | np.generic):
        return unwrapped(wrapped(value)) if value.dtype.kind in "fiub" else value
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(unwrapped(v) for v in value)
    return value


def _call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function of the layer; what it does not know, or gives to NumPy, is not tracked."""
    out = options.pop("out", None)
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
        return _layer().asarray(torch.arange(size).numpy()[slice(begin, end, step)].copy())
    if isinstance(index, Tracked) and not index.ndim and not index.tensor.is_floating_point():
        return index.tensor.item()
    return int(index) if isinstance(index, np.integer) else unwrapped(index)


def _is_view(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(p is None or p is Ellipsis or type(p) in (int, slice) for p in parts)


def _array(value: Any, dtype: Any = None, **_: Any) -> Tracked:
    if isinstance(value, list | tuple) and any(isinstance(v, Tracked | list | tuple) for v in value):
        items = [_array(v) for v in value]
        found = Tracked(torch.stack([i.tensor for i in items]))
    elif isinstance(value, Tracked):
        found = value.copy()
    else:
        found = wrapped(np.array(value))
    return found if dtype is None else found.astype(dtype)


def _asarray(value: Any, dtype: Any = None, **_: Any) -> Tracked:
    same = isinstance(value, Tracked) and (dtype is None or torch_dtype(dtype) == value.tensor.dtype)
    return value if same else _array(value, dtype)


def _allocated(name: str, *args: Any, dtype: Any = None, **options: Any) -> Tracked:
    """Allocate as NumPy does, in float64 where any floating point is asked for."""
    plain = [a.tensor.detach().numpy() if isinstance(a, Tracked) else a for a in args]
    if name.startswith("empty"):  # what is in it by chance would not be the same twice
        name = name.replace("empty", "zeros")
    return wrapped(getattr(np, name)(*plain, dtype=dtype, **options))


def _add_at(array: Tracked, index: Any, value: Any) -> None:
    where = index if isinstance(index, tuple) else (index,)
    where = tuple(torch.as_tensor(np.asarray(i)) if not isinstance(i, Tracked) else i.tensor for i in where)
    added = _asarray(value).tensor.to(array.tensor.dtype)
    array.become(array.tensor.index_put(where, added, accumulate=True))


class _Add:
    """`np.add`, with its `at`."""

    at = staticmethod(_add_at)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return _call(_layer().add, *args, **options)


def _as_strided(x: Tracked, shape: Any = None, strides: Any = None, **_: Any) -> Tracked:
    size = x.tensor.element_size()
    found = x.tensor.contiguous().as_strided([int(n) for n in shape], [int(s) // size for s in strides])
    return Tracked(found)


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
        return partial(_by_numpy, real) if known is None else partial(_call, known)


def _nothing() -> None:
    """Stand for a module that the layer does not have."""


def _by_numpy(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Let NumPy itself do what no gradient goes through."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tracked):
            if value.tensor.requires_grad:
                raise UntrackedError(getattr(function, "__name__", "a function"))
            return value.tensor.numpy()
        return type(value)(plain(v) for v in value) if type(value) in (list, tuple) else value

    return wrapped(function(*plain(args), **{k: plain(v) for k, v in options.items()}))


_ALLOCATING = ("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like")
_OWN: dict[str, Any] = {
    "ndarray": Tracked,
    "array": _array,
    "asarray": _asarray,
    "ascontiguousarray": _asarray,
    "copy": lambda x: _array(x),
    "add": _Add(),
    "shape": lambda x: x.shape if isinstance(x, Tracked) else np.shape(x),
    "ndim": lambda x: x.ndim if isinstance(x, Tracked) else np.ndim(x),
    "reshape": lambda x, shape, **options: x.reshape(shape, **options),
    "random": _Module(np.random, _nothing, {}),
    "linalg": _Module(np.linalg, lambda: getattr(_layer(), "linalg", None), {}),
    "lib": types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=_as_strided)),
    **{name: partial(_allocated, name) for name in _ALLOCATING},
}
NUMPY = _Module(np, _layer, _OWN)


@contextlib.contextmanager
def tracking(spaces: list[MutableMapping[str, Any]]) -> Iterator[None]:
    """Let modules see the stand-in where they see NumPy, and tracked arrays where they hold arrays.

    Args:
        spaces: the global variables of the user's modules.
    """
    before = [{k: v for k, v in space.items() if _stand_in(v) is not v} for space in spaces]
    try:
        for space, replaced in zip(spaces, before, strict=True):
            space.update({k: _stand_in(v) for k, v in replaced.items()})
        with _default_dtypes():
            yield
    finally:
        for space, replaced in zip(spaces, before, strict=True):
            space.update(replaced)


@contextlib.contextmanager
def _default_dtypes() -> Iterator[None]:
    """Tell the layer NumPy's default dtypes: to ask for them it imports the compiler, which takes seconds."""
    _layer()
    impl = importlib.import_module("torch._numpy._dtypes_impl")
    before = getattr(impl, "_default_dtypes", ...)
    if before is None:
        impl._default_dtypes = impl.DefaultDTypes(torch.float64, torch.complex128, torch.int64)
    try:
        yield
    finally:
        if before is None:
            impl._default_dtypes = None


def _stand_in(value: Any) -> Any:
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
    return getattr(NUMPY, name) if getattr(np, name, None) is value else value
