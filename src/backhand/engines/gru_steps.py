"""The native engine's training step of the gru, in the names of its pass.

r, z = sigmoid(x @ Wx + before @ Wh + b), n = tanh(x @ Wx + (r * before) @ Wn + b), each with its own columns
of Wx and b; h = (1 - z) * before + z * n.
"""

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np

from backhand.passes.gru_model import SHAPES

from .axes import Sizes
from .kernels import (
    ONE,
    Indices,
    Matrix,
    Row,
    add_product,
    kernel,
    once,
    product,
    sigmoid,
    sum_rows,
    tanh,
    transpose,
)
from .native_words import Settings
from .padding import Room, padded, zeros
from .recurrent_layers import States, fill_table, make_states, table_backward
from .tries import add_into_rows, grow, rows_of, take_rows
from .word_layers import adamw, clear, copy_row, head_backward, head_loss
from .word_steps import NativeModel

Weights: Any = namedtuple("Weights", SHAPES)


class Gates(NamedTuple):
    """What a step writes before it reads it, padded, beside the states."""

    rz: np.ndarray  # (R, 2 m): the gates
    rh: np.ndarray  # (R, m): r * before
    n: np.ndarray  # (R, m)
    drz: np.ndarray  # (R, 2 m), of the sigmoid's argument
    dn: np.ndarray  # (R, m), of the tanh's argument
    drh: np.ndarray  # (R, m), of one level
    WhT: np.ndarray  # (2 m, m)
    WnT: np.ndarray  # (m, m)


def make_extras(
    shape: tuple[int, int, int], sizes: Sizes, settings: Settings
) -> tuple[States, Gates, int, int]:
    """Return room for a step on minibatches of this shape, and the sizes that are not padded."""
    _, n, T = shape
    rows, m = rows_of(n, T), padded(sizes["m"])
    V, e = sizes["V"], sizes["e"]
    states = make_states(n, T, V, e, sizes["m"], gates=3)
    gates = Gates(
        rz=zeros(rows, 2 * m),
        rh=zeros(rows, m),
        n=zeros(rows, m),
        drz=zeros(rows, 2 * m),
        dn=zeros(rows, m),
        drh=zeros(rows, m),
        WhT=zeros(2 * m, m),
        WnT=zeros(m, m),
    )
    return states, gates, V, e


@once
def forward(
    X: Indices, Y: Indices, p: Any, gates: Gates, s: States, V: int, e: int
) -> tuple[int, int, float]:
    """The states and dlogits; return how many levels and rows there are, and the loss."""
    levels, targets = grow(X, Y, V, s.trie)
    begins, symbols, parents = s.trie.begins, s.trie.symbols, s.trie.parents
    table, before, h, h0, Wh, Wn = s.table, s.before, s.h, p.h0, p.Wh, p.Wn
    rz, rh, n = gates.rz, gates.rh, gates.n
    rows, m = int(begins[levels]), h.shape[1]
    fill_table(p.E, p.Wx, p.b, V, e, table)
    for t in range(levels):
        begin, end = begins[t], begins[t + 1]
        take_rows(h if t > 0 else h0, parents, begin, end, 0 * m, before)
        take_rows(table, symbols, begin, end, 0 * m, rz)
        take_rows(table, symbols, begin, end, 2 * m, n)
        add_product(ONE, before[begin:], Wh, rz[begin:], end - begin, m)  # (R, 2 m)
        open_gates(rz, before, begin, end, rh)
        add_product(ONE, rh[begin:], Wn, n[begin:], end - begin, m)  # (R, m)
        update(rz, before, begin, end, n, h)
    copy_row(p.bo, V, s.head.bias)
    return levels, rows, head_loss(h, p.Wo, s.trie, rows, targets, m, s.head)


