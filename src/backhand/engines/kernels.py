"""The fused step in machine code: `passes/mlp_fused.py`, line by line, as small Numba kernels.

Each kernel names the line of the pass that it stands for. Three things are done differently, none of which
changes what is computed beyond rounding:

- Equal contexts of a minibatch are one row. Row r of the m distinct ones occurs w[r] times, so the sums of
  batch norm weigh it by w[r], and its gradient is the sum over its occurrences (they share h, so their
  upstream gradients add up).
- The first layer is a table. A context holds few different symbols at position j, and `C[symbol] @ W1[j]` is
  the same wherever the symbol stands there. So embcat @ W1 is a sum of block_size rows of tables, and its
  backward adds each row of dhprebn into as many rows.
- Every matrix is padded with zeros to multiples of LANES, so that a product can be taken by whole tiles. A
  product's left operand is passed with its true shape, and nothing is ever summed over padding.

Shapes: n examples, m distinct contexts, u different symbols at a position; vocabulary, block_size, n_embd and
n_hidden as in the pass. Everything is float32, and row-major unless a transpose is passed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
ROWS = 8 if "+avx512f" in get_host_cpu_features().flatten() else 4
"""The tile of a product: its sums fill half of AVX2's registers, or a quarter of AVX-512's."""

DEPTH = 256
"""Rows of the right operand that a product takes at a time, so that they stay in cache."""

BLOCK = 64
"""Rows that are summed before the sum is added to that of the blocks before."""

ONE, HALF, EPS, MOMENTUM = np.float32(1), np.float32(0.5), np.float32(1e-5), np.float32(0.001)

# least-squares fits in float64, weighted towards equal relative error: tanh(x) = x P(x^2) / Q(x^2) for
# |x| <= 8, and e^r = 1 + r + r^2 E(r) for |r| <= ln(2) / 2
P0, P1, P2, P3, P4 = np.array(
    [0.9999999936128982, 0.13444510220202824, 3.571612468377001e-3, 2.1894897642440217e-5, 1.5230745360571163e-8],
    np.float32,
)
Q1, Q2, Q3, Q4 = np.array(
    [0.4677783755206715, 0.026164498110068088, 3.4113155275105407e-4, 8.522580191927354e-7], np.float32
)
E2, E3, E4, E5, E6 = np.array(
    [0.4999999341236541, 0.16666520106509664, 0.041668394237816105, 8.36878053277556e-3, 1.3814465789678675e-3],
    np.float32,
)
LARGEST, LEAST, LOG2E, LN2 = np.float32(8), np.float32(-87), np.float32(1 / np.log(2)), np.float32(np.log(2))

# reassociation and contraction let LLVM vectorise sums; NaN and infinity keep their meaning
FAST = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when the first kernel that calls it is compiled, and into it."""
    return njit(nogil=True, fastmath=FAST, error_model="numpy")(function)


# -- products


