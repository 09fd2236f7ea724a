"""Attention of a trie's nodes to the nodes on their paths from the root, as Numba kernels.

What a causal mask would leave out is not there. Shapes: R nodes, heads of k numbers, T positions.
"""

import numpy as np

from .kernels import ONE, Indices, Matrix, Row, exp, inlined, kernel
from .tiles import LANES, add_part, dot_part, stand_alone


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
