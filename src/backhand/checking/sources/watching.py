"""Pairs over NumPy whose calls are watched, to be judged on the numbers that the user's own calls had."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

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
SOON = 1.0
# An upstream gradient of ones, as one likes to try, hides mistakes: a second one is drawn.
DRAWS = 2
# A forward, or a backward (or a loss that returns its gradients) beside its forward, if that is another one.
Watched = FunctionType | tuple[FunctionType, FunctionType | None]


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
        self._layers: dict[type, dict[str, Any]] = {}  # with its own forward and backward, by name
        self._given: dict[type, tuple[Any, dict[str, Any]]] = {}
        self._tell, self._begun = tell, begun
        self._judged: set[FunctionType | type] = set()
        self._watching: dict[Watched, FunctionType] = {}
        # by what stands in a function's place the user's own, and the code of that
        self._own: MutableMapping[FunctionType, tuple[FunctionType, CodeType]] = WeakKeyDictionary()
        self._are_losses: dict[tuple[FunctionType, CodeType], bool] = {}
        self._spaces: list[MutableMapping[str, Any]] = []

    def watch(self, space: MutableMapping[str, Any]) -> None:
        """Watch the pairs of a namespace, and those that have taken the place of watched ones."""
        if not any(known is space for known in self._spaces):
            self._spaces.append(space)
        for value in list(space.values()):
            if roles.is_layer(value) and not self._watches(value) and is_the_users(_space_of(value)):
                self.watch_layer(value)
        functions = {n: self._users(f) for n, f in space.items() if isinstance(f, FunctionType)}
        own = {n: f for n, f in functions.items() if is_the_users(f.__globals__)}
        for name, function in own.items():
            if "backward" in name:
                forward = roles.forward_of(name, own)
                if forward is not None:
                    self._put(space, forward, own[forward])
                    self._put(space, name, (own[forward], function))
            elif self._returns_its_gradients(function):
                self._put(space, name, (function, None))

    def _put(self, space: MutableMapping[str, Any], name: str, watched: Watched) -> None:
        """Put what watches a forward, or a backward beside its forward, in its place: each time the same.

        A cell that imports or defines a function once more puts the user's own there again.
        """
        if watched not in self._watching:
            is_forward = isinstance(watched, FunctionType)
            self._watching[watched] = self._keeping(watched) if is_forward else self._noting(*watched)
        if space[name] is not self._watching[watched]:
            space[name] = self._watching[watched]

    def _returns_its_gradients(self, function: FunctionType) -> bool:
        key = function, function.__code__  # which `%autoreload` exchanges
        if key not in self._are_losses:
            self._are_losses[key] = roles.returns_its_gradients(function)
        return self._are_losses[key]

    def _users(self, function: FunctionType) -> FunctionType:
        """Return the user's own function, in the place of which another may stand.

        What `%autoreload` has given another code is the user's: it writes into whatever stands there.
        """
        own, code = self._own.get(function, (function, None))
        return own if function.__code__ is code else function

    def _standing_in(self, function: Callable[..., Any], own: FunctionType) -> FunctionType:
        """Return a function that stands in the place of the user's, and looks like it."""
        one = functools.wraps(own)(function)
        assert isinstance(one, FunctionType)
        self._own[one] = own, one.__code__
        return one

    def release(self, space: MutableMapping[str, Any]) -> None:
        """Put the functions back as they were."""
        self.release_layers()
        self._spaces = [known for known in self._spaces if known is not space]
        self._release_functions(space)

    def _release_functions(self, space: MutableMapping[str, Any]) -> dict[str, FunctionType]:
        """Put the functions back as they were; return what has stood in their places."""
        functions = {n: f for n, f in space.items() if isinstance(f, FunctionType)}
        standing = {n: f for n, f in functions.items() if self._users(f) is not f}
        space.update({name: self._users(function) for name, function in standing.items()})
        return standing

    def release_layers(self) -> None:
        """Put the methods of layers back as they were, but for those that are others by now."""
        for layer, own in self._layers.items():
            for name, method in own.items():
                if not self._is_own(vars(layer).get(name)):
                    setattr(layer, name, method)
        self._layers = {}

    def _is_own(self, method: Any) -> bool:
        """Tell whether what a class holds is the user's own, and nothing stands in its place."""
        plain = getattr(method, "__func__", method)
        return not isinstance(plain, FunctionType) or self._users(plain) is plain

    def _watches(self, layer: type) -> bool:
        """Tell whether a layer is watched still: `%autoreload` gives a class its methods anew."""
        own = self._layers.get(layer)
        return own is not None and not any(self._is_own(vars(layer).get(name)) for name in own)

    def watch_layer(self, layer: type) -> None:
        """Watch the calls of a layer's own forward and backward; those that it inherits are their class's."""
        names = roles.methods_of(layer) or ("forward", "backward")
        held = {n: vars(layer)[n] for n in names if n in vars(layer)}
        before = self._layers.get(layer, {})
        own = {n: method if self._is_own(method) else before[n] for n, method in held.items()}
        own = {n: m for n, m in own.items() if isinstance(getattr(m, "__func__", m), FunctionType)}
        self._layers[layer] = own
        if roles.is_static(layer):  # a class that only holds a pair of functions
            forward, backward = (own[name].__func__ for name in names)
            setattr(layer, names[0], staticmethod(self._keeping(forward)))
            setattr(layer, names[1], staticmethod(self._noting(forward, backward, layer.__name__)))
            return
        for name, method in own.items():
            setattr(layer, name, (self._given_to if name == names[0] else self._left_by)(method))

    def _given_to(self, method: FunctionType) -> FunctionType:
        def forward(owner: Any, *args: Any, **options: Any) -> Any:
            if self._is_new(type(owner)):
                parameters = list(parameters_of(method))[1:]
                inputs = dict(zip(parameters, args, strict=False)) | options
                self._given[type(owner)] = owner, inputs
            return method(owner, *args, **options)

        return self._standing_in(forward, method)

    def _left_by(self, method: FunctionType) -> FunctionType:
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

        return self._standing_in(backward, method)

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
        """Let all be the user's own while they are looked at, and nothing be noted.

        What a backward calls is looked into as well, which what stands in its place has no lines for.
        """
        layers = list(self._layers)
        self.release_layers()
        standing = [(space, self._release_functions(space)) for space in self._spaces]
        try:
            with roles.judging():
                yield
        finally:
            for layer in layers:
                self.watch_layer(layer)
            for space, its in standing:
                space.update(its)

    def take(self) -> list[Seen | SeenLayer]:
        """Return what was called since the last time."""
        seen, self._seen = list(self._seen.values()), {}
        return seen

    def _keeping(self, forward: FunctionType) -> FunctionType:
        def called(*args: Any, **options: Any) -> Any:
            if not roles.is_judging():
                self._last[forward] = (args, options)
            return forward(*args, **options)

        return self._standing_in(called, forward)

    def _noting(
        self, forward: FunctionType, backward: FunctionType | None, title: str | None = None
    ) -> FunctionType:
        function = backward or forward

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

        return self._standing_in(called, function)


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
