"""Instances of a layer's class: what its constructor is given, by the names of its parameters.

A row stands for what a course calls so. What no course has is guessed: several ways are tried, and whoever
asks takes the first instance that runs.
"""

import contextlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backhand.checking.running.endings import what_raised, where_raised
from backhand.checking.sources.courses import (
    IMAGES,
    STRIDED_IMAGES,
    C,
    D,
    F,
    H,
    Held,
    K,
    N,
    T,
    V,
    drawn_value,
    word,
)
from backhand.checking.sources.updating import (
    OPTIMISER,
    SHAPE,
    SHAPE_TOLD,
    PlainStep,
    methods_asking_for,
    prepared,
)


def _slope_of_tanh(x: Any) -> Any:
    return 1 - np.tanh(x) ** 2


def _random(*sizes: int) -> Any:
    return np.random.normal(size=sizes)


class RandomNumbers(np.random.Generator):
    """A generator with the methods of NumPy's older one besides: which of the two is meant, no name tells."""

    def randn(self, *sizes: int) -> Any:
        """Return normal random numbers."""
        return self.standard_normal(sizes or None)

    def rand(self, *sizes: int) -> Any:
        """Return random numbers between 0 and 1."""
        return self.random(sizes or None)

    def randint(self, *bounds: Any, size: Any = None) -> Any:
        """Return whole random numbers."""
        return self.integers(*bounds, size=size)

    def random_sample(self, size: Any = None) -> Any:
        """Return random numbers between 0 and 1."""
        return self.random(size)

    def __reduce__(self) -> Any:
        """Let a copy have these methods too, and go on from the same state."""
        return RandomNumbers, (self.bit_generator,)


RANDOM = Held(RandomNumbers(np.random.PCG64(0)))
# What constructors ask for, by the name of the class and of the parameter: sizes, or parameters themselves.
BUILT = (
    ("conv", "w", (F, C, 3, 3)),
    ("conv", "(in|input|n|nb|num)?_?(channels?|maps|depth)(_in)?|c_?in|in_c", C),
    (
        "conv",
        "(out|output)_?(channels?|maps|depth)|(n|nb|num)?_?(filter|kernel)s|(n|num)_(filter|kernel)|channels_out|c_?out|out_c",
        F,
    ),
    ("conv", "([hw]_)?(kernel|filter)(_?(size|h|w|height|width))?|k|f", 3),
    ("conv", "(kernel|filter|convolution)_shape", Held((C, 3, 3))),
    ("2d|spatial", "(n|num)?_?(features|channels)", C),
    ("", "(stride|pool(ing)?|kernel)_shape", Held((2, 2))),
    ("linear|dense|affine|full", "shape", Held((D, H))),
    ("", "(zero_?)?pad(ding)?(_?(width|size|amount))?", 1),  # a reflection is smaller than its image
    ("", "word_to_idx", Held({word: i for i, word in enumerate(("<NULL>", "<START>", "<END>", *"abcd"))})),
    ("net|mlp", "size", Held([D, H, K])),
    ("pool", "size", 2),
    ("", "(layers?|net(work)?|nodes)_?(sizes?|dims?|structure)|sizes|structure|topology", Held([D, H, K])),
    ("", "(up|down)?_?(sampling|scale)_?(factor)?|factor", 2),
    ("", "(\\w+_)?(vocab|vocabulary|dict)(_?size)?|num_(embeddings|words|tokens)|n_(vocab|words|tokens)", V),
    ("", "rng|prng|rs|rnd|(np_?)?random(_?(state|generator|numbers?))?|gen(erator)?", RANDOM),
    ("conv", "b", (F,)),
    *(
        (who, what, shape)
        for who, gates in (("lstm", 4), ("gru", 3), ("", 1))
        for what, shape in (("wx", (D, gates * H)), ("wh", (H, gates * H)))
    ),
    ("lstm", "b", (4 * H,)),
    ("gru", "b", (3 * H,)),
    ("", "(activation|act)(_fn|_function|_func)?|f|func|function", Held(np.tanh)),
    (
        "",
        "((activation|act|f|func)(_function|_fn)?_?)?(prime|deriv(ative)?|grad(ient)?)|df",
        Held(_slope_of_tanh),
    ),
    ("", "\\w*init(iali[sz]er)?_(fn|func|function)", Held(_random)),
    ("", "w", (D, H)),
    ("", "b", (H,)),
    ("", "x", (N, D)),
    ("", "y", (N, 1)),
    ("", "gamma|beta", (D,)),
    ("", "pool(ing)?_?(h|w|size|height|width)|(kernel|filter)(_?size)?|strides?|window", 2),
    ("", "(n|num)_?(heads?|groups?|layers?|blocks?)|(heads?|groups?|layers?|blocks?)(_?(num|count))?", 2),
    ("", "(n_?|num_?|d_?|dim_?|fan_?)?in(put)?s?(_?(size|dim|features|units|nodes|channels|num))?", D),
    ("", "(n_?|num_?|d_?|dim_?|fan_?)?out(put)?s?(_?(size|dim|features|units|nodes|channels|num))?", H),
    ("", "(n_?|num_?)?(hidden|units|neurons)(_?(size|dim|units|num))?|(d|dim)_?ff|ffn?_(d|dim)", H),
    ("", "(n_?|num_?|\\w+_)?(features|dims?|size|channels|d|n|model)", D),
    ("", "p|(dropout_?|drop_?|keep_?)?(rate|ratio|prob(ability)?|p)|drop(out)?", 0.5),
)

