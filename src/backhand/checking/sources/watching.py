"""Pairs over NumPy whose calls are watched, to be judged on the numbers that the user's own calls had."""

import copy
import functools
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from backhand.checking.report import Report
from backhand.checking.running.alarms import OutOfTimeError, limited
from backhand.checking.running.program import parameters_of
from backhand.checking.sources.layers import forward_of, returns_its_gradients
from backhand.checking.sources.overnumpy import is_float
from backhand.checking.sources.pairs import check_pair
from backhand.checking.sources.truths import is_the_users
from backhand.errors import CheckError

# Processor seconds for one pair: a live verdict that takes longer is not waited for.
LONGEST = 10.0


@dataclass(frozen=True)
class Seen:
    """A backward that was called, or a loss that returns its gradients, with what its forward was given."""

    forward: FunctionType
    backward: FunctionType | None
    inputs: dict[str, Any]

    def check(self) -> Report:
        """Judge it on these inputs.

        Raises:
            CheckError: the two do not fit together, or it takes too long.
        """
        try:
            with limited(LONGEST):
                return check_pair(self.forward, self.backward, self.inputs, draws=1)
        except OutOfTimeError as error:
            name = (self.backward or self.forward).__name__
            raise CheckError(f"{name} is not judged within {LONGEST:g} s on inputs as large.") from error


class Watching:
    """The functions of a namespace, each in something that notes its calls and is the same otherwise.

    Of each backward the first call since the last look is noted; all others cost one look into a dictionary,
    so that a training loop does not wait.

    >>> import numpy as np
    >>> space = {"__name__": "__main__"}
    >>> exec("def scale_forward(x, w): return x * w, (x, w)", space)
    >>> exec("def scale_backward(dout, cache): return dout * cache[1], dout * cache[0]", space)
    >>> watching = Watching()
    >>> watching.watch(space)
    >>> out, cache = space["scale_forward"](np.arange(3.0) + 1, np.ones(3))
    >>> _ = space["scale_backward"](out, cache)
    >>> [list(seen.inputs) for seen in watching.take()]
    [['x', 'w']]
    """

    def __init__(self) -> None:
        self._last: dict[FunctionType, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._seen: dict[FunctionType, Seen] = {}
        self._watched: set[FunctionType] = set()
        self._looked_at: set[FunctionType] = set()
        self.paused: bool = False

    def watch(self, space: MutableMapping[str, Any]) -> None:
        """Watch the pairs of a namespace, and those that have taken the place of watched ones."""
        functions = {n: f for n, f in space.items() if isinstance(f, FunctionType)}
        own = {n: _within(f) for n, f in functions.items() if is_the_users(_within(f).__globals__)}
        for name, function in own.items():
            if functions[name] in self._looked_at:
                continue
            self._looked_at.add(functions[name])
            if "backward" in name:
                forward = forward_of(name, own)
                if forward is None:
                    continue
                if functions[name] not in self._watched:
                    space[name] = self._put(self._noting(own[forward], function))
                if space[forward] not in self._watched:
                    space[forward] = self._put(self._keeping(own[forward]))
            elif functions[name] not in self._watched and returns_its_gradients(function):
                space[name] = self._put(self._noting(function, None))

    def release(self, space: MutableMapping[str, Any]) -> None:
        """Put the functions back as they were."""
        for name, value in list(space.items()):
            if isinstance(value, FunctionType) and value in self._watched:
                space[name] = _within(value)

    def take(self) -> list[Seen]:
        """Return what was called since the last time."""
        seen, self._seen = list(self._seen.values()), {}
        return seen

    def _put(self, watched: FunctionType) -> FunctionType:
        self._watched.add(watched)
        self._looked_at.add(watched)
        return watched

    def _keeping(self, forward: FunctionType) -> Any:
        @functools.wraps(forward)
        def called(*args: Any, **options: Any) -> Any:
            if not self.paused:
                self._last[forward] = (args, options)
            return forward(*args, **options)

        return called

    def _noting(self, forward: FunctionType, backward: FunctionType | None) -> Any:
        function = backward or forward

        @functools.wraps(function)
        def called(*args: Any, **options: Any) -> Any:
            if function not in self._seen and not self.paused:
                last = self._last.get(forward) if backward is not None else (args, options)
                inputs = _by_name(forward, *last) if last is not None else {}
                if any(map(is_float, inputs.values())):
                    self._seen[function] = Seen(forward, backward, copy.deepcopy(inputs))
            return function(*args, **options)

        return called


def _by_name(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Return arguments by name; none where a call does not fit, which raises by itself."""
    parameters = parameters_of(function)
    return dict(zip(parameters, args, strict=False)) | {n: v for n, v in options.items() if n in parameters}


def _within(function: FunctionType) -> FunctionType:
    within = getattr(function, "__wrapped__", function)
    return within if isinstance(within, FunctionType) else function
