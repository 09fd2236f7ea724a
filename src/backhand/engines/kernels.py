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


WORD, VECTOR = ir.IntType(64), ir.VectorType(ir.FloatType(), LANES)
PICK = ir.VectorType(ir.IntType(32), LANES)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when the first kernel that calls it is compiled, and into it; Python cannot call it."""
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}  # a quicker compilation
    return njit(fastmath=FAST, error_model="numpy", **options)(function)


# -- products


def address(builder: Any, array: Any, i: Any, j: Any, kind: Any) -> Any:
    """Return a pointer to array[i, j], in LLVM's language."""
    strides = cgutils.unpack_tuple(builder, array.strides, 2)
    offset = builder.add(builder.mul(i, strides[0]), builder.mul(j, strides[1]))
    return cgutils.pointer_add(builder, array.data, offset, kind.as_pointer())


def load(builder: Any, array: Any, i: Any, j: Any, kind: Any) -> Any:
    """Return array[i, j], or LANES numbers from there."""
    return builder.load(address(builder, array, i, j, kind), align=4, typ=kind)


@intrinsic
def add_tile(typingctx: Any, out: Any, a: Any, b: Any, i: Any, j: Any, begin: Any, end: Any) -> Any:
    """out[i : i + ROWS, j : j + LANES] += a[i : i + ROWS, begin:end] @ b[begin:end, j : j + LANES].

    Where begin is 0, what stood in the tile is forgotten. Written in LLVM's language, because Numba cannot be
    told to keep ROWS vectors of LANES sums in registers.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, a, b = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
        )
        i, j, begin, end = arguments[3:]
        rows = [builder.add(i, WORD(r)) for r in range(ROWS)]
        sums = [cgutils.alloca_once(builder, VECTOR) for _ in rows]
        with builder.if_else(builder.icmp_signed("==", begin, WORD(0))) as (first, later):
            with first:
                for total in sums:
                    builder.store(VECTOR([0.0] * LANES), total)
            with later:
                for r, total in zip(rows, sums, strict=True):
                    builder.store(load(builder, out, r, j, VECTOR), total)
        with cgutils.for_range(builder, end, begin) as loop:
            line = load(builder, b, loop.index, j, VECTOR)
            for r, total in zip(rows, sums, strict=True):
                one = load(builder, a, r, loop.index, ir.FloatType())
                lanes = builder.insert_element(VECTOR(ir.Undefined), one, WORD(0))
                lanes = builder.shuffle_vector(lanes, VECTOR(ir.Undefined), PICK([0] * LANES))
                term = builder.fmul(lanes, line, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
        for r, total in zip(rows, sums, strict=True):
            builder.store(builder.load(total), address(builder, out, r, j, VECTOR), align=4)
        return context.get_dummy_value()

    return types.void(out, a, b, i, j, begin, end), emit


@intrinsic
def transpose_tile(typingctx: Any, a: Any, out: Any, i: Any, j: Any) -> Any:
    """out[j : j + LANES, i : i + LANES] = a[i : i + LANES, j : j + LANES].T.

    In log2(LANES) rounds; in each, pairs of rows exchange the off-diagonal halves of ever larger squares.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, out = (
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args[:2], arguments[:2], strict=True)
        )
        i, j = arguments[2:]
        rows = [load(builder, a, builder.add(i, WORD(r)), j, VECTOR) for r in range(LANES)]
        for side in (1 << k for k in range(LANES.bit_length() - 1)):
            upper = PICK([(v ^ side) + LANES if v & side else v for v in range(LANES)])
            lower = PICK([v + LANES if v & side else v ^ side for v in range(LANES)])
            for r in (r for r in range(LANES) if not r & side):
                pair = rows[r], rows[r | side]
                rows[r], rows[r | side] = (builder.shuffle_vector(*pair, pick) for pick in (upper, lower))
        for r, line in enumerate(rows):
            builder.store(line, address(builder, out, builder.add(j, WORD(r)), i, VECTOR), align=4)
        return context.get_dummy_value()

    return types.void(a, out, i, j), emit


