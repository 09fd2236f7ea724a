"""The native engine's training step of the transformer, in the names of its pass."""

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
import torch

from . import dropping
from .kernels import (
    ONE,
    Indices,
    Matrix,
    Row,
    add_product,
    kernel,
    once,
    product,
    repeat,
    sum_rows,
    transpose,
)
from .native_words import Settings
from .padding import Room, Sizes, padded, zeros
from .tiles import stand_alone
from .transformer_layers import (
    add_kept,
    attend,
    attend_backward,
    embed,
    embed_backward,
    find_elements,
    find_paths,
    gelu,
    keep,
    layer_norm,
    layer_norm_backward,
    multiply,
)
from .tries import Trie, grow, make_trie
from .word_layers import Head, adamw, clear, head_backward, head_loss, make_head
from .word_steps import WordModel


def axes(settings: Settings) -> dict[str, str]:
    """Return the axes of each parameter: each head's queries, keys and values, k of each, begin a vector."""
    h = settings.heads
    Wqkv, bqkv, Wproj = f"L d {3 * h}k", f"L {3 * h}k", f"L {h}k d"
    attention = {"gain1": "L d", "bias1": "L d", "Wqkv": Wqkv, "bqkv": bqkv, "Wproj": Wproj, "bproj": "L d"}
    wide = {"gain2": "L d", "bias2": "L d", "Wfc": "L d 4d", "bfc": "L 4d", "Wout": "L 4d d", "bout": "L d"}
    return {"E": "V d", "P": "T d", **attention, **wide, "gainf": "d", "biasf": "d", "Wo": "d V"}


Weights: Any = namedtuple("Weights", axes(Settings()))


class Kept(NamedTuple):
    """What the forward of each layer leaves to its backward, padded."""

    xhat1: np.ndarray  # (L, R, d), as whatever has no shape here
    scale1: np.ndarray  # (L, R)
    y1: np.ndarray
    qkv: np.ndarray  # (L, R, 3 heads k)
    weights: np.ndarray  # (L, R, T heads)
    mixed: np.ndarray  # (L, R, heads k)
    xhat2: np.ndarray
    scale2: np.ndarray  # (L, R)
    y2: np.ndarray
    slope: np.ndarray  # (L, R, 4 d): GELU's derivative
    y3: np.ndarray  # (L, R, 4 d): GELU's result


class Scratch(NamedTuple):
    """What a step writes before it reads it, padded."""

    paths: np.ndarray  # (R, T) int64: the nodes from the root to each
    elements: np.ndarray  # (R,) int64: the number of a row's first element in `dropping`
    x: np.ndarray  # (R, d), then dx
    branch: np.ndarray  # (R, d), then dbranch
    xhat: np.ndarray  # (R, d), of the last norm, as the next two
    scale: np.ndarray  # (R,)
    y: np.ndarray  # (R, d)
    dy: np.ndarray  # (R, d), of what a product took in
    dy3: np.ndarray  # (R, 4 d), then dz
    dmixed: np.ndarray  # (R, heads k)
    dqkv: np.ndarray  # (R, 3 heads k)
    WqkvT: np.ndarray  # (3 heads k, d)
    WprojT: np.ndarray  # (d, heads k)
    WfcT: np.ndarray  # (4 d, d)
    WoutT: np.ndarray  # (d, 4 d)
    part: np.ndarray  # (4 d,): sums of some rows
    slopes: np.ndarray  # (T heads,)


class Dropping(NamedTuple):
    """What `dropping` needs: keys, below which hashes elements are dropped, and the factor of the rest."""

    keys: np.ndarray  # (steps, L, 2) int64
    threshold: int
    scale: np.float32


class Counts(NamedTuple):
    """Sizes that are not padded, and what scores of attention are multiplied with."""

    V: int
    T: int
    d: int
    heads: int
    sharpness: np.float32


Extras = tuple[Trie, Head, Kept, Scratch, Dropping, Counts]


def make_extras(shape: tuple[int, int, int], sizes: Sizes, settings: Settings) -> Extras:
    """Return room for a step on minibatches of this shape, the keys of dropout, and the sizes."""
    steps, n, T = shape
    V, L, d, heads = sizes["V"], sizes["L"], sizes["d"], settings.heads
    drop = Dropping(
        keys_of(settings.seed, settings.steps_before, steps, L),
        dropping.threshold(settings.dropout),
        np.float32(dropping.scale(settings.dropout)),
    )
    R, hk = padded(n * T), heads * padded(sizes["k"])
    counts = Counts(V, T, d, heads, np.float32(sizes["k"] ** -0.5))
    kept = make_kept(L, R, padded(d), hk, padded(T * heads))
    scratch = make_scratch(R, T, padded(d), hk, padded(T * heads))
    return make_trie(n, T, V), make_head(R, V, d), kept, scratch, drop, counts


