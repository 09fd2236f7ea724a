"""The native engine's training step: forward, backward and update, in the order and the names of the pass."""

import hashlib
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit, typeof

from .kernels import FAST, Indices, Row, once, product, sum_rows, transpose
from .layers import (
    add_from_table,
    add_into_table,
    batch_norm,
    batch_norm_backward,
    cross_entropy,
    look_up,
    merge,
)
from .tiles import LANES

MOMENTUM = np.float32(0.001)
"""How far the running statistics of batch norm move towards those of a minibatch."""

Sizes = tuple[int, int, int]
"""vocabulary, n_embd, n_hidden"""

SOURCES = ("tiles.py", "kernels.py", "layers.py", "native_steps.py")


class Weights(NamedTuple):
    """The parameters, or their gradients, padded: `flat` holds them all, and the others are views of it."""

    flat: np.ndarray
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
    emb: np.ndarray  # (block_size, u, n_embd), then demb
    tables: np.ndarray  # (block_size, u, n_hidden): emb @ W1, then its gradient
    hprebn: np.ndarray  # (n, n_hidden), then bnraw
    bnmeani: np.ndarray  # (n_hidden,), as the next two
    bnvar: np.ndarray
    bnvar_inv: np.ndarray
    parts: np.ndarray  # (2, max(n_hidden, vocabulary)): sums of some rows
    h: np.ndarray  # (n, n_hidden)
    dh: np.ndarray  # (n, n_hidden), then dhpreact, then dhprebn
    logits: np.ndarray  # (n, vocabulary), then dlogits
    W1T: np.ndarray  # (block_size, n_hidden, n_embd)
    W2T: np.ndarray  # (vocabulary, n_hidden)


def padded(size: int) -> int:
    """Return the next multiple of LANES."""
    return -(-size // LANES) * LANES


def zeros(*shape: int) -> np.ndarray:
    """Return float32 zeros that begin at a multiple of 64 bytes, as cache lines do."""
    size = math.prod(shape)
    room = np.zeros(size + LANES, np.float32)
    begin = -room.ctypes.data // 4 % LANES
    return room[begin : begin + size].reshape(shape)


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
    flat = zeros(sum(map(math.prod, shapes.values())))
    views, begin = {}, 0
    for name, shape in shapes.items():
        views[name] = flat[begin : begin + math.prod(shape)].reshape(shape)
        begin += math.prod(shape)
    return Weights(flat, **views)


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
        W1T=zeros(block_size, n_hidden, n_embd),
        W2T=zeros(columns, n_hidden),
    )


@once
def forward(X: Indices, Y: Indices, p: Weights, s: Scratch, sizes: Sizes) -> tuple[int, float]:
    """`mlp_fused.forward`, and dlogits; return m and the loss."""
    vocabulary, n_embd, n_hidden = sizes
    m = merge(X, vocabulary, s.table, s.keys, s.rows, s.firsts, s.w)
    for r in range(m):
        for k in range(len(p.b1)):
            s.hprebn[r, k] = p.b1[k]
    for j in range(len(s.u)):
        slots, emb, table = s.slots[j], s.emb[j], s.tables[j]
        s.u[j] = look_up(X, j, s.firsts, m, s.table, s.keys, slots, s.seconds, s.symbols[j], p.C, emb)
        product(emb, p.W1[j], table, s.u[j], n_embd)  # (u, n_hidden)
        add_from_table(table, slots, m, s.hprebn)  # (m, n_hidden)
    n = np.float32(len(Y))
    batch_norm(s.hprebn, s.w, m, n, p.bngain, p.bnbias, s.parts, s.bnmeani, s.bnvar, s.bnvar_inv, s.h)
    product(s.h, p.W2, s.logits, m, n_hidden)  # (m, vocabulary)
    return m, cross_entropy(s.logits, p.b2, s.rows, Y, s.w, m, vocabulary)


