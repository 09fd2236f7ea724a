"""The layers of a transformer as Numba kernels, on the nodes of a minibatch's trie.

A node's keys and values are those of the nodes on its path from the root, so attention needs no mask.

Shapes: R nodes, d numbers in a row, heads of k = d / heads numbers, T positions.
"""

import numpy as np

from . import dropping
from .kernels import HALF, ONE, Indices, Matrix, Row, exp, inlined, kernel, tanh
from .tiles import LANES, add_part, dot_part, stand_alone

EPS = np.float32(1e-5)

# GELU in its tanh form, as in passes/gelu.py
SLOPE, CUBIC, CUBIC3 = np.float32(np.sqrt(2 / np.pi)), np.float32(0.044715), np.float32(3 * 0.044715)

mix = inlined(dropping.mix)
upper = inlined(dropping.upper)


@kernel
def embed(
    E: Matrix,
    P: Matrix,
    symbols: Indices,
    begins: Indices,
    levels: int,
    x: Matrix,
) -> None:
    """x = E[symbol] + P[position]."""
    for t in range(levels):
        for r in range(begins[t], begins[t + 1]):
            row, symbol, position = x[r], E[symbols[r]], P[t]
            for k in range(len(row)):
                row[k] = symbol[k] + position[k]


@kernel
def embed_backward(
    dx: Matrix,
    symbols: Indices,
    begins: Indices,
    levels: int,
    dE: Matrix,
    dP: Matrix,
) -> None:
    """dE[symbol] += dx and dP[position] += dx."""
    for t in range(levels):
        for r in range(begins[t], begins[t + 1]):
            row, symbol, position = dx[r], dE[symbols[r]], dP[t]
            for k in range(len(row)):
                symbol[k] += row[k]
                position[k] += row[k]


@kernel
def find_paths(
    parents: Indices,
    begins: Indices,
    levels: int,
    paths: Indices,
) -> None:
    """paths[r, :t + 1] = the nodes from the root to r, which is at position t."""
    for t in range(levels):
        for r in range(begins[t], begins[t + 1]):
            for u in range(t):
                paths[r, u] = paths[parents[r], u]
            paths[r, t] = r


@kernel
def layer_norm(
    x: Matrix,
    gain: Row,
    bias: Row,
    rows: int,
    d: int,
    xhat: Matrix,
    scales: Row,
    y: Matrix,
) -> None:
    """xhat = (x - mean) / sqrt(var + eps), whose last factor is `scales`, and y = xhat * gain + bias.

    Each loop goes over all rows, so that one row's sum need not wait for the root of another's.
    """
    stand_alone()
    for r in range(rows):
        row, hat, mean = x[r], xhat[r], np.float32(0)
        for k in range(d):
            mean += row[k]
        mean /= np.float32(d)
        for k in range(d):
            hat[k] = row[k] - mean
    for r in range(rows):
        hat, var = xhat[r], np.float32(0)
        for k in range(d):
            var += hat[k] * hat[k]
        scales[r] = ONE / np.sqrt(var / np.float32(d) + EPS)
    for r in range(rows):
        hat, out, scale = xhat[r], y[r], scales[r]
        for k in range(d):
            hat[k] *= scale
            out[k] = hat[k] * gain[k] + bias[k]


@kernel
def layer_norm_backward(
    dy: Matrix,
    xhat: Matrix,
    scales: Row,
    gain: Row,
    rows: int,
    d: int,
    dgain: Row,
    dbias: Row,
    dx: Matrix,
) -> None:
    """dgain and dbias, and dx += the gradient of x."""
    stand_alone()
    for k in range(len(dgain)):
        dgain[k] = dbias[k] = 0
    for r in range(rows):
        upstream, hat, out = dy[r], xhat[r], dx[r]
        mean = slope = np.float32(0)
        for k in range(d):
            dgain[k] += upstream[k] * hat[k]
            dbias[k] += upstream[k]
            upstream[k] *= gain[k]  # dxhat
            mean += upstream[k]
            slope += upstream[k] * hat[k]
        mean, slope = mean / np.float32(d), slope / np.float32(d)
        for k in range(d):
            out[k] += scales[r] * (upstream[k] - mean - hat[k] * slope)


@kernel
def attend(
    qkv: Matrix,
    paths: Indices,
    begins: Indices,
    levels: int,
    heads: int,
    scale: np.float32,
    weights: Matrix,
    out: Matrix,
) -> None:
    """weights (R, T heads) = softmax(scale q k) over a node's path, and out = weights v."""
    stand_alone()
    room = out.shape[1]
    size = room // heads
    for t in range(levels):
        count = (t + 1) * heads
        for r in range(begins[t], begins[t + 1]):
            row, mixed = weights[r], out[r]
            for h in range(heads):
                top = np.float32(-np.inf)
                for u in range(t + 1):
                    line, at = paths[r, u], h * size
                    score = scale * dot_part(qkv, r, at, qkv, line, room + at, size)
                    row[u * heads + h] = score
                    top = max(top, score)
                for u in range(t + 1):
                    row[u * heads + h] -= top
            exp_of(row, count)
            for h in range(heads):
                total = np.float32(0)
                for u in range(t + 1):
                    total += row[u * heads + h]
                share = ONE / total
                for u in range(t + 1):
                    row[u * heads + h] *= share
            for k in range(room):
                mixed[k] = 0
            for u in range(t + 1):
                for h in range(heads):
                    line, at = paths[r, u], h * size
                    add_part(row[u * heads + h], qkv, line, 2 * room + at, out, r, at, size)


