"""What the models of whole words share, as Numba kernels: the table of inputs, the head, and AdamW's update.

Shapes: V symbols, m numbers in a state, R rows, one for each node of the minibatch's trie.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .kernels import (
    ONE,
    Matrix,
    Row,
    add_product,
    kernel,
    once,
    product,
    repeat,
    transpose,
)
from .layers import cross_entropy
from .padding import padded, zeros
from .tries import Trie

FIRST, SECOND, EPS = 0.9, 0.99, 1e-8
"""AdamW's, as makemore has them: how much of both moments is kept, and what is added to the root."""


class Head(NamedTuple):
    """What the head writes before it reads it, padded."""

    bias: np.ndarray  # (V,), with -inf in the padding, so that a symbol there has probability 0
    logits: np.ndarray  # (R, V), then dlogits
    WoT: np.ndarray  # (V, m)
    dh: np.ndarray  # (R, m)
    part: np.ndarray  # (V,): sums of some rows
    tops: np.ndarray  # (V,)


def make_head(rows: int, vocabulary: int, width: int) -> Head:
    """Return room for the logits of so many rows."""
    V, m = padded(vocabulary), padded(width)
    bias = zeros(V)
    bias[vocabulary:] = -np.inf
    return Head(bias, zeros(rows, V), zeros(V, m), zeros(rows, m), zeros(V), zeros(V))


@once
def head_loss(h: Matrix, Wo: Matrix, trie: Trie, rows: int, targets: int, width: int, s: Head) -> float:
    """logits = h @ Wo + bias, their mean cross entropy, and dlogits."""
    repeat(s.bias, rows, s.logits)
    add_product(ONE, h, Wo, s.logits, rows, width)  # (R, V)
    return cross_entropy(s.logits, trie.nodes, trie.targets[:targets], trie.w, rows, s.tops)


@once
def head_backward(
    h: Matrix, Wo: Matrix, dWo: Matrix, rows: int, vocabulary: int, width: int, s: Head
) -> None:
    """dh and dWo, from dlogits."""
    transpose(Wo, s.WoT)
    product(s.logits, s.WoT, s.dh, rows, vocabulary)  # (R, m)
    product(h.T, s.logits, dWo, width, rows)  # (m, V)


@kernel
def copy_row(
    x: Row,
    count: int,
    out: Row,
) -> None:
    """out[:count] = x[:count]."""
    for k in range(count):
        out[k] = x[k]


@kernel
def clear(
    x: Matrix,
    rows: int,
) -> None:
    """x[:rows] = 0."""
    for i in range(rows):
        row = x[i]
        for k in range(len(row)):
            row[k] = 0


def paces(rates: Sequence[float], steps_before: int, weight_decay: float) -> np.ndarray:
    """Return what `adamw` needs to know of each step: (steps, 3)."""
    rate = np.asarray(rates, np.float64)
    step = steps_before + 1 + np.arange(len(rates))
    sizes = rate / (1 - FIRST**step)
    return np.stack([1 - rate * weight_decay, sizes, np.sqrt(1 - SECOND**step)], 1).astype(np.float32)


@kernel
def adamw(
    p: Row,
    g: Row,
    first: Row,
    second: Row,
    pace: Row,
) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, with pace of `paces`: m and v are `first` and `second`."""
    keep, size, root = pace[0], pace[1], ONE / pace[2]
    a, b = np.float32(1 - FIRST), np.float32(1 - SECOND)
    for k in range(len(p)):
        first[k] += a * (g[k] - first[k])
        second[k] = np.float32(SECOND) * second[k] + b * g[k] * g[k]
        p[k] = keep * p[k] - size * first[k] / (np.sqrt(second[k]) * root + np.float32(EPS))
