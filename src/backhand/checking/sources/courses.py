"""Inputs for the layers that the courses set, told by the names of their functions and parameters.

A row stands for what a course calls so. Of several rows that fit, the first is taken with which the forward
runs. Sizes differ from each other, so that an exchanged axis cannot pass; parameters are drawn, never ones.
"""

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backhand.checking.sources.paired import inputs_of

# A batch, steps, features, hidden units, channels, filters, classes, words.
N, T, D, H, C, F, K, V = 3, 4, 5, 6, 2, 4, 8, 7
CONV = {"stride": 1, "pad": 1}
# A step of two, which a backward may forget, and sizes that it goes into.
STRIDED, STRIDED_IMAGES = {"stride": 2, "pad": 1}, (N, C, 7, 3)
POOL = {"pool_height": 2, "pool_width": 2, "stride": 2}
IMAGES = (N, C, 6, 4)
SQUARE_IMAGES = (N, C, 6, 6)  # a model may take the height for the width


@dataclass(frozen=True)
class Whole:
    """An array of whole numbers below some."""

    shape: tuple[int, ...]
    below: int


@dataclass(frozen=True)
class OneOf:
    """One of several words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class OneHot:
    """Rows of zeros with a single one."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """A value that is given as it is, though it looks like a shape."""

    value: Any


@dataclass(frozen=True)
class Row:
    """A signature.

    Attributes:
        names: what the function may be called, a pattern to be found in its name.
        inputs: by parameter, in lower case: a shape of normal random numbers, whole numbers, or a value.
        sure: whether a forward that runs on it is enough: a backward that does not run is wrong.
    """

    names: str
    inputs: Mapping[str, Any]
    sure: bool = False


def _norm(x: tuple[int, ...], *parameters: int, **more: Any) -> dict[str, Any]:
    shaped = dict.fromkeys(("gamma", "beta"), parameters)
    options = {f"{kind}_param": {"mode": "train"} for kind in ("bn", "ln", "gn", "norm")}
    return {"x": x, **shaped, **options, "eps": 1e-5, **more}


def _recurrent(gates: int, **more: Any) -> dict[str, Any]:
    bias = (gates * H,)
    return {"wx": (D, gates * H), "wh": (H, gates * H), "b": bias, "bh": bias, **more}


_STEP = {"x": (N, D), "prev_h": (N, H), "prev_c": (N, H)}
_THROUGH_TIME = {"x": (N, T, D), "h0": (N, H)}
_LABELS = {"y": Whole((N,), K)}
ROWS = (
    Row("lstm_step", _STEP | _recurrent(4)),
    Row("lstm", _THROUGH_TIME | _recurrent(4)),
    Row("rnn_step", _STEP | _recurrent(1)),
    Row("rnn|lstm|gru", _STEP),  # a layer that holds its weights
    Row("rnn", _THROUGH_TIME | _recurrent(1)),
    Row("embed", {"x": Whole((N, T), V), "w": (V, D)}),
    Row("temporal_affine", {"x": (N, T, D), "w": (D, F), "b": (F,)}),
    Row("temporal_softmax", {"x": (N, T, K), "y": Whole((N, T), K), "mask": Whole((N, T), 2)}),
    Row("group", _norm((N, 6, 4, 5), 1, 6, 1, 1, g=2)),
    Row("group", _norm((N, 6, 4, 5), 6, g=2)),
    Row("spatial", _norm((N, C, 4, 5), C)),
    Row("conv.*norm|conv_bn", _norm(IMAGES, F, w=(F, C, 3, 3), b=(F,), conv_param=CONV)),
    Row("norm|_bn|bn_|^bn$", _norm((7, D), D, w=(D, H), b=(H,))),
    Row("norm|_bn|bn_", _norm((7, D), H, w=(D, H), b=(H,))),
    *(
        Row("conv", {"x": x, "w": (F, C, 3, 3), "b": (F,), **options}, sure=x is STRIDED_IMAGES)
        for x, steps in ((STRIDED_IMAGES, STRIDED), (IMAGES, CONV))
        for options in ({"conv_param": steps, "pool_param": POOL}, {**steps, "padding": 1})
    ),
    Row("conv", {"a_prev": (N, 4, 2, C), "w": (2, 2, C, F), "b": (1, 1, 1, F), "hparameters": STRIDED}, True),
    Row("conv", {"a_prev": (N, 5, 4, C), "w": (2, 2, C, F), "b": (1, 1, 1, F), "hparameters": CONV}),
    Row("pool", {"x": IMAGES, "pool_param": POOL}),
    Row("pool", {"a_prev": (N, 4, 6, C), "hparameters": {"f": 2, "stride": 2}, "mode": "max"}),
    Row("dropout", {"x": (N, D), "dropout_param": {"mode": "train", "p": 0.6, "seed": 1}, "p": 0.6}),
    Row("conv|pool|flatten|2d", {"x": IMAGES}),
    Row("time.*sigmoid.*loss", {"x": (N, T), "y": Whole((N, T), 2)}),
    Row("sigmoid.*loss|binary", {"x": (N,), "y": Whole((N,), 2)}),
    Row("softmax|svm|loss|entropy|hinge", {"x": (N, K), "scores": (N, K), "logits": (N, K), **_LABELS}),
    Row("softmax|svm|loss", {"w": (D, K), "x": (N, D), "y": Whole((N,), K), "reg": 0.1}),
    Row("mse|loss|squared", {"y_pred": (N, K), "pred": (N, K), "x": (N, K), "y": (N, K), "y_true": (N, K)}),
    # of images, whose features are flattened, then of vectors; then as deeplearning.ai has it, in columns
    Row("", {"x": (N, 2, 3), "w": (6, D), "b": (D,)}),
    Row("", {"x": (N, D), "w": (D, H), "b": (H,)}),
    Row("activation", {"a_prev": (D, N), "w": (H, D), "b": (H, 1), "activation": OneOf(("relu", "sigmoid"))}),
    Row("", {"a": (D, N), "a_prev": (D, N), "x": (D, N), "w": (H, D), "b": (H, 1)}),
    Row("", {"x": (N, T, D)}),
    Row("", {"z": (D, N), "x": (N, D), "a": (N, D), "alpha": 0.1, "negative_slope": 0.1, "slope": 0.1}),
)
# What a whole model is given: data, then labels, as whole numbers or one-hot.
MODEL_ROWS = tuple(
    Row("", {"x": x, "y": y, "reg": 0.1})
    for x in ((N, D), IMAGES, SQUARE_IMAGES, (D, N))
    for y in (Whole((N,), 3), OneHot((N, H)))
)
# Other words for the same parameters.
WORDS = {
    "weight": "w",
    "weights": "w",
    "bias": "b",
    "biases": "b",
    "input": "x",
    "inputs": "x",
    "features": "x",
    "labels": "y",
    "target": "y",
    "targets": "y",
    "groups": "g",
    "t": "y",
    "input_tensor": "x",
    "input_data": "x",
    "data": "x",
    "inp": "x",
    "xs": "x",
    "ts": "y",
    "h_prev": "prev_h",
    "c_prev": "prev_c",
    "preds": "scores",
    "predictions": "scores",
    "target_index": "y",
}

# What constructors ask for, by the name of the class and of the parameter: sizes, or parameters themselves.
BUILT = (
    ("conv", "w", (F, C, 3, 3)),
    ("conv", "b", (F,)),
    *(
        (who, what, shape)
        for who, gates in (("lstm", 4), ("gru", 3), ("", 1))
        for what, shape in (("wx", (D, gates * H)), ("wh", (H, gates * H)))
    ),
    ("lstm", "b", (4 * H,)),
    ("gru", "b", (3 * H,)),
    ("", "w", (D, H)),
    ("", "b", (H,)),
    ("", "gamma|beta", (D,)),
    ("", "pool_?(h|w|size|height|width)|kernel(_size)?|stride", 2),
    ("", "(n_?|num_?|d_?|dim_?|fan_?)?in(put)?s?(_?(size|dim|features|units|nodes|channels))?", D),
    ("", "(n_?|num_?|d_?|dim_?|fan_?)?out(put)?s?(_?(size|dim|features|units|nodes|channels))?", H),
    ("", "(n_?|num_?)?(hidden|units|neurons)(_?(size|dim|units))?", H),
    ("", "(n_?|num_?)?(features|dim|size|channels|d|n)", D),
    ("", "p|rate|ratio|dropout_ratio|keep_prob|prob", 0.5),
)

Draw = Callable[[np.random.Generator], dict[str, Any]]
# What inputs of another shape raise; something else, as a name that is not there, says more.
MISFITS = ValueError, IndexError, TypeError


# What a model's constructor is given besides, though it has defaults: those are large, and its numbers tiny.
MODEL = (
    ("conv", "input_(dim|size|shape)", Held(IMAGES[1:])),
    ("", "hidden_(dims|sizes?_list|layers|size_list)", Held([H, 4])),
    ("", "(num_|n_)?filters", F),
    ("", "filter_size", 3),
    ("", "reg(ularization)?|weight_decay_lambda|lambd", 0.1),
    ("", "dtype", Held(np.float64)),
)


def made(layer: type, named: Mapping[str, Any], *, model: bool = False) -> Any | None:
    """Return an instance of a class: one that the module has, or by its defaults and the usual sizes.

    None where its constructor asks for something else, or raises. A model is made small.
    """
    instances = [value for value in named.values() if type(value) is layer]
    if instances:
        return instances[0]
    parameters = list(inspect.signature(layer).parameters.values())
    sizes = _sizes(layer.__name__, [p.name for p in parameters]) if model else {}
    parameters = [p for p in parameters if p.default is p.empty and p.name not in sizes]
    parameters = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    given = {p.name: _built(layer.__name__, p.name) for p in parameters}
    if None in given.values():
        return None
    try:
        rng = np.random.default_rng(0)
        return layer(**{name: _drawn(value, rng) for name, value in (sizes | given).items()})
    except Exception:  # it asks for something else under that name
        return None


def _sizes(layer: str, parameters: Sequence[str]) -> dict[str, Any]:
    """Return what a model's constructor is given of what has a default, perhaps."""
    found = {}
    for name in parameters:
        rows = [v for who, what, v in MODEL if re.search(who, layer.lower()) and re.fullmatch(what, name)]
        size = rows[0] if rows else _built(layer, name)
        if isinstance(size, Held | int | float) and not re.fullmatch("p|.*rate.*|.*prob|.*ratio", name):
            found[name] = size
    return found