@inlined
def exp_of(
    x: Row,
    count: int,
) -> None:
    """x = exp(x), for the first numbers, and for as many after them as fill LANES."""
    for begin in range(0, count, LANES):
        part = x[begin : begin + LANES]
        for k in range(LANES):
            part[k] = exp(part[k] if begin + k < count else np.float32(0))


@kernel
def attend_backward(
    dout: Matrix,
    qkv: Matrix,
    weights: Matrix,
    paths: Indices,
    begins: Indices,
    levels: int,
    heads: int,
    scale: np.float32,
    slopes: Row,
    dqkv: Matrix,
) -> None:
    """dqkv += the gradients of queries, keys and values; `slopes` holds those of a node's scores."""
    stand_alone()
    room = dout.shape[1]
    size = room // heads
    for t in range(levels):
        for r in range(begins[t], begins[t + 1]):
            row = weights[r]
            for u in range(t + 1):
                for h in range(heads):
                    line, at = paths[r, u], h * size
                    slopes[u * heads + h] = dot_part(dout, r, at, qkv, line, 2 * room + at, size)
                    add_part(row[u * heads + h], dout, r, at, dqkv, line, 2 * room + at, size)
            for h in range(heads):
                mean = np.float32(0)
                for u in range(t + 1):
                    mean += row[u * heads + h] * slopes[u * heads + h]
                for u in range(t + 1):
                    slopes[u * heads + h] = scale * row[u * heads + h] * (slopes[u * heads + h] - mean)
            for u in range(t + 1):
                for h in range(heads):
                    line, at, slope = paths[r, u], h * size, slopes[u * heads + h]
                    add_part(slope, qkv, line, room + at, dqkv, r, at, size)
                    add_part(slope, qkv, r, at, dqkv, line, room + at, size)


@kernel
def gelu(
    z: Matrix,
    rows: int,
    y: Matrix,
) -> None:
    """y = gelu(z), and z = the derivative of gelu at z."""
    stand_alone()
    for r in range(rows):
        row, out = z[r], y[r]
        for k in range(len(row)):
            x = row[k]
            t = tanh(SLOPE * (x + CUBIC * x * x * x))
            out[k] = HALF * x * (ONE + t)
            row[k] = HALF * (ONE + t) + HALF * x * (ONE - t * t) * SLOPE * (ONE + CUBIC3 * x * x)


@kernel
def multiply(
    x: Matrix,
    rows: int,
    out: Matrix,
) -> None:
    """out *= x."""
    for r in range(rows):
        row, line = out[r], x[r]
        for k in range(len(row)):
            row[k] *= line[k]


@kernel
def add_kept(
    branch: Matrix,
    elements: Indices,
    rows: int,
    d: int,
    key: int,
    threshold: int,
    scale: np.float32,
    x: Matrix,
) -> None:
    """x += branch * mask, by `dropping`; `elements` are the numbers of the rows' first elements there."""
    stand_alone()
    for r in range(rows):
        row, line, first = x[r], branch[r], elements[r]
        if threshold == 0:
            for k in range(d):
                row[k] += line[k]
        else:
            for k in range(d):
                row[k] += scale * line[k] if is_kept(key, first + k, threshold) else np.float32(0)


@kernel
def keep(
    dx: Matrix,
    elements: Indices,
    rows: int,
    d: int,
    key: int,
    threshold: int,
    scale: np.float32,
    dbranch: Matrix,
) -> None:
    """dbranch = dx * mask: the gradient of `add_kept`."""
    stand_alone()
    for r in range(rows):
        row, line, first = dx[r], dbranch[r], elements[r]
        if threshold == 0:
            for k in range(d):
                line[k] = row[k]
        else:
            for k in range(d):
                line[k] = scale * row[k] if is_kept(key, first + k, threshold) else np.float32(0)


@inlined
def is_kept(
    key: int,
    element: int,
    threshold: int,
) -> bool:
    """Whether `dropping` keeps an element."""
    return upper(mix(key ^ element)) >= threshold


@kernel
def find_elements(
    words: Indices,
    begins: Indices,
    levels: int,
    T: int,
    d: int,
    first: Indices,
) -> None:
    """first = the number that `dropping` gives to the first element of a node's row."""
    for t in range(levels):
        for r in range(begins[t], begins[t + 1]):
            first[r] = (words[r] * T + t) * d
