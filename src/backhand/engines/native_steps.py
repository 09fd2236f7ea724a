"""The native engine's training step: forward, backward and update, in the order and the names of the pass."""

from typing import Any, NamedTuple

import numpy as np

from .compiling import Compiled
from .kernels import (
    ONE,
    Indices,
    Row,
    add_product,
    descend,
    once,
    product,
    product_of_rows,
    repeat,
    sum_rows,
    transpose,
)
from .layers import (
    add_from_tables,
    add_into_tables,
    batch_norm,
    batch_norm_backward,
    cross_entropy,
    look_up,
    merge,
)
from .padding import padded, zeros

MOMENTUM = np.float32(0.001)
"""How far the running statistics of batch norm move towards those of a minibatch."""

Sizes = tuple[int, int, int]
"""vocabulary, n_embd, n_hidden"""


class Weights(NamedTuple):
    """The parameters, padded with zeros, and b2 with -inf."""

    C: np.ndarray  # (vocabulary, n_embd)
    W1: np.ndarray  # (block_size, n_embd, n_hidden)
    b1: np.ndarray  # (n_hidden,)
    W2: np.ndarray  # (n_hidden, vocabulary)
    b2: np.ndarray  # (vocabulary,)
    bngain: np.ndarray  # (n_hidden,)
    bnbias: np.ndarray  # (n_hidden,)


class Scratch(NamedTuple):
    """What a step writes before it reads it, padded."""

    table: np.ndarray  # (n * vocabulary,) int32, all -1
    keys: np.ndarray  # (n,) int64, as the next three
    rows: np.ndarray  # the distinct context of each example
    firsts: np.ndarray  # the example in which each distinct context comes first
    seconds: np.ndarray  # the distinct context in which each symbol comes first
    w: np.ndarray  # (n,): how often a distinct context occurs
    ones: np.ndarray  # (n,)
    u: np.ndarray  # (block_size,) int64: how many different symbols there are at a position
    symbols: np.ndarray  # (block_size, u) int64
    slots: np.ndarray  # (block_size, n) int64: which of the symbols a distinct context has
    emb: np.ndarray  # (block_size, u, n_embd)
    tables: np.ndarray  # (block_size, u, n_hidden): emb @ W1, then its gradient
    hprebn: np.ndarray  # (n, n_hidden), then bnraw
    bnmeani: np.ndarray  # (n_hidden,), as the next two
    bnvar: np.ndarray
    bnvar_inv: np.ndarray
    parts: np.ndarray  # (2, max(n_hidden, vocabulary)): sums of some rows
    h: np.ndarray  # (n, n_hidden)
    dh: np.ndarray  # (n, n_hidden), then dhpreact, then dhprebn
    logits: np.ndarray  # (n, vocabulary), then dlogits
    W2T: np.ndarray  # (vocabulary, n_hidden)
    demb: np.ndarray  # (u, n_embd)
    db1: np.ndarray  # (n_hidden,), as the next two
    dbngain: np.ndarray
    dbnbias: np.ndarray
    db2: np.ndarray  # (vocabulary,)


def make_weights(vocabulary: int, block_size: int, n_embd: int, n_hidden: int) -> Weights:
    """Return room for parameters of these sizes."""
    vocabulary, n_embd, n_hidden = padded(vocabulary), padded(n_embd), padded(n_hidden)
    shapes = {
        "C": (vocabulary, n_embd),
        "W1": (block_size, n_embd, n_hidden),
        "b1": (n_hidden,),
        "W2": (n_hidden, vocabulary),
        "b2": (vocabulary,),
        "bngain": (n_hidden,),
        "bnbias": (n_hidden,),
    }
    p = Weights(**{name: zeros(*shape) for name, shape in shapes.items()})
    p.b2[:] = -np.inf  # where it stays so, in the padding, a symbol has probability 0
    return p


def make_scratch(n: int, vocabulary: int, block_size: int, n_embd: int, n_hidden: int) -> Scratch:
    """Return room for a step on n examples."""
    u, rows, columns = padded(min(n, vocabulary)), padded(n), padded(vocabulary)
    n_embd, n_hidden = padded(n_embd), padded(n_hidden)
    keys, firsts, seconds = (np.zeros(n, np.int64) for _ in range(3))
    return Scratch(
        table=np.full(n * vocabulary, -1, np.int32),
        keys=keys,
        rows=np.zeros(n, np.int64),
        firsts=firsts,
        seconds=seconds,
        w=zeros(rows),
        ones=zeros(rows) + np.float32(1),
        u=np.zeros(block_size, np.int64),
        symbols=np.zeros((block_size, u), np.int64),
        slots=np.zeros((block_size, n), np.int64),
        emb=zeros(block_size, u, n_embd),
        tables=zeros(block_size, u, n_hidden),
        hprebn=zeros(rows, n_hidden),
        bnmeani=zeros(n_hidden),
        bnvar=zeros(n_hidden),
        bnvar_inv=zeros(n_hidden),
        parts=zeros(2, max(n_hidden, columns)),
        h=zeros(rows, n_hidden),
        dh=zeros(rows, n_hidden),
        logits=zeros(rows, columns),
        W2T=zeros(columns, n_hidden),
        demb=zeros(u, n_embd),
        db1=zeros(n_hidden),
        dbngain=zeros(n_hidden),
        dbnbias=zeros(n_hidden),
        db2=zeros(columns),
    )


