"""The layers of the fused pass as Numba kernels; each names the lines of `passes/mlp_fused.py` that it is.

Two things are done differently, neither of which changes what is computed beyond rounding:

- Equal contexts of a minibatch are one row. Row r of the m distinct ones occurs w[r] times, so the sums of
  batch norm weigh it by w[r], and its gradient is the sum over its occurrences: they share h, so their
  upstream gradients add up.
- The first layer is a table. Few different symbols stand at position j of the contexts, and what one adds to
  hprebn there, `C[symbol] @ W1[j]`, is the same in each. So embcat @ W1 is a sum of block_size rows, one of
  each position's table, and its backward adds each row of dhprebn into as many rows.

Shapes: n examples, m distinct contexts, u different symbols at a position; vocabulary, block_size, n_embd and
n_hidden as in the pass.
"""

import numpy as np

from .kernels import BLOCK, ONE, Indices, Matrix, Row, exp, inlined, kernel, number, settled, sum_rows, tanh
from .tiles import LANES

EPS = np.float32(1e-5)


@kernel
def merge(
    X: Indices,
    vocabulary: int,
    table: Indices,
    keys: Indices,
    rows: Indices,
    firsts: Indices,
    w: Row,
) -> int:
    """Number the distinct contexts of X: rows (n,) of each example, and how often each occurs, w (m,)."""
    n, block_size = X.shape
    m = 1
    for i in range(n):
        rows[i] = 0
    for j in range(block_size):  # the number of the first j symbols, and the next symbol
        for i in range(n):
            keys[i] = rows[i] * vocabulary + X[i, j]
        m = number(keys, n, table, rows, firsts)
    for r in range(m):
        w[r] = 0
    for i in range(n):
        w[rows[i]] += ONE
    return m


@kernel
def look_up(
    X: Indices,
    j: int,
    firsts: Indices,
    m: int,
    table: Indices,
    keys: Indices,
    slots: Indices,
    seconds: Indices,
    symbols: Indices,
    C: Matrix,
    emb: Matrix,
) -> int:
    """emb = C[symbols], for the u different symbols at position j of the distinct contexts.

    `slots` (m,) receives which of the symbols a context has there.
    """
    for r in range(m):
        keys[r] = X[firsts[r], j]
    u = number(keys, m, table, slots, seconds)
    for k in range(u):
        symbols[k] = keys[seconds[k]]
        for e in range(C.shape[1]):
            emb[k, e] = C[symbols[k], e]
    return u


@kernel
def add_from_tables(
    tables: np.ndarray,
    slots: Indices,
    m: int,
    b1: Row,
    hprebn: Matrix,
) -> None:
    """hprebn = embcat @ W1 + b1, where tables[j] is emb @ W1[j]."""
    for r in range(m):
        row, line = hprebn[r], tables[0, slots[0, r]]
        for k in range(len(row)):
            row[k] = b1[k] + line[k]
        for j in range(1, len(tables)):
            line = tables[j, slots[j, r]]
            for k in range(len(row)):
                row[k] += line[k]


@kernel
def add_into_tables(
    dhprebn: Matrix,
    slots: Indices,
    m: int,
    u: Indices,
    tables: np.ndarray,
) -> None:
    """tables = 0; tables[j, slots[j]] += dhprebn: the gradient of `add_from_tables`."""
    for j in range(len(tables)):
        for i in range(u[j]):
            line = tables[j, i]
            for k in range(len(line)):
                line[k] = 0
    for r in range(m):
        row = dhprebn[r]
        for j in range(len(tables)):
            line = tables[j, slots[j, r]]
            for k in range(len(row)):
                line[k] += row[k]