@intrinsic
def add_tile(typingctx, out, a, b, i, j, begin, end):  # noqa: ANN001, ANN201
    """out[i : i + ROWS, j : j + LANES] += a[i : i + ROWS, begin:end] @ b[begin:end, j : j + LANES].

    Where begin is 0, what stood in the tile is forgotten.
    Written in LLVM's language, because Numba cannot be told to keep ROWS vectors of LANES sums in registers.
    """

    def emit(context, builder, signature, arguments):  # noqa: ANN001, ANN202
        out, a, b = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
        )
        i, j, begin, end = arguments[3:]
        vector, word = ir.VectorType(ir.FloatType(), LANES), ir.IntType(64)

        def address(array: Any, i: Any, j: Any, kind: Any) -> Any:
            strides = cgutils.unpack_tuple(builder, array.strides, 2)
            offset = builder.add(builder.mul(i, strides[0]), builder.mul(j, strides[1]))
            return cgutils.pointer_add(builder, array.data, offset, kind.as_pointer())

        def load(array: Any, i: Any, j: Any, kind: Any) -> Any:
            return builder.load(address(array, i, j, kind), align=4, typ=kind)

        rows = [builder.add(i, ir.Constant(word, r)) for r in range(ROWS)]
        sums = [cgutils.alloca_once(builder, vector) for _ in rows]
        with builder.if_else(builder.icmp_signed("==", begin, ir.Constant(word, 0))) as (first, later):
            with first:
                for total in sums:
                    builder.store(ir.Constant(vector, [0.0] * LANES), total)
            with later:
                for r, total in zip(rows, sums, strict=True):
                    builder.store(load(out, r, j, vector), total)
        with cgutils.for_range(builder, end, begin) as loop:
            line = load(b, loop.index, j, vector)
            for r, total in zip(rows, sums, strict=True):
                one = load(a, r, loop.index, ir.FloatType())
                lanes = builder.insert_element(ir.Constant(vector, ir.Undefined), one, ir.Constant(word, 0))
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
                lanes = builder.shuffle_vector(lanes, ir.Constant(vector, ir.Undefined), zeros)
                term = builder.fmul(lanes, line, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
        for r, total in zip(rows, sums, strict=True):
            builder.store(builder.load(total), address(out, r, j, vector), align=4)
        return context.get_dummy_value()

    return types.void(out, a, b, i, j, begin, end), emit


@kernel
def product(a, b, out):
    """out = a @ b, for a (rows, depth) with any strides, and b and out padded."""
    for begin in range(0, a.shape[1], DEPTH):
        end = min(begin + DEPTH, a.shape[1])
        for i in range(0, a.shape[0], ROWS):
            for j in range(0, b.shape[1], LANES):
                add_tile(out, a, b, i, j, begin, end)


@kernel
def transpose(a, out):
    """out = a.T, by blocks of LANES x LANES."""
    for i in range(0, a.shape[0], LANES):
        for j in range(0, a.shape[1], LANES):
            for k in range(LANES):
                for v in range(LANES):
                    out[j + k, i + v] = a[i + v, j + k]


@kernel
def descend(p, dp, rate):
    """p -= rate * dp, for parameters and gradients of one axis."""
    for k in range(len(p)):
        p[k] -= rate * dp[k]


# -- sums over the rows of a minibatch


@kernel
def sum_rows(x, w, part, out):
    """out[k] = sum over r of w[r] * x[r, k], in blocks of rows, so that rounding does not build up."""
    out[:] = 0
    for begin in range(0, len(w), BLOCK):
        part[:] = 0
        for r in range(begin, min(begin + BLOCK, len(w))):
            for k in range(len(out)):
                part[k] += w[r] * x[r, k]
        for k in range(len(out)):
            out[k] += part[k]


@kernel
def sum_products(x, y, w, part, out):
    """out[k] = sum over r of w[r] * x[r, k] * y[r, k], in blocks of rows."""
    out[:] = 0
    for begin in range(0, len(w), BLOCK):
        part[:] = 0
        for r in range(begin, min(begin + BLOCK, len(w))):
            for k in range(len(out)):
                part[k] += w[r] * x[r, k] * y[r, k]
        for k in range(len(out)):
            out[k] += part[k]


# -- equal contexts, and the table of the first layer


@kernel
def number(keys, table, numbers, firsts):
    """Give equal keys one number, in order of first appearance; return how many there are.

    `table` is -1 at every possible key, before and after; `firsts` receives where each number was given.
    """
    count = 0
    for i in range(len(keys)):
        if table[keys[i]] < 0:
            table[keys[i]] = count
            firsts[count] = i
            count += 1
        numbers[i] = table[keys[i]]
    for i in range(count):
        table[keys[firsts[i]]] = -1
    return count


@kernel
def merge(X, vocabulary, s):
    """Number the distinct contexts of a minibatch, and the different symbols at each position of them.

    Writes rows[i] for each example, w[r], and for position j the symbols and slots[j, r] among them, and u[j].
    Returns m.
    """
    n, block_size = X.shape
    m = 1
    s.rows[:] = 0
    for j in range(block_size):  # a context's number, from that of its first j symbols
        for i in range(n):
            s.keys[i] = s.rows[i] * vocabulary + X[i, j]
        m = number(s.keys, s.table, s.rows, s.firsts)
    s.w[:m] = 0
    for i in range(n):
        s.w[s.rows[i]] += 1
    for j in range(block_size):
        for r in range(m):
            s.keys[r] = X[s.firsts[r], j]
        s.u[j] = number(s.keys[:m], s.table, s.slots[j], s.seconds)
        for k in range(s.u[j]):
            s.symbols[j, k] = s.keys[s.seconds[k]]
    return m


@kernel
def first_layer(p, s, m, n_embd):
    """hprebn = embcat @ W1 + b1: a row of the table for each position."""
    for j in range(len(s.u)):
        for k in range(s.u[j]):
            for e in range(n_embd):
                s.emb[j, k, e] = p.C[s.symbols[j, k], e]
        product(s.emb[j, : s.u[j], :n_embd], p.W1[j], s.tables[j])  # (u, n_hidden)
    for r in range(m):
        for k in range(len(p.b1)):
            s.hprebn[r, k] = p.b1[k]
        for j in range(len(s.u)):
            for k in range(len(p.b1)):
                s.hprebn[r, k] += s.tables[j, s.slots[j, r], k]


@kernel
def first_layer_backward(p, d, s, m, n_embd, n_hidden):
    """dW1 = embcat.T @ dhprebn, db1 = dhprebn.sum(0), dembcat = dhprebn @ W1.T, and dC from it."""
    sum_rows(s.dh, s.ones[:m], s.part, d.b1)
    d.C[:] = 0
    for j in range(len(s.u)):
        u = s.u[j]
        s.tables[j, :u] = 0
        for r in range(m):
            for k in range(len(p.b1)):
                s.tables[j, s.slots[j, r], k] += s.dh[r, k]
        product(s.emb[j, :u, :n_embd].T, s.tables[j], d.W1[j])  # (n_embd, n_hidden)
        product(s.tables[j, :u, :n_hidden], s.W1T[j], s.emb[j])  # (u, n_embd): demb over emb
        for k in range(u):
            for e in range(n_embd):
                d.C[s.symbols[j, k], e] += s.emb[j, k, e]


# -- batch norm, tanh, cross entropy


@kernel
def tanh(x):
    """x P(x^2) / Q(x^2), a least-squares fit: the error is within 4e-7."""
    x = LARGEST if x > LARGEST else (-LARGEST if x < -LARGEST else x)  # a NaN stays what it is
    z = x * x
    p = x * (P0 + z * (P1 + z * (P2 + z * (P3 + z * P4))))
    return p / (ONE + z * (Q1 + z * (Q2 + z * (Q3 + z * Q4))))


@kernel
def exp(x):
    """2^k e^r with x = k ln 2 + r and a polynomial in r, for x up to 88; below -87, e^-87."""
    x = LEAST if x < LEAST else x
    k = np.floor(x * LOG2E + HALF)
    r = x - k * LN2
    power = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)
    return power * (ONE + r * (ONE + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * E6))))))


