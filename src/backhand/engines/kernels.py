"""Small Numba kernels that every step of the native engine is made of.

Matrices are float32, row-major and padded with zeros to multiples of LANES, so that whole tiles can be taken;
the left operand of a product may have any strides, and its true shape is passed, so that no sum runs over
padding. Indices are int64.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numba import njit

from .linking import PART, SETTLED
from .tiles import (
    DOTS,
    LANES,
    ROWS,
    dot_tile,
    four_tile,
    stand_alone,
    strided,
    tall_tile,
    transpose_tile,
    two_tile,
)

DEPTH = 256
"""Rows of the right operand that a product takes at a time, so that they stay in cache."""

BLOCK = 64
"""Rows that are summed before the sum is added to that of the blocks before, so that rounding stays small."""

# reassociation and contraction let LLVM vectorise sums; NaN and infinity keep their meaning
FAST = {"reassoc", "contract", "arcp", "nsz"}

MACHINE: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy", "_nrt": False}
"""How kernels are compiled: none makes an array, so none need count references, a tenth of the compiling."""

QUICK: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""What Numba need not compile for a function that only other kernels call."""

ONE, HALF = np.float32(1), np.float32(0.5)

# fits by least squares in float64, reweighted until the largest relative error is least:
# tanh(x) = x P(x^2) / Q(x^2) for |x| <= LARGEST, and e^r = 1 + r + r^2 E(r) for |r| <= ln(2) / 2
LARGEST = np.float32(8)
P0, P1, P2, P3, P4 = map(
    np.float32,
    (0.9999999936128982, 0.134445102202028, 3.571612468377e-3, 2.1894897642440e-5, 1.52307453605712e-8),
)
Q1, Q2, Q3, Q4 = map(
    np.float32, (0.4677783755206715, 0.0261644981100681, 3.41131552751054e-4, 8.52258019192735e-7)
)
LEAST, LOG2E, LN2 = np.float32(-88), np.float32(1 / np.log(2)), np.float32(np.log(2))
E2, E3, E4, E5, E6 = map(
    np.float32,
    (0.4999999341236541, 0.16666520106509664, 0.0416683942378161, 8.36878053277556e-3, 1.38144657896787e-3),
)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function once for all kernels that call it; Python cannot call it."""
    return njit(**MACHINE, forceinline=False, **QUICK, pipeline_class=PART)(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function as a part of each kernel that calls it."""
    return njit(**MACHINE, forceinline=True, **QUICK, pipeline_class=PART)(function)


def settled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function as a part of each kernel that calls it, with sums that round alike in all.

    Elsewhere LLVM orders a sum as it likes best beside what stands around it.
    """
    return njit(**MACHINE, forceinline=True, **QUICK, pipeline_class=SETTLED)(function)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function as if it stood in the one kernel that calls it, which takes less time."""
    return njit(**MACHINE, inline="always")(function)


Row: TypeAlias = np.ndarray
Matrix: TypeAlias = np.ndarray
Indices: TypeAlias = np.ndarray


@kernel
def add_tiles(
    out: Matrix,
    scale: np.float32,
    a: Matrix,
    b: Matrix,
    rows: int,
    depth: int,
    keep: bool,
) -> None:
    """out = scale * a @ b, or, to keep what is there, out += scale * a @ b; a is (rows, depth)."""
    stand_alone()
    tall = rows // ROWS * ROWS  # rows in tall tiles
    for begin in range(0, depth, DEPTH):
        end = min(begin + DEPTH, depth)
        for i in range(0, tall, ROWS):
            for j in range(0, b.shape[1], LANES):
                tall_tile(out, a, b, scale, i, j, begin, end, keep)
        i = tall
        while rows - i > 2:
            for j in range(0, b.shape[1], LANES):
                four_tile(out, a, b, scale, i, j, begin, end, keep)
            i += 4
        if rows > i:
            for j in range(0, b.shape[1], LANES):
                two_tile(out, a, b, scale, i, j, begin, end, keep)
        keep = True