@inlined
def batch_norm(
    x: Matrix,
    w: Row,
    m: int,
    n: np.float32,
    gain: Row,
    bias: Row,
    parts: Matrix,
    mean: Row,
    var: Row,
    var_inv: Row,
    h: Matrix,
) -> None:
    """bnmeani, bnvar, bnvar_inv, bnraw (over x, which is hprebn) and h = tanh(hpreact)."""
    width, part = len(mean), parts[0]
    sum_rows(w, x, m, part, mean)
    for k in range(width):
        mean[k] /= n
        var[k] = 0
    for begin in range(0, m, BLOCK):
        for k in range(width):
            part[k] = 0
        for r in range(begin, min(begin + BLOCK, m)):
            for k in range(width):
                bndiff = x[r, k] - mean[k]
                part[k] += w[r] * bndiff * bndiff
        for k in range(width):
            var[k] += part[k]
    for k in range(width):
        var[k] /= n - ONE  # Bessel's correction
        var_inv[k] = ONE / np.sqrt(var[k] + EPS)
    for r in range(m):
        for k in range(width):
            x[r, k] = (x[r, k] - mean[k]) * var_inv[k]
            h[r, k] = tanh(gain[k] * x[r, k] + bias[k])


@settled
def batch_norm_backward(
    dh: Matrix,
    h: Matrix,
    bnraw: Matrix,
    w: Row,
    m: int,
    n: np.float32,
    gain: Row,
    var_inv: Row,
    parts: Matrix,
    dgain: Row,
    dbias: Row,
) -> None:
    """dhpreact = (1 - h^2) dh, dbngain, dbnbias, and dhprebn (over dh)."""
    width, dgain_part, dbias_part = len(gain), parts[0], parts[1]
    for k in range(width):
        dgain[k] = dbias[k] = 0
    for begin in range(0, m, BLOCK):
        for k in range(width):
            dgain_part[k] = dbias_part[k] = 0
        for r in range(begin, min(begin + BLOCK, m)):
            for k in range(width):
                dhpreact = (ONE - h[r, k] * h[r, k]) * dh[r, k]
                dgain_part[k] += bnraw[r, k] * dhpreact
                dbias_part[k] += dhpreact
                dh[r, k] = dhpreact
        for k in range(width):
            dgain[k] += dgain_part[k]
            dbias[k] += dbias_part[k]
    scale, slope = parts[0], parts[1]  # what does not depend on the row
    for k in range(width):
        scale[k] = gain[k] * var_inv[k]
        slope[k] = n / (n - ONE) * dgain[k]
    for r in range(m):
        share = w[r] / n
        for k in range(width):
            dh[r, k] = scale[k] * (dh[r, k] - share * (dbias[k] + bnraw[r, k] * slope[k]))


@settled
def cross_entropy(
    logits: Matrix,
    rows: Indices,
    Y: Indices,
    w: Row,
    m: int,
    tops: Row,
) -> float:
    """loss = F.cross_entropy(logits, Yb), and dlogits (over logits): softmax less one-hot, over n.

    The logits of the padding are -inf, so its probabilities and gradients are 0.
    """
    n, loss = np.float32(len(Y)), 0.0
    for i in range(len(Y)):
        loss -= logits[rows[i], Y[i]]
    for r in range(m):
        line, top, total = logits[r], largest(logits[r], tops), np.float32(0)
        for v in range(len(line)):
            line[v] = exp(line[v] - top)
            total += line[v]
        loss += w[r] * (top + np.log(np.float64(total)))
        scale = w[r] / (n * total)
        for v in range(len(line)):
            line[v] *= scale
    for i in range(len(Y)):
        logits[rows[i], Y[i]] -= ONE / n
    return loss / n  # type: ignore[return-value]


@inlined
def largest(
    x: Row,
    tops: Row,
) -> np.float32:
    """x.max(), for a padded x; LANES numbers are compared at a time."""
    for k in range(LANES):
        tops[k] = x[k]
    for begin in range(LANES, len(x), LANES):
        for k in range(LANES):
            tops[k] = max(tops[k], x[begin + k])
    top = tops[0]
    for k in range(LANES):
        top = max(top, tops[k])
    return top