def _built(layer: str, parameter: str) -> Any | None:
    """Return what a constructor's parameter may be given."""
    called = word(parameter)
    fits = (v for who, what, v in BUILT if re.search(who, layer.lower()) and re.fullmatch(what, called))
    return next(fits, None)


def inputs_for(
    forward: Callable[..., Any],
    name: str | None = None,
    *,
    model: bool = False,
    accepts: Callable[[dict[str, Any]], bool] = lambda _: True,
    call: Callable[[dict[str, Any]], Any] | None = None,
) -> Draw | Exception | None:
    """Return what draws a layer's inputs; what its forward raised if it runs on no row; None if none fits.

    Args:
        forward: a function, or a method.
        name: what the layer is called; the function's own name by default.
        model: it is a whole model's loss, which takes data and labels.
        accepts: tells whether the backward runs as well; the first inputs are taken if it does on none.
        call: calls the forward, where its inputs are not arrays as they are drawn.
    """
    call = call or (lambda given: copy.deepcopy(forward)(**given))
    rows = list(MODEL_ROWS if model else _rows(forward, name or forward.__name__))
    others = [] if model else list(_simplest(forward))
    raised: Exception | None = None
    first: Draw | None = None
    for row in (*rows, *others):
        draw = _drawing(forward, row, model)
        try:
            np.random.seed(0)
            with np.errstate(all="ignore"):
                found = call(draw(np.random.default_rng(0)))
        except Exception as error:  # another row may fit
            is_nearer = raised is None or (isinstance(raised, MISFITS) and not isinstance(error, MISFITS))
            raised = error if row in rows and is_nearer else raised
            continue
        fits = row.sure or accepts(draw(np.random.default_rng(0)))
        if fits and (row in rows or _is_finite(found)):
            return draw
        first = first or (draw if row in rows else None)
    return first or raised