@inlined
def product(
    a: Matrix,
    b: Matrix,
    out: Matrix,
    rows: int,
    depth: int,
) -> None:
    """out = a @ b, for a (rows, depth)."""
    keep = rows < 0  # never: False itself would be a type of its own
    add_tiles(out, ONE, strided(a), b, rows, depth, keep)


@inlined
def add_product(
    scale: np.float32,
    a: Matrix,
    b: Matrix,
    out: Matrix,
    rows: int,
    depth: int,
) -> None:
    """out += scale * a @ b, for a (rows, depth)."""
    add_tiles(out, scale, strided(a), b, rows, depth, rows >= 0)


@kernel
def product_of_rows(
    a: Matrix,
    b: Matrix,
    out: Matrix,
    rows: int,
    columns: int,
) -> None:
    """out = a @ b.T, for a (rows, k) and b (columns, k): each is the dot product of two rows."""
    for i in range(0, rows, DOTS):
        for j in range(0, columns, 2):
            dot_tile(a, b, out, i, j, a.shape[1])


@kernel
def transpose(
    a: Matrix,
    out: Matrix,
) -> None:
    """out = a.T, both padded."""
    stand_alone()
    for i in range(0, a.shape[0], LANES):
        for j in range(0, a.shape[1], LANES):
            transpose_tile(a, out, i, j)


@kernel
def repeat(
    x: Row,
    m: int,
    out: Matrix,
) -> None:
    """out = x in each of m rows."""
    for r in range(m):
        for k in range(len(x)):
            out[r, k] = x[k]


@inlined
def descend(
    p: Row,
    rate: np.float32,
    d: Row,
) -> None:
    """p -= rate * d."""
    for k in range(len(p)):
        p[k] -= rate * d[k]


@kernel
def sum_rows(
    w: Row,
    x: Matrix,
    m: int,
    part: Row,
    out: Row,
) -> None:
    """out = (w * x).sum(0), for w (m,) and x (m, k), in blocks of rows."""
    stand_alone()
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


@inlined
def number(
    keys: Indices,
    count: int,
    table: Indices,
    numbers: Indices,
    firsts: Indices,
) -> int:
    """Number equal keys alike, in order of first appearance; return how many numbers there are.

    `table` is -1 at every possible key, before and after; `firsts` receives where each number first was.
    """
    numbered = 0
    for i in range(count):  # without a branch, which a CPU would guess wrong again and again
        known = table[keys[i]]
        is_new = known < 0
        numbers[i] = table[keys[i]] = numbered if is_new else known
        firsts[numbered] = i  # until the next, if it is not new
        numbered += int(is_new)
    for i in range(numbered):
        table[keys[firsts[i]]] = -1
    return numbered


@inlined
def tanh(
    x: np.float32,
) -> np.float32:
    """x P(x^2) / Q(x^2); the error is within 4e-7."""
    x = LARGEST if x > LARGEST else (-LARGEST if x < -LARGEST else x)  # NaN stays what it is
    z = x * x
    p = x * (P0 + z * (P1 + z * (P2 + z * (P3 + z * P4))))
    return p / (ONE + z * (Q1 + z * (Q2 + z * (Q3 + z * Q4))))


@inlined
def exp(
    x: np.float32,
) -> np.float32:
    """2^k e^r for x = k ln 2 + r, up to x = 88; 0 where float32 has no normal number for it."""
    x = LEAST if x < LEAST else x
    k = np.floor(x * LOG2E + HALF)
    r = x - k * LN2
    power = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)
    return power * (ONE + r * (ONE + r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * E6))))))


@inlined
def sigmoid(
    x: np.float32,
) -> np.float32:
    """1 / (1 + e^-x), by the one of e^x and e^-x that is at most 1."""
    small = exp(-abs(x))
    return (ONE if x >= 0 else small) / (ONE + small)