def make_kept(L: int, R: int, d: int, hk: int, Th: int) -> Kept:
    """Return room for what the forwards leave, for padded sizes."""
    return Kept(
        **{name: zeros(L, R, d) for name in ("xhat1", "y1", "xhat2", "y2")},
        **{name: zeros(L, R, 4 * d) for name in ("slope", "y3")},
        **{name: zeros(L, R) for name in ("scale1", "scale2")},
        qkv=zeros(L, R, 3 * hk),
        weights=zeros(L, R, Th),
        mixed=zeros(L, R, hk),
    )


def make_scratch(R: int, T: int, d: int, hk: int, Th: int) -> Scratch:
    """Return room for what a step needs besides, for padded sizes."""
    return Scratch(
        **{name: zeros(R, d) for name in ("x", "branch", "xhat", "y", "dy")},
        paths=np.zeros((R, T), np.int64),
        elements=np.zeros(R, np.int64),
        scale=zeros(R),
        dy3=zeros(R, 4 * d),
        dmixed=zeros(R, hk),
        dqkv=zeros(R, 3 * hk),
        WqkvT=zeros(3 * hk, d),
        WprojT=zeros(d, hk),
        WfcT=zeros(4 * d, d),
        WoutT=zeros(d, 4 * d),
        part=zeros(max(4 * d, 3 * hk)),
        slopes=zeros(Th),
    )


def keys_of(seed: int, steps_before: int, steps: int, layers: int) -> np.ndarray:
    """Return the keys of dropout: int64 (steps, layers, branches)."""
    step, layer, branch = (torch.arange(size) for size in (steps, layers, dropping.BRANCHES))
    step = step[:, None, None] + steps_before
    return dropping.stream(torch.tensor(seed), step, layer[:, None], branch).numpy()


@once
def forward(
    X: Indices,
    Y: Indices,
    p: Any,
    trie: Trie,
    head: Head,
    kept: Kept,
    s: Scratch,
    drop: Dropping,
    step: int,
    counts: Counts,
) -> tuple[int, int, float]:
    """What the backward needs, and dlogits; return how many levels and rows there are, and the loss."""
    _, T, d, heads, sharpness = counts
    E, P, gain1, bias1, Wqkv, bqkv, Wproj, bproj, gain2, bias2, Wfc, bfc, Wout, bout, gainf, biasf, Wo = p
    xhat1, scale1, y1, qkv, weights, mixed, xhat2, scale2, y2, z, y3 = kept
    levels, targets = grow(X, Y, counts.V, trie)
    begins, paths, elements, x, branch, y = trie.begins, s.paths, s.elements, s.x, s.branch, s.y
    keys, threshold, scale = drop
    rows = int(begins[levels])
    find_paths(trie.parents, begins, levels, paths)
    find_elements(trie.words, begins, levels, T, d, elements)
    embed(E, P, trie.symbols, begins, levels, x)  # (R, d)
    for i in range(len(gain1)):
        layer_norm(x, gain1[i], bias1[i], rows, d, xhat1[i], scale1[i], y1[i])
        linear(y1[i], Wqkv[i], bqkv[i], rows, qkv[i])  # (R, 3 d)
        attend(qkv[i], paths, begins, levels, heads, sharpness, weights[i], mixed[i])  # (R, d)
        linear(mixed[i], Wproj[i], bproj[i], rows, branch)  # (R, d)
        add_kept(branch, elements, rows, d, keys[step, i, 0], threshold, scale, x)
        layer_norm(x, gain2[i], bias2[i], rows, d, xhat2[i], scale2[i], y2[i])
        linear(y2[i], Wfc[i], bfc[i], rows, z[i])  # (R, 4 d)
        gelu(z[i], rows, y3[i])
        linear(y3[i], Wout[i], bout[i], rows, branch)  # (R, d)
        add_kept(branch, elements, rows, d, keys[step, i, 1], threshold, scale, x)
    layer_norm(x, gainf, biasf, rows, d, s.xhat, s.scale, y)
    return levels, rows, head_loss(y, Wo, trie, rows, targets, y.shape[1], head)


