"""Two operations on tiles of a matrix, in LLVM's language, which Numba inlines into its kernels.

They are all that the native engine needs below Numba: it cannot be told to keep the sums of a product in
vector registers, nor to transpose between them. LLVM fits the vectors of LANES numbers to the CPU: one
register of AVX-512, two of AVX, four of SSE or NEON.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Columns of a tile, and the number to whose multiples matrices are padded."""

ROWS = 8 if "+avx512f" in get_host_cpu_features().flatten() else 4
"""Rows of a product's tile: its sums fill half of AVX2's registers, or a quarter of AVX-512's."""

WORD, SINGLE = ir.IntType(64), ir.FloatType()
VECTOR, PICK = ir.VectorType(SINGLE, LANES), ir.VectorType(ir.IntType(32), LANES)


def operation(emitter: Callable[..., Any]) -> Any:
    """Return what a kernel calls; the first parameter, the typing context, is left out of a call."""
    return intrinsic(emitter)


def address(builder: Any, array: Any, i: Any, j: Any, kind: Any) -> Any:
    """Return a pointer to array[i, j], in LLVM's language."""
    strides = cgutils.unpack_tuple(builder, array.strides, 2)
    offset = builder.add(builder.mul(i, strides[0]), builder.mul(j, strides[1]))
    return cgutils.pointer_add(builder, array.data, offset, kind.as_pointer())


def load(builder: Any, array: Any, i: Any, j: Any, kind: Any) -> Any:
    """Return array[i, j], or LANES numbers from there."""
    return builder.load(address(builder, array, i, j, kind), align=4, typ=kind)


@operation
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
                one = load(builder, a, r, loop.index, SINGLE)
                lanes = builder.insert_element(VECTOR(ir.Undefined), one, WORD(0))
                lanes = builder.shuffle_vector(lanes, VECTOR(ir.Undefined), PICK([0] * LANES))
                term = builder.fmul(lanes, line, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
        for r, total in zip(rows, sums, strict=True):
            builder.store(builder.load(total), address(builder, out, r, j, VECTOR), align=4)
        return context.get_dummy_value()

    return types.void(out, a, b, i, j, begin, end), emit


@operation
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
