"""Inputs for the layers that the courses set, told by the names of their functions and parameters.

A row stands for what a course calls so. Sizes differ from each other, so that an exchanged axis cannot pass;
parameters are drawn, never ones.
"""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

# What a forward and a backward are given first, where the one leaves for the other what they both need.
CONTEXTS = ("ctx", "context")

# A batch, steps, features, hidden units, channels, filters, classes, words.
N, T, D, H, C, F, K, V = 3, 4, 5, 6, 2, 4, 8, 7
CONV = {"stride": 1, "pad": 1}
# A step of two, which a backward may forget, and sizes that it goes into.
STRIDED, STRIDED_IMAGES = {"stride": 2, "pad": 1}, (N, C, 7, 3)
POOL = {"pool_height": 2, "pool_width": 2, "stride": 2}
IMAGES = (N, C, 6, 4)
# The same with the channels last, as some courses have it.
STRIDED_LAST, IMAGES_LAST = (N, 7, 3, C), (N, 6, 4, C)
SIGNALS = (N, C, 9)
SQUARE_IMAGES = (N, C, 6, 6)  # some take the height for the width
SQUARE = "The images are square: on others one of the two raises."


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
class Unit:
    """Numbers within 0 and 1, as probabilities are, and off its ends."""

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
        says: what it is to be said of it, if it is taken.
    """

    names: str
    inputs: Mapping[str, Any]
    sure: bool = False
    says: str = ""


def _norm(x: tuple[int, ...], *parameters: int, **more: Any) -> dict[str, Any]:
    shaped = dict.fromkeys(("gamma", "beta"), parameters)
    kinds = ("bn_param", "ln_param", "gn_param", "norm_param", "params")
    options = {kind: {"mode": "train"} for kind in kinds}
    return {"x": x, **shaped, **options, "eps": 1e-5, **more}


def _recurrent(gates: int, **more: Any) -> dict[str, Any]:
    bias = (gates * H,)
    return {"wx": (D, gates * H), "wh": (H, gates * H), "b": bias, "bh": bias, **more}


_STEP = {"x": (N, D), "prev_h": (N, H), "prev_c": (N, H)}
_THROUGH_TIME = {"x": (N, T, D), "h0": (N, H)}


def _loss(x: Any, y: Any) -> dict[str, Any]:
    return {"x": x, "scores": x, "y": y}


_TWO_LAYERS = {"W1": (D, H), "b1": (H,), "W2": (H, K), "b2": (K,)}


class Words:
    """A corpus as word2vec samples it, of seven words."""

    def sampleTokenIdx(self) -> int:  # noqa: N802  (the course's name)
        """Return the number of a random word."""
        return int(np.random.randint(V))


# CS224n's word2vec, which some write with underscores.
_WORD2VEC = {
    "center_word_vec": (D,),
    "outside_word_idx": 2,
    "outside_vectors": (V, D),
    "dataset": Held(Words()),
    "current_center_word": Held("c"),
    "window_size": 3,
    "outside_words": Held(["a", "b", "e", "d", "b", "c"]),
    "word2ind": Held({letter: i for i, letter in enumerate("abcdefg")}),
    "center_word_vectors": (V, D),
}

ROWS = (
    Row("", {name.replace("_", ""): value for name, value in _WORD2VEC.items()} | _WORD2VEC),
    Row("lstm_step", _STEP | _recurrent(4)),
    Row("lstm", _THROUGH_TIME | _recurrent(4)),
    Row("rnn_step", _STEP | _recurrent(1)),
    Row("rnn|lstm|gru", _STEP),  # a layer that holds its weights; then one that takes no batch
    Row("rnn|lstm|gru", {"x": (D,), "prev_h": (H,), "prev_c": (H,)}),
    Row("rnn|lstm|gru", {"x": (T, D, 1)}),  # a list of columns
    Row("rnn", _THROUGH_TIME | _recurrent(1)),
    Row("embed", {"x": Whole((N, T), V), "w": (V, D)}),
    Row("embed", {"x": Whole((N, T), C)}),
    Row("temporal_affine", {"x": (N, T, D), "w": (D, F), "b": (F,)}),
    Row("temporal_softmax", {"x": (N, T, K), "y": Whole((N, T), K), "mask": Whole((N, T), 2)}),
    Row("group", _norm((N, 6, 4, 5), 1, 6, 1, 1, g=2)),
    Row("group", _norm((N, 6, 4, 5), 6, g=2)),
    Row("spatial", _norm((N, C, 4, 5), C)),
    Row("1d", {"x": SIGNALS}),
    Row("2d", {"x": STRIDED_IMAGES}),
    Row("2d", {"x": IMAGES}),
    Row("conv.*norm|conv_bn", _norm(IMAGES, F, w=(F, C, 3, 3), b=(F,), conv_param=CONV, pool_param=POOL)),
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
    Row("conv", {"x": STRIDED_IMAGES}),
    Row("conv", {"x": STRIDED_LAST}),
    Row("conv|pool|flatten", {"x": IMAGES}),
    Row("conv|pool", {"x": IMAGES_LAST}),
    Row("conv|pool", {"x": IMAGES[1:]}),  # one image
    Row("conv", {"x": SQUARE_IMAGES[1:], "w": (F, C, 3, 3), "b": (F,), "stride": 1}),
    Row("conv|pool|2d|sample", {"x": SQUARE_IMAGES}, says=SQUARE),
    Row("conv|pool|2d|sample", {"x": (N, 6, 6, C)}, says=SQUARE),
    Row("time.*sigmoid.*loss", {"x": (N, T), "y": Whole((N, T), 2)}),
    Row("sigmoid.*loss", _loss((N,), Whole((N,), 2))),
    # An entropy may be one of probabilities, which scores may be, too; a label is a class, or a row of zeros
    # with a single one, as which a class cannot be taken.
    Row("bce|binary|logistic", _loss(Unit((N, 1)), Whole((N, 1), 2))),
    Row("bce|binary|logistic", _loss(Unit((N,)), Whole((N,), 2))),
    Row("entropy|nll|log_?loss", _loss(Unit((N, K)), OneHot((N, K)))),
    Row("softmax|svm|loss|entropy|hinge", _loss((N, K), Whole((N,), K))),
    Row("softmax|svm|loss", {"w": (D, K), "x": (N, D), "y": Whole((N,), K), "reg": 0.1}),
    Row("loss|forward_?backward", {"params": _TWO_LAYERS, "x": (N, D), "y": Whole((N,), K), "reg": 0.1}),
    Row("mse|squared|l1|l2|mae|huber", _loss((N, K), (N, K))),
    *(
        Row("loss|entropy|softmax|nll|criterion|cost", _loss(x, y))
        for x in ((N, K), Unit((N, K)))
        for y in (OneHot((N, K)), Whole((N,), K))
    ),
    Row("", {"x": (N, D)}),
    # of images, whose features are flattened, then of vectors; then as deeplearning.ai has it, in columns
    Row("", {"x": (N, 2, 3), "w": (6, D), "b": (D,)}),
    Row("", {"x": (N, D), "w": (D, H), "b": (H,)}),
    Row("activation", {"a_prev": (D, N), "w": (H, D), "b": (H, 1), "activation": OneOf(("relu", "sigmoid"))}),
    Row("", {"a": (D, N), "a_prev": (D, N), "x": (D, N), "w": (H, D), "b": (H, 1)}),
    Row("", {"x": (N, T, D)}),
    Row("", {"z": (D, N), "x": (N, D), "a": (N, D), "alpha": 0.1, "negative_slope": 0.1, "slope": 0.1}),
)
# What a whole model is given: data, then labels, one-hot or as whole numbers. Those go into any formula of
# arrays, which `probs - y.T` is; these, as rows of zeros with a one are, into no index.
MODEL_ROWS = (
    *(
        Row("", {"x": x, "y": y, "reg": 0.1})
        for x in ((N, D), IMAGES, SQUARE_IMAGES, (D, N))
        for y in (OneHot((N, H)), OneHot((N, K)), Whole((N,), 3))
    ),
    Row("", {"x": (N, D), "captions": Whole((N, T), V)}),
)
# Labels, by whatever name; and what may be said besides of how they are kept.
LABELS = "(y|t)s?|y_?true|true_?y|(true_?|gt_?)?labels?|targets?|ground_?truth|actuals?"
KEPT = "tensor|index|one_?hot|oh|enc(oded)?|batch"
# Other words for the same parameters, as patterns.
WORDS = (
    ("w", "weights?|filt(er)?s?"),
    ("b", "bias(es)?"),
    ("x", "x|xs|inp|inputs?(_tensor|_data)?|features|data|ima?ge?s?"),
    ("stride", "s|strides?"),
    ("scores", "scores|logits|preds?|predict(ions?|ed)(_tensor)?|y_?(pred|hat)|outputs?"),
    ("y", f"(one_?hot_?)?({LABELS})(_?({KEPT}))?"),
    ("g", "groups"),
    ("prev_h", "h_?prev(_t|_l)?|prev_?h(idden)?|hidden(_state)?"),
    ("prev_c", "c_?prev(_t|_l)?|prev_?c"),
)


@cache
def word(parameter: str) -> str:
    """Return what a parameter is called here.

    >>> word("input_tensor"), word("Y_true"), word("h_prev"), word("gamma")
    ('x', 'y', 'prev_h', 'gamma')
    """
    lower = parameter.lower()
    return next((known for known, pattern in WORDS if re.fullmatch(pattern, lower)), lower)


def is_cache(parameter: str) -> bool:
    """Tell whether a parameter is called as what a forward leaves for its backward."""
    return parameter in CONTEXTS or "cache" in parameter


def drawn_value(value: Any, rng: np.random.Generator) -> Any:
    """Return an input as a row tells it."""
    if isinstance(value, Mapping):
        return {name: drawn_value(inner, rng) for name, inner in value.items()}
    if isinstance(value, Held):
        return copy.deepcopy(value.value)
    if isinstance(value, OneOf):
        return str(rng.choice(value.words))
    if isinstance(value, OneHot):
        found = np.zeros(value.shape)
        labels = rng.integers(0, value.shape[-1], size=value.shape[:-1])
        np.put_along_axis(found, labels[..., None], 1.0, axis=-1)
        return found
    if isinstance(value, Unit):
        return rng.uniform(0.1, 0.9, size=value.shape)
    if isinstance(value, Whole):
        return rng.integers(0, value.below, size=value.shape)
    if isinstance(value, tuple):
        return rng.normal(size=value)
    return copy.deepcopy(value)