# What a model's constructor is given besides, though it has defaults: those are large, and its numbers tiny.
MODEL = (
    ("conv", "input_(dim|size|shape)", Held(IMAGES[1:])),
    ("", "hidden_(dims|sizes?_list|layers|size_list)", Held([H, 4])),
    ("", "(num_|n_)?filters", F),
    ("", "filter_size", 3),
    ("", "reg(ularization)?|weight_decay_lambda|lambd", 0.1),
    ("", "wordvec_dim", T),
    ("", "dtype", Held(np.float64)),
)


# What slides over an image, of which a constructor may want the height and the width.
WINDOW = "(?!.*(num|filters|kernels|n_))(.*_)?(kernel|filter|pool|window|stride|pad)(s|ing)?(_?(size|shape))?"
# A default that is larger makes a layer on which every call takes long.
LARGE = 64
# A size for all that must go into each other: heads take their parts of features, what is added is as wide.
ALIKE = 8


# What a method is told of the shape of a row: itself, or with the batch in front, its channels last or first.
Layout = Callable[[tuple[int, ...]], tuple[int, ...]]
LAYOUTS: tuple[Layout, ...] = (
    lambda shape: shape,
    lambda shape: (N, *shape[1:], shape[0]) if len(shape) == len(IMAGES[1:]) else (N, *shape),
    lambda shape: (N, *shape),
)


@dataclass(frozen=True)
class Made:
    """An instance of a class.

    Attributes:
        layer: the instance.
        guessed: the parameters of its constructor that no course has.
    """

    layer: Any
    guessed: list[str]