def _is_finite(found: Any) -> bool:
    """Tell whether a forward gives numbers: one that takes a root or a logarithm is not given just any."""
    first = found[0] if isinstance(found, tuple) and found else found
    return bool(np.isfinite(np.asarray(first, dtype=np.float64)).all())


def _rows(forward: Callable[..., Any], name: str) -> Iterator[Row]:
    needed = {word(p.name) for p in inputs_of(forward) if p.default is p.empty}
    for row in ROWS:
        if re.search(row.names, name.lower()) and needed and needed <= set(row.inputs):
            yield row


def _simplest(forward: Callable[..., Any]) -> Iterator[Row]:
    """Yield what a function may be given whatever it is called: arrays of one shape, scores and labels."""
    names = [word(p.name) for p in inputs_of(forward) if p.default is p.empty]
    for shape in ((N, D), (N, T, D)) if names else ():
        yield Row("", dict.fromkeys(names, shape))
    if len(names) == 2:
        for shape in ((N, K), (N, T, K)):
            yield from (Row("", {a: shape, b: Whole(shape[:-1], K)}) for a, b in (names, names[::-1]))
    if names:
        yield Row("", dict.fromkeys(names, Whole((N, T), T)))


def word(parameter: str) -> str:
    """Return what a parameter is called here."""
    lower = parameter.lower()
    return WORDS.get(lower, lower)


def _drawing(forward: Callable[..., Any], row: Row, model: bool) -> Draw:
    parameters = inputs_of(forward)
    # options that have a default keep it, but for the dictionaries and the bias
    wanted = [p.name for p in parameters if model or p.default is p.empty or p.name.endswith("_param")]
    given = {name: row.inputs[word(name)] for name in wanted if word(name) in row.inputs}

    def draw(rng: np.random.Generator) -> dict[str, Any]:
        return {name: _drawn(value, rng) for name, value in given.items()}

    return draw


def _drawn(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, Held):
        return copy.deepcopy(value.value)
    if isinstance(value, OneOf):
        return str(rng.choice(value.words))
    if isinstance(value, OneHot):
        found = np.zeros(value.shape)
        labels = rng.integers(0, value.shape[-1], size=value.shape[:-1])
        np.put_along_axis(found, labels[..., None], 1.0, axis=-1)
        return found
    if isinstance(value, Whole):
        return rng.integers(0, value.below, size=value.shape)
    if isinstance(value, tuple):
        return rng.normal(size=value)
    return copy.deepcopy(value)
