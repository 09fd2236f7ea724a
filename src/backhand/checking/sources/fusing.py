"""Softmax and cross entropy as two layers of which one gives the gradient of both: right together alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from backhand.checking.running.arrays import as_arrays
from backhand.checking.running.trials import StatementError
from backhand.checking.sources.overnumpy import OverNumpy, Tensors, agreeing, drawn, is_float
from backhand.checking.sources.protocol import ForwardError
from backhand.errors import CheckError

SOFTMAX = (
    "{gradient} is {upstream} as it came: right only beside a loss that gives the gradient of the logits, "
    "probabilities minus labels."
)
LOGITS = (
    "{upstream} is taken for the gradient of what the softmax takes: right only beside a loss that gives "
    "that, probabilities minus labels."
)
LOSS = (
    "{gradient} is probabilities minus labels, the gradient of the logits: right only beside a softmax whose "
    "backward hands it on as it is."
)


def fused(whole: OverNumpy, seed: int) -> str:
    """Return what is to be said of a wrong layer that leaves its derivative to another one, or has both."""
    subject = whole.subject
    try:
        inputs = drawn(whole.inputs, seed)
        outputs, expected, given = whole.compared(seed)
    except (CheckError, ForwardError, StatementError):
        return ""
    gradients = {n: np.asarray(as_arrays(g)) for n, g in given.items() if g is not None}
    names = {n: g for g, n in subject.named.items()}
    if subject.outputs == ("loss",):
        along = [n for n, g in gradients.items() if _is_of_the_logits(n, g, inputs)]
        # of a mean square it is the true one, but for a factor
        true = {n: np.asarray(as_arrays(expected[n])) for n in along if n in expected}
        found = next((n for n, g in true.items() if not _is_of_the_logits(n, g, inputs)), None)
        return LOSS.format(gradient=names[found]) if found is not None else ""
    axis = _axis_of_probabilities(as_arrays(outputs[0].detach())) if len(outputs) == 1 else None
    if axis is None:
        return ""
    arrives = subject.arrives[subject.outputs[0]]
    if len(gradients) != 1:
        return LOGITS.format(upstream=arrives) if _is_right_at_the_logits(whole, axis, seed) else ""
    ((name, gradient),) = gradients.items()
    upstream = np.random.default_rng(seed).normal(size=outputs[0].shape)
    is_handed_on = gradient.shape == upstream.shape and np.allclose(gradient, upstream)
    if is_handed_on:
        return SOFTMAX.format(gradient=names[name], upstream=arrives)
    return LOGITS.format(upstream=arrives) if _is_right_at_the_logits(whole, axis, seed) else ""


def _axis_of_probabilities(value: Any) -> int | None:
    """Return the axis along which an array sums to 1, as what a softmax gives does; None for others."""
    if not is_float(value) or value.ndim < 2 or value.min() <= 0:
        return None
    return next((axis for axis in (-1, 0) if np.allclose(value.sum(axis=axis), 1)), None)


def _is_right_at_the_logits(whole: OverNumpy, axis: int, seed: int) -> bool:
    """Tell whether gradients are right if what arrives is that of the softmax's input.

    Of a d whose sum is 0 a softmax p hands on d, where d / p arrives.
    """

    def arriving(upstream: Tensors, outputs: Tensors) -> tuple[Tensors, Tensors]:
        (name,), (p,) = upstream, outputs.values()
        d = upstream[name] - upstream[name].mean(axis, keepdim=True)
        return {name: d / p}, {name: d}

    try:
        _, expected, given = whole.compared(seed, arriving)
    except StatementError:
        return False
    right = agreeing(given, as_arrays(expected))
    return bool(right) and all(right)


def _is_of_the_logits(name: str, gradient: np.ndarray, inputs: Mapping[str, Any]) -> bool:
    """Tell whether a gradient is some positive number times an input minus its labels."""
    probabilities = inputs[name]
    if not is_float(probabilities) or gradient.shape != probabilities.shape or probabilities.ndim < 2:
        return False
    others = [np.asarray(v) for n, v in inputs.items() if n != name]
    classes = np.arange(probabilities.shape[-1])
    one_hot = [v[..., None] == classes for v in others if v.dtype.kind in "iu"]
    labels = [v for v in (*others, *one_hot) if v.shape == probabilities.shape]
    return any(_is_along(gradient, probabilities - one) for one in labels)


def _is_along(gradient: np.ndarray, way: np.ndarray) -> bool:
    lengths = np.linalg.norm(gradient), np.linalg.norm(way)
    return bool(min(lengths) > 0) and np.allclose(gradient / lengths[0], way / lengths[1])