@kernel
def batch_norm(p, s, m, n):
    """bnmeani, bnvar, bnvar_inv, bnraw (over hprebn), hpreact and h = tanh(hpreact)."""
    x, width = s.hprebn, len(s.bnmeani)
    sum_rows(x, s.w[:m], s.part, s.bnmeani)
    for k in range(width):
        s.bnmeani[k] /= n
    for r in range(m):
        for k in range(width):
            x[r, k] -= s.bnmeani[k]
    sum_products(x, x, s.w[:m], s.part, s.bnvar)
    for k in range(width):
        s.bnvar[k] /= n - ONE  # Bessel's correction
        s.bnvar_inv[k] = ONE / np.sqrt(s.bnvar[k] + EPS)
    for r in range(m):
        for k in range(width):
            x[r, k] *= s.bnvar_inv[k]
            s.h[r, k] = tanh(p.bngain[k] * x[r, k] + p.bnbias[k])


@kernel
def batch_norm_backward(p, d, s, m, n):
    """dhpreact = (1 - h^2) dh, dbngain, dbnbias, and dhprebn (over dh)."""
    bnraw, width = s.hprebn, len(s.bnmeani)
    for r in range(m):
        for k in range(width):
            s.dh[r, k] *= ONE - s.h[r, k] * s.h[r, k]
    sum_products(bnraw, s.dh, s.ones[:m], s.part, d.bngain)
    sum_rows(s.dh, s.ones[:m], s.part, d.bnbias)
    bessel = ONE / (n - ONE)
    for r in range(m):
        for k in range(width):
            mean = d.bnbias[k] / n + bessel * bnraw[r, k] * d.bngain[k]
            s.dh[r, k] = p.bngain[k] * s.bnvar_inv[k] * (s.dh[r, k] - s.w[r] * mean)


@kernel
def cross_entropy(p, s, Y, m, vocabulary):
    """loss = F.cross_entropy(logits + b2, Yb), and dlogits (over logits): softmax less one-hot, by n."""
    n, loss = np.float32(len(Y)), 0.0
    for r in range(m):
        for v in range(vocabulary):
            s.logits[r, v] += p.b2[v]
    for i in range(len(Y)):
        loss -= s.logits[s.rows[i], Y[i]]
    for r in range(m):
        logits, top, total = s.logits[r], s.logits[r, 0], np.float32(0)
        for v in range(vocabulary):
            top = max(top, logits[v])
        for v in range(vocabulary):
            logits[v] = exp(logits[v] - top)
            total += logits[v]
        loss += s.w[r] * (top + np.log(np.float64(total)))
        scale = s.w[r] / (n * total)
        for v in range(vocabulary):
            logits[v] *= scale
    for i in range(len(Y)):
        s.logits[s.rows[i], Y[i]] -= ONE / n
    return loss / n


