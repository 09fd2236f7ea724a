"""Pairs over NumPy whose calls are watched, to be judged on the numbers that the user's own calls had."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from backhand.checking.report import Report
from backhand.checking.running.alarms import OutOfTimeError, awaited, limited
from backhand.checking.running.arrays import as_arrays
from backhand.checking.running.importing import is_the_users
from backhand.checking.running.program import parameters_of
from backhand.checking.sources import roles
from backhand.checking.sources.classes import judge_class, judge_functions
from backhand.checking.sources.costs import asked_by
from backhand.checking.sources.courses import CONTEXTS
from backhand.checking.sources.overnumpy import is_float
from backhand.checking.sources.paired import Functions
from backhand.errors import CheckError

# Processor seconds for one pair: a live verdict that takes longer is not waited for.
LONGEST = 10.0
# And after these no more than a little is spent on a name for what is wrong: its line is known by then.
SOON = 1.2
# An upstream gradient of ones, as one likes to try, hides mistakes: a second one is drawn.
DRAWS = 2


@dataclass(frozen=True)
class Seen:
    """A backward that was called, or a loss that returns its gradients, with what the two were given."""

    functions: Functions
    inputs: dict[str, Any]
    arguments: dict[str, Any]

    @property
    def title(self) -> str:
        """What was called."""
        return self.functions.title

    def check(self, *, draws: int = DRAWS, seed: int = 0) -> Report:
        """Judge it, first on the numbers of the call, then on others near them and another upstream gradient.

        Raises:
            CheckError: the two do not fit together.
        """
        return judge_functions(self.functions, self.inputs, draws=draws, seed=seed, given=self.arguments)


@dataclass(frozen=True)
class SeenLayer:
    """A layer whose backward was called, as it was then, with what its forward was given."""

    layer: Any
    inputs: dict[str, Any]
    arguments: dict[str, Any]

    @property
    def title(self) -> str:
        """The name of its class."""
        return type(self.layer).__name__

    def check(self, *, draws: int = DRAWS, seed: int = 0) -> Report:
        """Judge it, first on the numbers of the call, but for parameters, which are drawn; then on others.

        Raises:
            CheckError: the two do not fit together.
        """
        labels = {n: v for n, v in self.arguments.items() if n in asked_by(self.layer)}
        return judge_class(self.layer, labels | self.inputs, draws=draws, seed=seed, given=self.arguments)


def judged_in_time(seen: Seen | SeenLayer) -> Report:
    """Judge what was called, while somebody waits for it.

    Raises:
        CheckError: it takes too long, or does not fit together.
    """
    try:
        with limited(LONGEST), awaited(SOON):
            return seen.check()
    except OutOfTimeError as error:
        raise CheckError(f"{seen.title} is not judged within {LONGEST:g} s on inputs as large.") from error


class Watching:
    """The functions and layers of a namespace, each in something that notes its calls and is else the same.

    Of each backward the first call since the last look is noted; all others cost one look into a dictionary,
    so that a training loop does not wait.

    Args:
        tell: called after a backward whose call has been noted, each once; without it nobody is told.
        begun: called before each call of a backward, with what tells it from others.

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

    def __init__(
        self, tell: Callable[[], None] | None = None, begun: Callable[[object], None] = lambda _: None
    ) -> None:
        self._last: dict[FunctionType, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._seen: dict[FunctionType | type, Seen | SeenLayer] = {}
        self._layers: dict[type, dict[str, Any]] = {}
        self._given: dict[type, tuple[Any, dict[str, Any]]] = {}
        self._tell, self._begun = tell, begun
        self._judged: set[FunctionType | type] = set()
        self._watched: set[FunctionType] = set()
        self._looked_at: set[FunctionType] = set()

    def watch(self, space: MutableMapping[str, Any]) -> None:
        """Watch the pairs of a namespace, and those that have taken the place of watched ones."""
        for value in list(space.values()):
            if roles.is_layer(value) and value not in self._layers and is_the_users(_space_of(value)):
                self.watch_layer(value)
        functions = {n: f for n, f in space.items() if isinstance(f, FunctionType)}
        own = {n: _within(f) for n, f in functions.items() if is_the_users(_within(f).__globals__)}
        for name, function in own.items():
            if functions[name] in self._looked_at:
                continue
            self._looked_at.add(functions[name])
            if "backward" in name:
                forward = roles.forward_of(name, own)
                if forward is None:
                    continue
                if functions[name] not in self._watched:
                    space[name] = self._put(self._noting(own[forward], function))
                if space[forward] not in self._watched:
                    space[forward] = self._put(self._keeping(own[forward]))
            elif functions[name] not in self._watched and roles.returns_its_gradients(function):
                space[name] = self._put(self._noting(function, None))

    def release(self, space: MutableMapping[str, Any]) -> None:
        """Put the functions back as they were."""
        self.release_layers()
        for name, value in list(space.items()):
            if isinstance(value, FunctionType) and value in self._watched:
                space[name] = _within(value)

    def release_layers(self) -> None:
        """Put the methods of layers back as they were."""
        for layer, methods in self._layers.items():
            for name, method in methods.items():
                setattr(layer, name, method)
        self._layers = {}

    def watch_layer(self, layer: type) -> None:
        """Watch the calls of a layer's own forward and backward; those that it inherits are their class's."""
        names = roles.methods_of(layer) or ("forward", "backward")
        methods = {n: vars(layer).get(n) for n in names}
        if roles.is_static(layer):
            self._watch_static(layer, methods)
            return
        own = {n: f for n, f in methods.items() if isinstance(f, FunctionType)}
        self._layers[layer] = own
        for name, method in own.items():
            setattr(layer, name, (self._given_to if name == names[0] else self._left_by)(method))

    def _watch_static(self, layer: type, methods: dict[str, Any]) -> None:
        """Watch a class that only holds a pair of functions."""
        (first, forward), (last, backward) = ((n, f.__func__) for n, f in methods.items())
        self._layers[layer] = methods
        setattr(layer, first, staticmethod(self._keeping(forward)))
        setattr(layer, last, staticmethod(self._noting(forward, backward, layer.__name__)))

    def _given_to(self, method: FunctionType) -> Any:
        @functools.wraps(method)
        def forward(owner: Any, *args: Any, **options: Any) -> Any:
            if self._is_new(type(owner)):
                parameters = list(parameters_of(method))[1:]
                inputs = dict(zip(parameters, args, strict=False)) | options
                self._given[type(owner)] = owner, inputs
            return method(owner, *args, **options)

        return forward

    def _left_by(self, method: FunctionType) -> Any:
        @functools.wraps(method)
        def backward(owner: Any, *args: Any, **options: Any) -> Any:
            self._begin(id(owner))
            layer, inputs = self._given.pop(type(owner), (None, {}))
            if layer is owner and self._is_new(type(owner)) and any(map(is_float, inputs.values())):
                arguments = _by_name(method, (owner, *args), options)
                arguments.pop(next(iter(arguments)))
                self._seen[type(owner)] = SeenLayer(*_copied((owner, inputs, arguments)))
            given = method(owner, *args, **options)
            self._told()
            return given

        return backward

    def _told(self) -> None:
        if self._tell is not None and self._seen and not roles.is_judging():
            self._judged |= self._seen.keys()  # told at once, and once
            self._tell()

    def _begin(self, called: object) -> None:
        if not roles.is_judging():
            self._begun(called)

    def _is_new(self, called: FunctionType | type) -> bool:
        return called not in self._seen and called not in self._judged and not roles.is_judging()

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Let the methods of layers be the user's own while they are looked at, and nothing be noted."""
        layers = list(self._layers)
        self.release_layers()
        try:
            with roles.judging():
                yield
        finally:
            for layer in layers:
                self.watch_layer(layer)

    def take(self) -> list[Seen | SeenLayer]:
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
            if not roles.is_judging():
                self._last[forward] = (args, options)
            return forward(*args, **options)

        return called

    def _noting(self, forward: FunctionType, backward: FunctionType | None, title: str | None = None) -> Any:
        function = backward or forward

        @functools.wraps(function)
        def called(*args: Any, **options: Any) -> Any:
            self._begin(function)
            if self._is_new(function):
                last = self._last.get(forward) if backward is not None else (args, options)
                inputs = _by_name(forward, *last) if last is not None else {}
                inputs = {n: v for n, v in inputs.items() if n not in CONTEXTS}
                if any(map(is_float, inputs.values())):
                    arguments = _by_name(function, args, options)
                    functions = Functions.of(forward, backward, title)
                    self._seen[function] = Seen(functions, *_copied((inputs, arguments)))
            given = function(*args, **options)
            self._told()
            return given

        return called


def _space_of(layer: type) -> dict[str, Any]:
    plain = (getattr(f, "__func__", f) for f in vars(layer).values())
    return next((f.__globals__ for f in plain if isinstance(f, FunctionType)), {})


def _by_name(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Return arguments by name; none where a call does not fit, which raises by itself."""
    parameters = parameters_of(function)
    return dict(zip(parameters, args, strict=False)) | {n: v for n, v in options.items() if n in parameters}


def _copied(values: Any) -> Any:
    """Return a copy of what may change before it is looked at; tensors in a graph become arrays."""
    return copy.deepcopy(as_arrays(values))


def _within(function: FunctionType) -> FunctionType:
    within = getattr(function, "__wrapped__", function)
    return within if isinstance(within, FunctionType) else function
