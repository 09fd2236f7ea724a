"""The native engine's training step of the transformer, in the names of its pass."""

from collections import namedtuple
from typing import Any

from backhand.passes.transformer_model import SHAPES

from .axes import Axes
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
from .padding import Room
from .path_attention import attend, attend_backward, find_paths
from .tiles import stand_alone
from .transformer_layers import (
    add_kept,
    embed,
    embed_backward,
    find_elements,
    gelu,
    keep,
    layer_norm,
    layer_norm_backward,
    multiply,
)
from .transformer_rooms import Counts, Dropping, Kept, Scratch, make_extras
from .tries import Trie, grow
from .word_layers import Head, adamw, clear, head_backward, head_loss
from .word_steps import NativeModel


def axes(settings: Settings) -> Axes:
    """Return the axes of each parameter: each head's queries, keys and values, k of each, begin a vector."""
    h = settings.heads
    ours = {"Wqkv": f"L d {3 * h}k", "bqkv": f"L {3 * h}k", "Wproj": f"L {h}k d"}
    return SHAPES | ours


Weights: Any = namedtuple("Weights", SHAPES)


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
    learn: bool,
    room: Room,
    trie: Trie,
    head: Head,
    kept: Kept,
    s: Scratch,
    drop: Dropping,
    counts: Counts,
) -> None:
    """Write the loss of each minibatch; to learn, take one step of AdamW on it as well."""
    for step in range(len(losses)):
        levels, rows, losses[step] = forward(
            Xs[step], Ys[step], room.p, trie, head, kept, s, drop, step, counts
        )
        if learn:
            backward(levels, rows, room.p, room.g, trie, head, kept, s, drop, step, counts)
            adamw(room.flat, room.gradients, room.first, room.second, pace[step])


SOURCES = ("dropping", "path_attention", "transformer_layers", "transformer_steps")
MODEL = NativeModel(transformer_steps, axes, Weights, make_extras, SOURCES)
STEPS = MODEL.steps
