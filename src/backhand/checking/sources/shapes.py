"""What a forward may be given where no course says so: shapes that it tells itself, one after the other.

Each input stands for an array whose shape is not known yet. Where the forward needs one it says which, and
that is given a shape; where shapes do not go together it raises, and the last one is changed. So it asks for
the keys of a dictionary of parameters as well.
"""

import copy
import inspect
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backhand.checking.sources.courses import (
    IMAGES,
    IMAGES_LAST,
    SIGNALS,
    C,
    D,
    F,
    H,
    Held,
    K,
    N,
    OneHot,
    T,
    V,
    Whole,
    drawn_value,
    word,
)

# Processor seconds for the whole search, and runs for each layout of the data: a forward of such sizes takes
# less than a millisecond, and with the right layout there are some runs for each of its arrays. What is found
# takes half a second on a quiet machine; on a busy one, where it is several, the verdict is to be the same.
LONGEST, MOST_RUNS = 3.0, 400
# So long others are looked for when something fits on which the backward is wrong, as it may be anywhere: a
# right one has been found in 0.4 s on a quiet machine, and on a busy one the verdict is to be the same.
OTHERS_TRIED = 2.0

# What says how the data lie: features last, first, in steps; a single row, a single column; images.
LAYOUTS: tuple[Callable[[int], tuple[int, ...]], ...] = (
    lambda n: (N, n),
    lambda n: (n, N),
    lambda n: (N, T, n),
    lambda n: (n,),
    lambda n: (n, 1),
    lambda n: (T, n),
    lambda n: (n, N, T),
    lambda n: (1, n),
)
BIASES: tuple[Callable[[int], tuple[int, ...]], ...] = (
    lambda n: (n,),
    lambda n: (1, n),
    lambda n: (n, 1),
)
SIZES = (D, H, K)
# Of recurrent layers, whose gates stand side by side, or whose input is joined to the state.
# Those of different sizes come first, so that an exchanged axis cannot pass.
WEIGHTS = (
    *((D, H), (H, K), (H, D), (H, H), (K, H), (D, K), (K, D), (D, D), (K, K)),
    *((D + H, H), (H, D + H), (D, 4 * H), (H, 4 * H), (4 * H, D), (4 * H, H), (D, 3 * H), (H, 3 * H)),
    *((D + H, 4 * H), (4 * H, D + H), (3 * H, D), (3 * H, H), (V, D), (V, H)),
)
# What lies otherwise than the rest, such as the weights of steps.
OTHERS = (N, D), (N, T, H), (N, H), (N, T, D), (N, T), (D,)
IMAGE_LAYOUTS = (IMAGES, IMAGES_LAST, SIGNALS, (N, 2, V))