@kernel
def product(a, b, out, rows, depth):
    """out = a @ b, for a (rows, depth) of any strides, and b and out padded."""
    for begin in range(0, depth, DEPTH):
        end = min(begin + DEPTH, depth)
        for i in range(0, rows, ROWS):
            for j in range(0, b.shape[1], LANES):
                add_tile(out, a, b, i, j, begin, end)


@kernel
def transpose(a, out):
    """out = a.T, both padded."""
    for i in range(0, a.shape[0], LANES):
        for j in range(0, a.shape[1], LANES):
            transpose_tile(a, out, i, j)


# -- sums over the m rows of a minibatch, in blocks of rows, so that rounding does not build up


@kernel
def sum_rows(w, x, m, part, out):
    """out = (w * x).sum(0), for w (m,) and x (m, k)."""
    for k in range(len(out)):
        out[k] = 0
    for begin in range(0, m, BLOCK):
        for k in range(len(out)):
            part[k] = 0
        for r in range(begin, min(begin + BLOCK, m)):
            for k in range(len(out)):
                part[k] += w[r] * x[r, k]
        for k in range(len(out)):
            out[k] += part[k]


@kernel
def sum_products(w, x, y, m, part, out):
    """out = (w * x * y).sum(0), for w (m,), x and y (m, k)."""
    for k in range(len(out)):
        out[k] = 0
    for begin in range(0, m, BLOCK):
        for k in range(len(out)):
            part[k] = 0
        for r in range(begin, min(begin + BLOCK, m)):
            for k in range(len(out)):
                part[k] += w[r] * x[r, k] * y[r, k]
        for k in range(len(out)):
            out[k] += part[k]


# -- equal contexts, and the table of the first layer


@kernel
def number(keys, count, table, numbers, firsts):
    """Number equal keys alike, in order of first appearance; return how many numbers there are.

    `table` is -1 at every possible key, before and after; `firsts` receives where each number was first given.
    """
    numbered = 0
    for i in range(count):
        if table[keys[i]] < 0:
            table[keys[i]] = numbered
            firsts[numbered] = i
            numbered += 1
        numbers[i] = table[keys[i]]
    for i in range(numbered):
        table[keys[firsts[i]]] = -1
    return numbered


@kernel
def merge(X, vocabulary, table, keys, rows, firsts, w):
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
def look_up(X, j, firsts, m, table, keys, slots, seconds, symbols, C, emb):
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
def add_from_table(table, slots, m, hprebn):
    """hprebn += table[slots], where the table is emb @ W1 for one position."""
    for r in range(m):
        line = table[slots[r]]
        for k in range(hprebn.shape[1]):
            hprebn[r, k] += line[k]


@kernel
def add_into_table(dhprebn, slots, m, u, table):
    """table = 0; table[slots] += dhprebn: the gradient of `add_from_table`."""
    for i in range(u):
        for k in range(table.shape[1]):
            table[i, k] = 0
    for r in range(m):
        line = table[slots[r]]
        for k in range(dhprebn.shape[1]):
            line[k] += dhprebn[r, k]


# -- batch norm, tanh, cross entropy


@kernel
def tanh(x):
    """x P(x^2) / Q(x^2); the error is within 4e-7."""
    x = LARGEST if x > LARGEST else (-LARGEST if x < -LARGEST else x)  # NaN stays what it is
    z = x * x
    p = x * (P0 + z * (P1 + z * (P2 + z * (P3 + z * P4))))
    return p / (ONE + z * (Q1 + z * (Q2 + z * (Q3 + z * Q4))))


@kernel
def exp(x):
    """2^k e^r for x = k ln 2 + r, up to x = 88; below -87, e^-87."""
    x = LEAST if x < LEAST else x
    k = np.floor(x * LOG2E + HALF)
    r = x - k * LN2
    power = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)
    return power * (ONE + r * (ONE + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * E6))))))


