"""The native engine's training step of the rnn, in the names of its pass.

h = tanh(x @ Wx + before @ Wh + b)
"""

from collections import namedtuple
from typing import Any

import numpy as np

from backhand.passes.rnn_model import SHAPES

from .axes import Sizes
from .kernels import ONE, Indices, Matrix, Row, add_product, kernel, once, product, sum_rows, tanh, transpose
from .native_words import Settings
from .padding import Room, padded, zeros
from .recurrent_layers import States, fill_table, make_states, table_backward
from .tries import add_into_rows, grow, take_rows
from .word_layers import adamw, clear, copy_row, head_backward, head_loss
from .word_steps import NativeModel

Weights: Any = namedtuple("Weights", SHAPES)


def make_extras(
    shape: tuple[int, int, int], sizes: Sizes, settings: Settings
) -> tuple[States, np.ndarray, int, int]:
    """Return room for a step on minibatches of this shape, WhT (m, m) and the sizes that are not padded."""
    _, n, T = shape
    V, e, m = (sizes[letter] for letter in "Vem")
    return make_states(n, T, V, e, m, gates=1), zeros(padded(m), padded(m)), V, e


@once
def forward(X: Indices, Y: Indices, p: Any, s: States, V: int, e: int) -> tuple[int, int, float]:
    """The states and dlogits; return how many levels and rows there are, and the loss."""
    levels, targets = grow(X, Y, V, s.trie)
    begins, symbols, parents = s.trie.begins, s.trie.symbols, s.trie.parents
    table, before, h, h0, Wh = s.table, s.before, s.h, p.h0, p.Wh
    rows, m = int(begins[levels]), h.shape[1]
    fill_table(p.E, p.Wx, p.b, V, e, table)
    for t in range(levels):
        begin, end = begins[t], begins[t + 1]
        take_rows(h if t > 0 else h0, parents, begin, end, 0, before)
        take_rows(table, symbols, begin, end, 0, h)
        add_product(ONE, before[begin:], Wh, h[begin:], end - begin, m)  # (R, m)
        tanh_of_rows(h, begin, end)
    copy_row(p.bo, V, s.head.bias)
    return levels, rows, head_loss(h, p.Wo, s.trie, rows, targets, m, s.head)


@once
def backward(levels: int, rows: int, p: Any, g: Any, s: States, WhT: Matrix, V: int, e: int) -> None:
    """The gradients, from dlogits."""
    begins, symbols, parents = s.trie.begins, s.trie.symbols, s.trie.parents
    table, before, h, dh, dbefore, dh0 = s.table, s.before, s.h, s.head.dh, s.dbefore, g.h0
    m = h.shape[1]
    head_backward(h, p.Wo, g.Wo, rows, V, m, s.head)
    sum_rows(s.trie.ones, s.head.logits, rows, s.part, g.bo)  # (V,)
    transpose(p.Wh, WhT)
    clear(dh0, len(dh0))
    for t in range(levels - 1, -1, -1):
        begin, end = begins[t], begins[t + 1]
        tanh_backward(h, begin, end, dh)
        product(dh[begin:], WhT, dbefore, end - begin, m)  # (R, m)
        add_into_rows(dbefore, parents, begin, end, 0, dh if t > 0 else dh0)
    product(before.T, dh, g.Wh, m, rows)  # (m, m)
    clear(table, V)
    add_into_rows(dh, symbols, begins[0], rows, 0, table)  # (V, m)
    table_backward(p.E, p.Wx, g.E, g.Wx, g.b, V, e, table, s.trie.ones, s.part, s.WxT)


@kernel
def tanh_of_rows(
    h: Matrix,
    begin: int,
    end: int,
) -> None:
    """h = tanh(h)."""
    for r in range(begin, end):
        row = h[r]
        for k in range(len(row)):
            row[k] = tanh(row[k])


@kernel
def tanh_backward(
    h: Matrix,
    begin: int,
    end: int,
    dh: Matrix,
) -> None:
    """dh = (1 - h^2) dh."""
    for r in range(begin, end):
        row, line = dh[r], h[r]
        for k in range(len(row)):
            row[k] *= ONE - line[k] * line[k]


def rnn_steps(
    Xs: Indices,
    Ys: Indices,
    pace: Matrix,
    losses: Row,
    learn: bool,
    room: Room,
    s: States,
    WhT: Matrix,
    V: int,
    e: int,
) -> None:
    """Write the loss of each minibatch; to learn, take one step of AdamW on it as well."""
    for step in range(len(losses)):
        levels, rows, losses[step] = forward(Xs[step], Ys[step], room.p, s, V, e)
        if learn:
            backward(levels, rows, room.p, room.g, s, WhT, V, e)
            adamw(room.flat, room.gradients, room.first, room.second, pace[step])


MODEL = NativeModel(
    rnn_steps, lambda settings: SHAPES, Weights, make_extras, ("recurrent_layers", "rnn_steps")
)
STEPS = MODEL.steps
