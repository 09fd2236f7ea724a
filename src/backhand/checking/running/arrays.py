"""Arrays as tensors, in the memory that they have: what looks at tensors then looks at code over NumPy."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from backhand.checking.running.containers import each, each_tensor, flatten
from backhand.checking.running.instrumenting import Watcher
from backhand.checking.running.program import Namespace
from backhand.checking.running.statements import calls, may_change_in_place, reads, writes


def _as_tensor(value: Any) -> Any:
    """Return an array as a tensor that shares its memory where that can be; anything else as it is."""
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fiubc":
        return value
    plain = np.asarray(value)
    if any(step < 0 for step in plain.strides) or not plain.flags.writeable:
        plain = plain.copy()
    try:
        return torch.from_numpy(plain)
    except TypeError:  # a `longdouble`
        return value


def as_tensors(value: Any) -> Any:
    """Return a value with its arrays as tensors, those in lists, tuples and dictionaries too.

    >>> as_tensors([np.ones(2), "b"])
    [tensor([1., 1.], dtype=torch.float64), 'b']
    """
    return each(value, _as_tensor)


def as_arrays(value: Any) -> Any:
    """Return a value with its tensors as arrays that share their memory; a scalar as NumPy makes them.

    >>> as_arrays({"a": torch.ones(2), "b": torch.tensor(2.0)})
    {'a': array([1., 1.], dtype=float32), 'b': np.float32(2.0)}
    """
    return each_tensor(value, _as_array)


def _as_array(tensor: Tensor) -> Any:
    """Return a tensor as an array that shares its memory."""
    return tensor.numpy(force=tensor.requires_grad)[()]


def on_objects(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays that lie on the objects among variables, in their lists and dictionaries too.

    As tensors, by the expressions that read them.

    >>> class Layer:
    ...     def __init__(self):
    ...         self.params = {"W": np.ones(2)}
    >>> on_objects({"self": Layer(), "np": np})
    {'self.params["W"]': tensor([1., 1.], dtype=torch.float64)}
    """
    found: dict[str, Any] = {}
    for name, value in variables.items():
        if not is_object(value):
            continue
        for attribute, held in vars(value).items():
            inner = flatten({f"{name}.{attribute}": held}) if isinstance(held, list | dict) else {}
            found |= inner or {f"{name}.{attribute}": held}
    tensors = {path: as_tensors(array) for path, array in found.items() if isinstance(array, np.ndarray)}
    return {path: tensor for path, tensor in tensors.items() if isinstance(tensor, Tensor)}


def is_object(value: Any) -> bool:
    """Tell whether a value is an object of the user's own, on which any statement may put something."""
    plain = isinstance(value, Tensor | ModuleType | type) or callable(value)
    return hasattr(value, "__dict__") and not plain