@once
def backward(m: int, n: np.float32, p: Weights, d: Weights, s: Scratch, sizes: Sizes) -> None:
    """`mlp_fused.backward`, from dlogits: the gradients d of the parameters p."""
    vocabulary, n_embd, n_hidden = sizes
    product(s.h.T, s.logits, d.W2, n_hidden, m)  # (n_hidden, vocabulary)
    sum_rows(s.ones, s.logits, m, s.parts[0], d.b2)  # (vocabulary,)
    transpose(p.W2, s.W2T)
    product(s.logits, s.W2T, s.dh, m, vocabulary)  # (m, n_hidden)
    batch_norm_backward(s.dh, s.h, s.hprebn, s.w, m, n, p.bngain, s.bnvar_inv, s.parts, d.bngain, d.bnbias)
    sum_rows(s.ones, s.dh, m, s.parts[0], d.b1)  # (n_hidden,)
    for v in range(vocabulary):
        for e in range(n_embd):
            d.C[v, e] = 0
    for j in range(len(s.u)):
        emb, table, W1T, u = s.emb[j], s.tables[j], s.W1T[j], s.u[j]
        add_into_table(s.dh, s.slots[j], m, u, table)  # (u, n_hidden)
        product(emb.T, table, d.W1[j], n_embd, u)  # (n_embd, n_hidden)
        transpose(p.W1[j], W1T)
        product(table, W1T, emb, u, n_hidden)  # (u, n_embd)
        for k in range(u):
            for e in range(n_embd):
                d.C[s.symbols[j, k], e] += emb[k, e]


def take_steps(
    Xs: Indices,
    Ys: Indices,
    rates: Row,
    losses: Row,
    p: Weights,
    d: Weights,
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
        backward(m, n, p, d, s, sizes)
        for k in range(len(p.flat)):
            p.flat[k] -= rates[step] * d.flat[k]
        if keep:
            for k in range(len(bnmean)):
                bnmean[k] += MOMENTUM * (s.bnmeani[k] - bnmean[k])
                bnstd[k] += MOMENTUM * (np.sqrt(s.bnvar[k]) - bnstd[k])


def fingerprint() -> str:
    """Return a name for the sources that the machine code is made of.

    Numba's cache looks at the date of the file of `take_steps` alone; so its name tells the others apart.
    """
    sources = (Path(__file__).with_name(name).read_bytes() for name in SOURCES)
    return "take_steps_" + hashlib.sha256(b"".join(sources)).hexdigest()[:12]


def dispatcher(keep: bool) -> Any:
    """Return `take_steps` for Numba to compile; with `keep`, or to load as it was compiled before."""
    take_steps.__qualname__ = fingerprint()
    return njit(nogil=True, fastmath=FAST, error_model="numpy", cache=keep)(take_steps)


@cache
def machine_code() -> Callable[..., None]:
    """Return `take_steps` as machine code: compiled in some seconds, or from the cache in less than one.

    Where no folder can be written that Numba keeps such things in, it is compiled anew in every process.
    """
    sizes = (2, 1, 1, 1)
    line = np.zeros(1, np.float32)
    integers = np.zeros((1, 1, 1), np.int64)
    arguments = (integers, integers[0], line, line, make_weights(*sizes), make_weights(*sizes))
    arguments += (make_scratch(2, *sizes), (1, 1, 1), True, line, line)
    signature = tuple(map(typeof, arguments))
    try:
        compiled = dispatcher(keep=True)
        compiled.compile(signature)
    except (RuntimeError, OSError):
        compiled = dispatcher(keep=False)
        compiled.compile(signature)
    compiled.disable_compile()  # arguments of other kinds would be compiled for, without a word
    return compiled


def is_compiled() -> bool:
    """Return whether machine code of these sources is in the cache."""
    try:
        folder = Path(dispatcher(keep=True).stats.cache_path)
    except (RuntimeError, OSError):
        return False
    return any(folder.glob(f"*{fingerprint()}*.nbc"))