@once
def forward(X: Indices, Y: Indices, p: Weights, s: Scratch, sizes: Sizes) -> tuple[int, float]:
    """`mlp_fused.forward`, and dlogits; return m and the loss."""
    vocabulary, n_embd, n_hidden = sizes
    m = merge(X, vocabulary, s.table, s.keys, s.rows, s.firsts, s.w)
    for j in range(len(s.u)):
        emb = s.emb[j]
        s.u[j] = look_up(X, j, s.firsts, m, s.table, s.keys, s.slots[j], s.seconds, s.symbols[j], p.C, emb)
        product(emb, p.W1[j], s.tables[j], s.u[j], n_embd)  # (u, n_hidden)
    add_from_tables(s.tables, s.slots, m, p.b1, s.hprebn)  # (m, n_hidden)
    n = np.float32(len(Y))
    batch_norm(s.hprebn, s.w, m, n, p.bngain, p.bnbias, s.parts, s.bnmeani, s.bnvar, s.bnvar_inv, s.h)
    repeat(p.b2, m, s.logits)
    add_product(ONE, s.h, p.W2, s.logits, m, n_hidden)  # (m, vocabulary)
    return m, cross_entropy(s.logits, s.rows, Y, s.w, m, s.parts[0])


@once
def backward(m: int, n: np.float32, rate: np.float32, p: Weights, s: Scratch, sizes: Sizes) -> None:
    """`mlp_fused.backward`, from dlogits; each parameter is updated once nothing needs its old value."""
    vocabulary, n_embd, n_hidden = sizes
    transpose(p.W2, s.W2T)
    product(s.logits, s.W2T, s.dh, m, vocabulary)  # (m, n_hidden)
    add_product(-rate, s.h.T, s.logits, p.W2, n_hidden, m)  # dW2: (n_hidden, vocabulary)
    sum_rows(s.ones, s.logits, m, s.parts[0], s.db2)  # (vocabulary,)
    descend(p.b2, rate, s.db2)
    batch_norm_backward(s.dh, s.h, s.hprebn, s.w, m, n, p.bngain, s.bnvar_inv, s.parts, s.dbngain, s.dbnbias)
    descend(p.bngain, rate, s.dbngain)
    descend(p.bnbias, rate, s.dbnbias)
    sum_rows(s.ones, s.dh, m, s.parts[0], s.db1)  # (n_hidden,)
    descend(p.b1, rate, s.db1)
    add_into_tables(s.dh, s.slots, m, s.u, s.tables)
    for j in range(len(s.u)):
        emb, table, u = s.emb[j], s.tables[j], s.u[j]  # (u, n_embd), (u, n_hidden)
        product_of_rows(table, p.W1[j], s.demb, u, n_embd)  # (u, n_embd)
        add_product(-rate, emb.T, table, p.W1[j], n_embd, u)  # dW1[j]: (n_embd, n_hidden)
        for k in range(u):
            descend(p.C[s.symbols[j, k]], rate, s.demb[k])


def take_steps(
    Xs: Indices,
    Ys: Indices,
    rates: Row,
    losses: Row,
    p: Weights,
    s: Scratch,
    sizes: Sizes,
    keep: bool,
    bnmean: Row,
    bnstd: Row,
) -> None:
    """Take one step of gradient descent for each minibatch, and write its loss; see `Engine`."""
    n = np.float32(Ys.shape[1])
    for step in range(len(rates)):
        m, losses[step] = forward(Xs[step], Ys[step], p, s, sizes)
        backward(m, n, rates[step], p, s, sizes)
        if keep:
            for k in range(len(bnmean)):
                bnmean[k] += MOMENTUM * (s.bnmeani[k] - bnmean[k])
                bnstd[k] += MOMENTUM * (np.sqrt(s.bnvar[k]) - bnstd[k])


def example() -> tuple[Any, ...]:
    """Return arguments of `take_steps`, as small as they can be."""
    sizes = (2, 1, 1, 1)
    line = np.zeros(1, np.float32)
    integers = np.zeros((1, 1, 1), np.int64)
    arguments = (integers, integers[0], line, line, make_weights(*sizes))
    return (*arguments, make_scratch(2, *sizes), (1, 1, 1), True, line, line)


STEPS = Compiled(take_steps, ("linking", "tiles", "kernels", "layers", "native_steps"), example)