def making(layer: type, *, model: bool = False) -> Iterator[Made]:
    """Yield instances of a class, the likeliest first: by its defaults and the usual sizes; then otherwise.

    What else its constructor asks for may be sizes as well, each another one; the shape of its input, or the
    sizes of several layers. A model is made small.
    """
    parameters = {
        n: p
        for n, p in inspect.signature(layer).parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    needed = [n for n, p in parameters.items() if p.default is p.empty]
    shaped = [
        n
        for n, p in parameters.items()
        if re.fullmatch(SHAPE, n.lower()) and p.default in (p.empty, None) and not _built(layer.__name__, n)
    ]
    usual = {n: _built(layer.__name__, n) for n in needed}
    if any(re.fullmatch("(filter|kernel)_?(size|shape)", n.lower()) for n in parameters):
        usual |= {n: F for n in needed if re.fullmatch("(filter|kernel)s", n.lower())}  # and not the weights
    small = usual | _sizes(layer.__name__, list(parameters))
    guessed = [n for n, v in usual.items() if v is None and n not in shaped]
    tried: list[tuple[Any, ...]] = []
    large = any(isinstance(p.default, int) and p.default > LARGE for p in parameters.values())
    smaller = small, _paired(small), _alike(small)
    ways = (*smaller, usual) if model or large else (usual, small, _paired(usual), *smaller)
    ways = (*ways, *(_seeded(way) for way in ways if RANDOM in way.values()))
    layouts = LAYOUTS if [*methods_asking_for(layer, SHAPE_TOLD)] else LAYOUTS[:1]
    for way in itertools.product(layouts, ways):
        if way not in tried:
            tried.append(way)
            if (found := _first(layer, way[1], shaped, way[0])) is not None:
                yield Made(found, guessed)


def why_not_made(layer: type) -> str:
    """Return what a class's own constructor raises on what is likely for its parameters; perhaps nothing."""
    error: Exception | None = None
    try:
        needed = [n for n, p in inspect.signature(layer).parameters.items() if p.default is p.empty]
        sizes = dict(zip(needed, (D, H, K, F, C), strict=False))
        values = {n: known if (known := _built(layer.__name__, n)) is not None else sizes[n] for n in needed}
        rng = np.random.default_rng(0)
        layer(**{n: drawn_value(v, rng) for n, v in values.items()})
    except Exception as raised:  # the user's code may raise anything
        error = raised
    return what_raised(error) if error is not None and where_raised(error) else ""


def _first(layer: type, known: Mapping[str, Any], shaped: Sequence[str], layout: Layout) -> Any | None:
    """Return the first instance of what is known of a constructor's parameters; the rest is guessed."""
    unknown = [n for n, v in known.items() if v is None and n not in shaped]
    for shape in dict.fromkeys((shape_for(layer.__name__), STRIDED_IMAGES[1:], IMAGES[1:])):
        for guessed in _guessed(unknown, shape):
            values = {**known, **dict.fromkeys(shaped, Held(shape)), **guessed}
            with contextlib.suppress(Exception):  # it asks for something else under that name
                rng = np.random.default_rng(0)
                given = {n: drawn_value(v, rng) for n, v in values.items()}
                return prepared(layer(**given), layout(shape))
    return None


def _guessed(unknown: Sequence[str], shape: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Yield what may be given for parameters that no course has: sizes, a shape, the sizes of some layers."""
    sizes = (D, H, K, F, C)
    if len(unknown) <= len(sizes):
        yield dict(zip(unknown, sizes, strict=False))
    for value in (shape, [D, H, K]) if unknown else ():
        yield dict.fromkeys(unknown, Held(value))


def _seeded(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same with a seed for whatever random numbers are to be drawn by."""
    return {n: 0 if v is RANDOM else v for n, v in known.items()}


def _paired(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same with the sizes of windows as heights and widths."""
    windows = [n for n, v in known.items() if isinstance(v, int) and re.fullmatch(WINDOW, n.lower())]
    return {**known, **{n: Held((known[n], known[n])) for n in windows}}


def _alike(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same with all sizes of features alike, and what is not known as well."""
    return {n: ALIKE if v is None or v in (D, H, K) else v for n, v in known.items()}


def shape_for(layer: str) -> tuple[int, ...]:
    """Return the shape of a row of a layer's input, by its name."""
    name = layer.lower()
    if "1d" not in name and re.search("conv|pool|2d|spatial|flatten|upsampl", name):
        return IMAGES[1:]
    return (T, D) if re.search("rnn|lstm|gru|(conv|pool\\w*)_?1d", name) else (D,)


def _sizes(layer: str, parameters: Sequence[str]) -> dict[str, Any]:
    """Return what a constructor is given of what has a default, perhaps."""
    found = {}
    for name in parameters:
        rows = [v for who, what, v in MODEL if re.search(who, layer.lower()) and re.fullmatch(what, name)]
        size = rows[0] if rows else _built(layer, name)
        if isinstance(size, Held | int | float) and not re.fullmatch(
            "p|drop.*|.*rate.*|.*prob|.*ratio", name
        ):
            found[name] = size
    return found


def _built(layer: str, parameter: str) -> Any | None:
    """Return what a constructor's parameter may be given."""
    called = word(parameter)
    if re.fullmatch(OPTIMISER, called):
        return Held(PlainStep())
    fits = (v for who, what, v in BUILT if re.search(who, layer.lower()) and re.fullmatch(what, called))
    return next(fits, None)