@once
def backward(levels: int, rows: int, p: Any, g: Any, gates: Gates, s: States, V: int, e: int) -> None:
    """The gradients, from dlogits."""
    begins, symbols, parents = s.trie.begins, s.trie.symbols, s.trie.parents
    table, before, h, dh, dbefore, dh0 = s.table, s.before, s.h, s.head.dh, s.dbefore, g.h0
    rz, rh, n, drz, dn, drh = gates.rz, gates.rh, gates.n, gates.drz, gates.dn, gates.drh
    WhT, WnT, m = gates.WhT, gates.WnT, h.shape[1]
    head_backward(h, p.Wo, g.Wo, rows, V, m, s.head)
    sum_rows(s.trie.ones, s.head.logits, rows, s.part, g.bo)  # (V,)
    transpose(p.Wh, WhT)
    transpose(p.Wn, WnT)
    clear(dh0, len(dh0))
    for t in range(levels - 1, -1, -1):
        begin, end = begins[t], begins[t + 1]
        update_backward(dh, rz, before, n, begin, end, drz, dn, dbefore)
        product(dn[begin:], WnT, drh, end - begin, m)  # (R, m)
        gates_backward(drh, rz, before, begin, end, drz, dbefore)
        add_product(ONE, drz[begin:], WhT, dbefore, end - begin, 2 * m)  # (R, m)
        add_into_rows(dbefore, parents, begin, end, 0 * m, dh if t > 0 else dh0)
    product(before.T, drz, g.Wh, m, rows)  # (m, 2 m)
    product(rh.T, dn, g.Wn, m, rows)  # (m, m)
    clear(table, V)
    add_into_rows(drz, symbols, begins[0], rows, 0 * m, table)
    add_into_rows(dn, symbols, begins[0], rows, 2 * m, table)  # (V, 3 m)
    table_backward(p.E, p.Wx, g.E, g.Wx, g.b, V, e, table, s.trie.ones, s.part, s.WxT)


@kernel
def open_gates(
    rz: Matrix,
    before: Matrix,
    begin: int,
    end: int,
    rh: Matrix,
) -> None:
    """r, z = sigmoid(r, z), and r * before."""
    for i in range(begin, end):
        row, line, out = rz[i], before[i], rh[i]
        for k in range(len(row)):
            row[k] = sigmoid(row[k])
        for k in range(len(out)):
            out[k] = row[k] * line[k]


@kernel
def update(
    rz: Matrix,
    before: Matrix,
    begin: int,
    end: int,
    n: Matrix,
    h: Matrix,
) -> None:
    """n = tanh(n) and h = (1 - z) before + z n."""
    m = n.shape[1]
    for i in range(begin, end):
        for k in range(m):
            z = rz[i, m + k]
            n[i, k] = tanh(n[i, k])
            h[i, k] = (ONE - z) * before[i, k] + z * n[i, k]


@kernel
def update_backward(
    dh: Matrix,
    rz: Matrix,
    before: Matrix,
    n: Matrix,
    begin: int,
    end: int,
    drz: Matrix,
    dn: Matrix,
    dbefore: Matrix,
) -> None:
    """dz, dn and dbefore, as far as it is of `update`."""
    m = n.shape[1]
    for i in range(begin, end):
        for k in range(m):
            d, z, c = dh[i, k], rz[i, m + k], n[i, k]
            drz[i, m + k] = d * (c - before[i, k]) * z * (ONE - z)
            dn[i, k] = d * z * (ONE - c * c)
            dbefore[i - begin, k] = d * (ONE - z)


@kernel
def gates_backward(
    drh: Matrix,
    rz: Matrix,
    before: Matrix,
    begin: int,
    end: int,
    drz: Matrix,
    dbefore: Matrix,
) -> None:
    """dr, and dbefore, as far as it is of r * before."""
    for i in range(begin, end):
        for k in range(drh.shape[1]):
            d, r = drh[i - begin, k], rz[i, k]
            drz[i, k] = d * before[i, k] * r * (ONE - r)
            dbefore[i - begin, k] += d * r


def gru_steps(
    Xs: Indices,
    Ys: Indices,
    pace: Matrix,
    losses: Row,
    learn: bool,
    room: Room,
    s: States,
    gates: Gates,
    V: int,
    e: int,
) -> None:
    """Write the loss of each minibatch; to learn, take one step of AdamW on it as well."""
    for step in range(len(losses)):
        levels, rows, losses[step] = forward(Xs[step], Ys[step], room.p, gates, s, V, e)
        if learn:
            backward(levels, rows, room.p, room.g, gates, s, V, e)
            adamw(room.flat, room.gradients, room.first, room.second, pace[step])


MODEL = NativeModel(
    gru_steps, lambda settings: SHAPES, Weights, make_extras, ("recurrent_layers", "gru_steps")
)
STEPS = MODEL.steps