class NeededError(BaseException):
    """A forward needs an array that has no shape yet; not an `Exception`, which the user's code may catch."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class Unknown:
    """Stands for an array that has no shape yet; whoever looks at it is told so."""

    __array_priority__: float = 1e6

    def __init__(self, name: str):
        self._name = name

    def _needed(self, *_: Any, **__: Any) -> Any:
        raise NeededError(self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NeededError(self._name)


for _name in (
    *("array", "array_ufunc", "array_function", "getitem", "setitem", "len", "iter", "bool", "float", "int"),
    *("add", "radd", "sub", "rsub", "mul", "rmul", "matmul", "rmatmul", "truediv", "rtruediv", "pow", "neg"),
    *("lt", "gt", "le", "ge", "rpow", "index", "iadd", "abs"),
):
    setattr(Unknown, f"__{_name}__", Unknown._needed)


class Keys(dict[str, Any]):
    """Stands for a dictionary of parameters, of which what is asked for is one."""

    def __init__(self, holder: str, known: Mapping[str, Any]):
        super().__init__(known)
        self._holder = holder

    def __missing__(self, key: str) -> Any:
        return Unknown(f"{self._holder}[{key}]")


HOLDER = "param(eter)?s?|theta|weights_dict"


@dataclass(frozen=True)
class _Layout:
    """How data and biases lie, in one try; perhaps not all of the data as the rest.

    The sizes of what is there already come first.
    """

    data: Callable[[int], tuple[int, ...]] | tuple[int, ...]
    bias: Callable[[int], tuple[int, ...]]
    loose: bool = False
    sizes: tuple[int, ...] = ()

    def possible(self, name: str) -> Sequence[Any]:
        """Return what an array may be, by its name, the likeliest first."""
        name = re.sub(r".*\[|\]", "", name)
        if word(name) == "y":
            hot = [OneHot((N, n)) for n in (K, H)]
            return [
                Whole((N,), 3),
                *hot,
                Whole((N, T), 3),
                *(self._data(n) for n in (*self.sizes, *SIZES, 1)),
            ]
        if re.search("idx|index|indices|ids?$|tokens|mask", name):
            return *([Held(None)] if "mask" in name else []), Whole((N,), 2), Whole((N, T), 2)
        if re.match("b|gamma|beta|gain|scale|shift|bias", name.lower()):
            return [self.bias(n) for n in (*self.sizes, H, K, D, 4 * H, 3 * H, C, F, 1)]
        if re.match(r"[WUVREK]|w(\d|$|_)|weight|kernel|embed", name):
            return WEIGHTS if callable(self.data) else ((F, C, 3, 3), *WEIGHTS)
        if re.match(r"[hcas](s?$|\d|_)|state", name) or re.search("prev|hidden|state", name):
            others = (*(self._data(n) for n in (H, D)), *OTHERS) if self.loose else ()
            return [*(self._state(n) for n in (*self.sizes, H, D, K)), *others]
        others = (*(OTHERS if self.loose else ()), Whole((N, T), V), Whole((N,), 3))
        return [*(self._data(n) for n in (*self.sizes, *SIZES)), *others]

    def _data(self, size: int) -> tuple[int, ...]:
        return self.data(size) if callable(self.data) else self.data

    def _state(self, size: int) -> tuple[int, ...]:
        """Return the shape of a state: as the data, but without its steps."""
        whole = self._data(size)
        if not callable(self.data) or T not in whole:
            return whole
        without = tuple(n for n in whole if n != T)
        return without


ANY = (
    *(_Layout(data, bias) for bias in BIASES for data in LAYOUTS),
    *(_Layout(data, BIASES[0]) for data in IMAGE_LAYOUTS),
    *(_Layout(data, BIASES[0]) for data in (lambda n: (N, n, 6, 4), lambda n: (N, 6, 4, n))),
    *(_Layout(data, BIASES[0], loose=True) for data in LAYOUTS),
)
COLUMN = (_Layout(LAYOUTS[4], BIASES[2]),)


class Search:
    """The search for shapes on which a forward runs.

    Args:
        asked: the forward's parameters that are given.
        call: calls it.
        accepts: tells whether the backward's gradients have the shapes of what the forward is given; None
            where they do and are not right, for what is guessed may go together by chance alone.
        fixed: what is given as it is.
        sizes: of the arrays that are there already, such as weights in global variables.
    """

    def __init__(
        self,
        asked: Sequence[inspect.Parameter],
        call: Callable[[dict[str, Any]], Any],
        accepts: Callable[[dict[str, Any]], bool | None],
        fixed: Mapping[str, Any],
        sizes: tuple[int, ...] = (),
    ):
        self.sizes: tuple[int, ...] = sizes
        self.names: Sequence[str] = [p.name for p in asked]
        self.call: Callable[[dict[str, Any]], Any] = call
        self.accepts: Callable[[dict[str, Any]], bool | None] = accepts
        self.fixed: Mapping[str, Any] = fixed
        self.ends: float = time.thread_time() + LONGEST
        self.runs: int = 0
        self._judged: dict[str, bool | None] = {}  # by what the inputs were; many layouts have the same
        self.doubtful: dict[str, Any] | None = None  # the first that fits, on which the backward is wrong
        self.lacking: NameError | None = None  # what the forward says that is not there

    def found(self, layouts: Sequence[_Layout] = ANY) -> dict[str, Any] | None:
        """Return what fits by name, of dictionaries by their keys; None where nothing does."""
        for layout in layouts:
            self.runs = 0
            if (found := self._from(replace(layout, sizes=self.sizes), {})) is not None:
                return found
        return self.doubtful

    def _from(self, layout: _Layout, known: dict[str, Any]) -> dict[str, Any] | None:
        """Return what fits, beginning with what is known."""
        self.runs += 1
        if self.runs > MOST_RUNS or time.thread_time() > self.ends:
            return None
        try:
            needed = self._run(known)
        except Exception as error:  # these shapes do not go together
            self.lacking = self.lacking or (error if isinstance(error, NameError) else None)
            return None
        if needed is None:
            values = self._values(known)
            key = repr(values)
            if key not in self._judged:
                self._judged[key] = self.accepts(drawn(values))
            fits = self._judged[key]
            if fits is None and self.doubtful is None:
                self.doubtful, self.ends = values, min(self.ends, time.thread_time() + OTHERS_TRIED)
            return values if fits and self._says_as_much(values) else None
        for value in layout.possible(needed) if needed not in known else ():
            if (found := self._from(layout, {**known, needed: value})) is not None:
                return found
        return None

    def _says_as_much(self, values: Mapping[str, Any]) -> bool:
        """Tell whether a mistake would show on inputs as on those on which the backward is wrong.

        On a single row, say, a mean is a sum.
        """
        if self.doubtful is None:
            return True
        shapes, others = ({n: np.shape(v) for n, v in drawn(d).items()} for d in (values, self.doubtful))
        pairs = [(shape, others.get(n, ())) for n, shape in shapes.items()]
        return all(len(a) == len(b) and a.count(1) <= b.count(1) for a, b in pairs)

    def _run(self, known: Mapping[str, Any]) -> str | None:
        """Run the forward; return what it needs first of what has no shape yet."""
        values = self._values(known)
        given = drawn({n: v for n, v in values.items() if v is not None})
        for name in self.names:
            if re.fullmatch(HOLDER, name.lower()) and name not in self.fixed:
                given[name] = Keys(name, given.get(name, {}))
            elif name not in given:
                given[name] = Unknown(name)
        try:
            np.random.seed(0)
            found = self.call(copy.copy(given))
        except NeededError as needed:
            return needed.name
        first = found[0] if isinstance(found, tuple) and found else found
        if isinstance(first, Unknown):
            return first._name
        if not np.isfinite(np.asarray(first, np.float64)).all():
            raise ValueError("no numbers")
        return next((n for n in self.names if isinstance(given[n], Unknown)), None)

    def _values(self, known: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = dict(self.fixed)
        for name, value in known.items():
            holder, _, key = name.partition("[")
            if key:
                found.setdefault(holder, {})[key.rstrip("]")] = value
            else:
                found[holder] = value
        return {n: found.get(n) for n in self.names if found.get(n) is not None}


def drawn(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return one set of what is told."""
    rng = np.random.default_rng(0)
    return {n: drawn_value(value, rng) for n, value in values.items()}