# -- the step


class Weights(NamedTuple):
    """The parameters, or their gradients, padded; W1 as (block_size, n_embd, n_hidden)."""

    C: np.ndarray
    W1: np.ndarray
    b1: np.ndarray
    W2: np.ndarray
    b2: np.ndarray
    bngain: np.ndarray
    bnbias: np.ndarray


class Scratch(NamedTuple):
    """What a step writes before it reads; in its order of use."""

    table: np.ndarray  # (n * vocabulary,) int32, -1
    keys: np.ndarray  # (n,) int64, as the next three
    rows: np.ndarray  # (n,): the distinct context of each example
    firsts: np.ndarray  # (n,): the example in which a distinct context comes first
    seconds: np.ndarray  # (n,): the distinct context in which a symbol comes first
    w: np.ndarray  # (n,): how often a distinct context occurs
    ones: np.ndarray  # (n,)
    u: np.ndarray  # (block_size,) int64: how many symbols there are at a position
    symbols: np.ndarray  # (block_size, u) int64
    slots: np.ndarray  # (block_size, n) int64: where among them a distinct context's symbol is
    emb: np.ndarray  # (block_size, u, n_embd); demb later
    tables: np.ndarray  # (block_size, u, n_hidden): emb @ W1; its gradient later
    hprebn: np.ndarray  # (n, n_hidden); bnraw later
    bnmeani: np.ndarray  # (n_hidden,), as the next three
    bnvar: np.ndarray
    bnvar_inv: np.ndarray
    part: np.ndarray
    h: np.ndarray  # (n, n_hidden)
    dh: np.ndarray  # (n, n_hidden); dhpreact and dhprebn later
    logits: np.ndarray  # (n, vocabulary); dlogits later
    W1T: np.ndarray  # (block_size, n_hidden, n_embd)
    W2T: np.ndarray  # (vocabulary, n_hidden)


@kernel
def gradients(X, Y, p, d, s, sizes):
    """Forward and backward of one minibatch; return the loss."""
    vocabulary, n_embd, n_hidden = sizes
    n, m = np.float32(len(Y)), merge(X, vocabulary, s)
    first_layer(p, s, m, n_embd)
    batch_norm(p, s, m, n)
    product(s.h[:m, :n_hidden], p.W2, s.logits)  # (m, vocabulary)
    loss = cross_entropy(p, s, Y, m, vocabulary)
    dlogits = s.logits[:m, :vocabulary]
    product(s.h[:m, :n_hidden].T, s.logits, d.W2)  # (n_hidden, vocabulary)
    sum_rows(s.logits, s.ones[:m], s.part[: len(p.b2)], d.b2)
    transpose(p.W2, s.W2T)
    product(dlogits, s.W2T, s.dh)  # (m, n_hidden)
    batch_norm_backward(p, d, s, m, n)
    for j in range(len(p.W1)):
        transpose(p.W1[j], s.W1T[j])
    first_layer_backward(p, d, s, m, n_embd, n_hidden)
    return loss


def take_steps(Xs, Ys, rates, losses, p, d, s, sizes, keep, bnmean, bnstd):
    """Take one step of gradient descent a minibatch, and write its loss."""
    for step in range(len(rates)):
        losses[step] = gradients(Xs[step], Ys[step], p, d, s, sizes)
        rate = rates[step]
        descend(p.C.ravel(), d.C.ravel(), rate)
        descend(p.W1.ravel(), d.W1.ravel(), rate)
        descend(p.b1, d.b1, rate)
        descend(p.W2.ravel(), d.W2.ravel(), rate)
        descend(p.b2, d.b2, rate)
        descend(p.bngain, d.bngain, rate)
        descend(p.bnbias, d.bnbias, rate)
        if keep:
            for k in range(len(bnmean)):
                bnmean[k] += MOMENTUM * (s.bnmeani[k] - bnmean[k])
                bnstd[k] += MOMENTUM * (np.sqrt(s.bnvar[k]) - bnstd[k])


def compiled(function):
    return njit(nogil=True, fastmath=FAST, error_model="numpy", cache=True)(function)

take_steps = compiled(take_steps)