@kernel
def batch_norm(x, w, m, n, gain, bias, part, mean, var, var_inv, h):
    """bnmeani, bnvar, bnvar_inv, bnraw (over x, which is hprebn) and h = tanh(hpreact)."""
    width = len(mean)
    sum_rows(w, x, m, part, mean)
    for k in range(width):
        mean[k] /= n
    for r in range(m):
        for k in range(width):
            x[r, k] -= mean[k]
    sum_products(w, x, x, m, part, var)
    for k in range(width):
        var[k] /= n - ONE  # Bessel's correction
        var_inv[k] = ONE / np.sqrt(var[k] + EPS)
    for r in range(m):
        for k in range(width):
            x[r, k] *= var_inv[k]
            h[r, k] = tanh(gain[k] * x[r, k] + bias[k])


@kernel
def batch_norm_backward(dh, h, bnraw, w, ones, m, n, gain, var_inv, part, dgain, dbias):
    """dhpreact = (1 - h^2) dh, dbngain, dbnbias, and dhprebn (over dh)."""
    width = len(gain)
    for r in range(m):
        for k in range(width):
            dh[r, k] *= ONE - h[r, k] * h[r, k]
    sum_products(ones, bnraw, dh, m, part, dgain)
    sum_rows(ones, dh, m, part, dbias)
    for r in range(m):
        share = w[r] / n
        for k in range(width):
            mean = dbias[k] + n / (n - ONE) * bnraw[r, k] * dgain[k]
            dh[r, k] = gain[k] * var_inv[k] * (dh[r, k] - share * mean)


@kernel
def cross_entropy(logits, b2, rows, Y, w, m, vocabulary):
    """loss = F.cross_entropy(logits + b2, Yb), and dlogits (over logits): softmax less one-hot, over n."""
    n, loss = np.float32(len(Y)), 0.0
    for r in range(m):
        for v in range(vocabulary):
            logits[r, v] += b2[v]
    for i in range(len(Y)):
        loss -= logits[rows[i], Y[i]]
    for r in range(m):
        line, top, total = logits[r], logits[r, 0], np.float32(0)
        for v in range(vocabulary):
            top = max(top, line[v])
        for v in range(vocabulary):
            line[v] = exp(line[v] - top)
            total += line[v]
        loss += w[r] * (top + np.log(np.float64(total)))
        scale = w[r] / (n * total)
        for v in range(vocabulary):
            line[v] *= scale
    for i in range(len(Y)):
        logits[rows[i], Y[i]] -= ONE / n
    return loss / n


# -- the step


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
    part: np.ndarray  # (max(n_hidden, vocabulary),)
    h: np.ndarray  # (n, n_hidden)
    dh: np.ndarray  # (n, n_hidden), then dhpreact, then dhprebn
    logits: np.ndarray  # (n, vocabulary), then dlogits
    W1T: np.ndarray  # (block_size, n_hidden, n_embd)
    W2T: np.ndarray  # (vocabulary, n_hidden)


@kernel
def forward(X, Y, p, s, sizes):
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
    batch_norm(s.hprebn, s.w, m, n, p.bngain, p.bnbias, s.part, s.bnmeani, s.bnvar, s.bnvar_inv, s.h)
    product(s.h, p.W2, s.logits, m, n_hidden)  # (m, vocabulary)
    return m, cross_entropy(s.logits, p.b2, s.rows, Y, s.w, m, vocabulary)


@kernel
def backward(m, n, p, d, s, sizes):
    """`mlp_fused.backward`, from dlogits: the gradients d of the parameters p."""
    vocabulary, n_embd, n_hidden = sizes
    product(s.h.T, s.logits, d.W2, n_hidden, m)  # (n_hidden, vocabulary)
    sum_rows(s.ones, s.logits, m, s.part, d.b2)  # (vocabulary,)
    transpose(p.W2, s.W2T)
    product(s.logits, s.W2T, s.dh, m, vocabulary)  # (m, n_hidden)
    batch_norm_backward(
        s.dh, s.h, s.hprebn, s.w, s.ones, m, n, p.bngain, s.bnvar_inv, s.part, d.bngain, d.bnbias
    )
    sum_rows(s.ones, s.dh, m, s.part, d.b1)  # (n_hidden,)
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


def take_steps(Xs, Ys, rates, losses, p, d, s, sizes, keep, bnmean, bnstd):
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


def compiled(function):
    return njit(nogil=True, fastmath=FAST, error_model="numpy", cache=True)(function)

take_steps = compiled(take_steps)