class Seen(Mapping[str, Any]):
    """A function's variables with their arrays as tensors: the same tensor for the same array, each time."""

    def __init__(self, tensors: "Tensors", variables: Mapping[str, Any]):
        self._tensors, self._variables = tensors, variables

    def __getitem__(self, name: str) -> Any:
        return self._tensors.of(self._variables[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __contains__(self, name: object) -> bool:
        return name in self._variables


class Tensors:
    """The tensors that stand for arrays in one run; both are kept, so that an identity is used only once."""

    def __init__(self) -> None:
        self._tensors: dict[int, tuple[Any, Any]] = {}
        self._arrays: dict[int, tuple[Any, Any]] = {}
        self._containers: list[tuple[Any, Any]] = []
        self._shared: list[tuple[np.ndarray, Tensor]] = []
        self._tuples: dict[int, tuple[Any, Any]] = {}
        # where in memory the first of the shared arrays begin and end; a loop makes thousands
        self._begins, self._ends = array("q"), array("q")

    def of(self, value: Any) -> Any:
        """Return what stands for a value."""
        if isinstance(value, np.ndarray | np.generic):
            if id(value) not in self._tensors:
                self._keep(value, _as_tensor(value))
            return self._tensors[id(value)][1]
        if type(value) in (list, dict) and value:
            shown = [self.of(v) for v in value] if type(value) is list else self._items(value)
            self._containers.append((value, shown))
            return shown
        return self._tuple(value) if type(value) is tuple else value

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        if id(value) not in self._tuples:
            shown = tuple(map(self.of, value))
            if any(
                type(v) in (list, dict) or (type(v) is tuple and id(v) not in self._tuples) for v in value
            ):
                return shown  # these may hold something else the next time
            self._tuples[id(value)] = value, shown
        return self._tuples[id(value)][1]

    def _items(self, value: dict[Any, Any]) -> dict[Any, Any]:
        return {k: self.of(v) for k, v in value.items()}

    def _keep(self, held: Any, tensor: Any) -> None:
        self._tensors[id(held)] = held, tensor
        self._arrays[id(tensor)] = tensor, held
        if isinstance(held, np.ndarray) and isinstance(tensor, Tensor):
            self._shared.append((held, tensor))

    def back(self, value: Any) -> Any:
        """Return the array for each tensor: the one that it stands for, or a new one."""
        return self._back(value) if isinstance(value, Tensor) else each_tensor(value, self._back)

    def _back(self, tensor: Tensor) -> Any:
        if id(tensor) not in self._arrays:
            self._keep(_as_array(tensor), tensor)
        return self._arrays[id(tensor)][1]

    def put_back(self) -> None:
        """Put into the user's own lists and dictionaries what was put into those shown in their place."""
        for own, shown in self._containers:
            for key, item in list(enumerate(shown)) if type(shown) is list else list(shown.items()):
                there = key < len(own) if type(own) is list else key in own
                if isinstance(item, Tensor) and (not there or item is not self.of(own[key])):
                    own[key] = self.back(item)
        self._containers.clear()

    def changed(self, values: Iterable[Any]) -> None:
        """Let every tensor count a change whose memory is that of one of these values."""
        for shared, _ in self._shared[len(self._begins) :]:
            first, last = _extent(shared)
            self._begins.append(first)
            self._ends.append(last)
        if not self._shared:
            return
        begins, ends = (np.frombuffer(places, np.int64) for places in (self._begins, self._ends))
        for first, last in {_extent(v) for v in values if isinstance(v, np.ndarray)}:
            for number in np.flatnonzero((begins < last) & (first < ends)).tolist():
                increment_version(self._shared[number][1])


def _extent(array: np.ndarray) -> tuple[int, int]:
    """Return where an array's memory begins and ends."""
    first = array.__array_interface__["data"][0]
    if array.flags.c_contiguous or not array.size:
        return first, first + array.nbytes
    reach = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
    return first + sum(min(r, 0) for r in reach), first + sum(max(r, 0) for r in reach) + array.itemsize


class OnArrays(Watcher):
    """Lets a watcher of tensors watch statements over arrays."""

    def __init__(self, watcher: Watcher):
        self.watcher: Watcher = watcher
        self.tensors: Tensors = Tensors()

    def looks(self, step: int, statement: Any) -> bool:
        """Tell whether it does."""
        return self.watcher.looks(step, statement)

    def takes(self, step: int, statement: Any) -> bool:
        """Tell whether it does."""
        return self.watcher.takes(step, statement)

    def ran(self, step: int, statement: Any, variables: Mapping[str, Any]) -> Namespace:
        """Let it look, and replace."""
        if self.watcher.asks_for_changes and may_change_in_place(statement):
            # what is called may write into what it is given; else only what is written to changes
            names = writes(statement) | (reads(statement) if calls(statement) else frozenset())
            self.tensors.changed(variables.get(n) for n in names)
        new = self.watcher.ran(step, statement, Seen(self.tensors, variables)) or {}
        self.tensors.put_back()
        return {name: self.tensors.back(value) for name, value in new.items()}

    def added(self, step: int, statement: Any, value: Any) -> Any:
        """Let it see what is added."""
        shown = self.tensors.of(value)
        given = self.watcher.added(step, statement, shown)
        self.tensors.put_back()
        return value if given is shown else self.tensors.back(given)

    def raised(self, step: int, statement: Any, error: Exception) -> None:
        """Tell it."""
        self.watcher.raised(step, statement, error)