@kernel
def linear(x: Matrix, W: Matrix, b: Row, rows: int, out: Matrix) -> None:
    """out = x @ W + b."""
    stand_alone()
    repeat(b, rows, out)
    add_product(ONE, x, W, out, rows, W.shape[0])


@kernel
def linear_backward(
    dout: Matrix,
    x: Matrix,
    W: Matrix,
    rows: int,
    ones: Row,
    part: Row,
    WT: Matrix,
    dW: Matrix,
    db: Row,
    dx: Matrix,
) -> None:
    """dW = x.T @ dout, db, and dx = dout @ W.T."""
    stand_alone()
    product(x.T, dout, dW, W.shape[0], rows)
    sum_rows(ones, dout, rows, part, db)
    transpose(W, WT)
    product(dout, WT, dx, rows, W.shape[1])


@once
def backward(
    levels: int,
    rows: int,
    p: Any,
    g: Any,
    trie: Trie,
    head: Head,
    kept: Kept,
    s: Scratch,
    drop: Dropping,
    step: int,
    counts: Counts,
) -> None:
    """The gradients, from dlogits."""
    _, _, d, heads, sharpness = counts
    _, _, gain1, _, Wqkv, _, Wproj, _, gain2, _, Wfc, _, Wout, _, gainf, _, Wo = p
    dE, dP, dgain1, dbias1, dWqkv, dbqkv, dWproj, dbproj, dgain2, dbias2, dWfc, dbfc, dWout, dbout = g[:14]
    xhat1, scale1, y1, qkv, weights, mixed, xhat2, scale2, y2, slope, y3 = kept
    paths, elements, dx, dbranch, xhat, scales, y, dy, dy3, dmixed, dqkv = s[:11]
    WqkvT, WprojT, WfcT, WoutT, part, slopes = s[11:]
    begins, symbols, ones, (keys, threshold, scale) = trie.begins, trie.symbols, trie.ones, drop
    head_backward(y, Wo, g.Wo, rows, counts.V, y.shape[1], head)
    clear(dx, rows)
    layer_norm_backward(head.dh, xhat, scales, gainf, rows, d, g.gainf, g.biasf, dx)
    for i in range(len(gain1) - 1, -1, -1):
        keep(dx, elements, rows, d, keys[step, i, 1], threshold, scale, dbranch)
        linear_backward(dbranch, y3[i], Wout[i], rows, ones, part, WoutT, dWout[i], dbout[i], dy3)
        multiply(slope[i], rows, dy3)  # dz: (R, 4 d)
        linear_backward(dy3, y2[i], Wfc[i], rows, ones, part, WfcT, dWfc[i], dbfc[i], dy)
        layer_norm_backward(dy, xhat2[i], scale2[i], gain2[i], rows, d, dgain2[i], dbias2[i], dx)
        keep(dx, elements, rows, d, keys[step, i, 0], threshold, scale, dbranch)
        linear_backward(dbranch, mixed[i], Wproj[i], rows, ones, part, WprojT, dWproj[i], dbproj[i], dmixed)
        clear(dqkv, rows)
        attend_backward(dmixed, qkv[i], weights[i], paths, begins, levels, heads, sharpness, slopes, dqkv)
        linear_backward(dqkv, y1[i], Wqkv[i], rows, ones, part, WqkvT, dWqkv[i], dbqkv[i], dy)
        layer_norm_backward(dy, xhat1[i], scale1[i], gain1[i], rows, d, dgain1[i], dbias1[i], dx)
    clear(dE, len(dE))
    clear(dP, len(dP))
    embed_backward(dx, symbols, begins, levels, dE, dP)


def transformer_steps(
    Xs: Indices,
    Ys: Indices,
    pace: Matrix,
    losses: Row,
    room: Room,
    trie: Trie,
    head: Head,
    kept: Kept,
    s: Scratch,
    drop: Dropping,
    counts: Counts,
) -> None:
    """Take one step of AdamW for each minibatch, and write its loss."""
    for step in range(len(losses)):
        levels, rows, losses[step] = forward(
            Xs[step], Ys[step], room.p, trie, head, kept, s, drop, step, counts
        )
        backward(levels, rows, room.p, room.g, trie, head, kept, s, drop, step, counts)
        adamw(room.flat, room.gradients, room.first, room.second, pace[step])


SOURCES = ("dropping", "transformer_layers", "transformer_steps")
MODEL = WordModel(transformer_steps, axes, Weights, make_extras, SOURCES)
STEPS = MODEL.steps
