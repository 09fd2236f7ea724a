"""Three operations on tiles of a matrix, in LLVM's language, which Numba inlines into its kernels.

They are all that the native engine needs below Numba: it cannot be told to keep the sums of a product in
vector registers, nor to transpose between them. LLVM fits the vectors of LANES numbers to the CPU: one
register of AVX-512, two of AVX, four of SSE or NEON.
"""

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Columns of a tile, and the number to whose multiples matrices are padded."""

ASKED: str | None = config.CPU_FEATURES  # pyright: ignore[reportAttributeAccessIssue]
FEATURES: str = get_host_cpu_features().flatten() if ASKED is None else ASKED
"""What Numba compiles for: this CPU, or what NUMBA_CPU_FEATURES names."""

HAS_VECTORS = "+avx2" in FEATURES or "+neon" in FEATURES
"""Whether the tiles fit into the CPU's registers. Elsewhere they would be right as well, but not worth it."""

ROWS = 8 if "+avx512f" in FEATURES else 6 if "+avx2" in FEATURES else 4
"""Rows of a product's tile: its sums fill three quarters of AVX2's registers, the operands take three more;
a quarter of AVX-512's, or half of NEON's."""

DOTS = ROWS // 4 * 2
"""Rows of a tile of dot products, which divide LANES."""

WORD: Any = ir.IntType(64)
SINGLE: Any = ir.FloatType()
VECTOR: Any = ir.VectorType(SINGLE, LANES)
PICK: Any = ir.VectorType(ir.IntType(32), LANES)


def operation(emitter: Callable[..., Any]) -> Any:
    """Return what a kernel calls; the first parameter, the typing context, is left out of a call."""
    return intrinsic(emitter)


@operation
def stand_alone(typingctx: Any) -> Any:
    """Keep LLVM from copying the function in which this stands into its callers, over and over.

    A large kernel that is called in many places takes a fraction of the time to compile so, and no longer to
    run.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), emit


@operation
def strided(typingctx: Any, array: Any) -> Any:
    """An array as one of any strides: a transposed one is then no type of its own, to be compiled for."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return arguments[0]

    return types.Array(array.dtype, array.ndim, "A")(array), emit


def address(builder: Any, array: Any, i: Any, j: Any, kind: Any) -> Any:
    """Return a pointer to array[i, j], in LLVM's language."""
    strides = cgutils.unpack_tuple(builder, array.strides, 2)
    offset = builder.add(builder.mul(i, strides[0]), builder.mul(j, strides[1]))
    return cgutils.pointer_add(builder, array.data, offset, kind.as_pointer())


def load(builder: Any, array: Any, i: Any, j: Any, kind: Any) -> Any:
    """Return array[i, j], or LANES numbers from there."""
    return builder.load(address(builder, array, i, j, kind), align=4, typ=kind)


def product_tile(height: int) -> Any:
    """Return the operation out[i : i + height, j : j + LANES] = scale * a @ b, for these rows and columns.

    The sum runs from begin to end. If `keep` is true, it is added to what stands there.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, a, b = arrays(context, builder, signature, arguments)
        scale, i, j, begin, end, keep = arguments[3:]
        rows = [builder.add(i, WORD(r)) for r in range(height)]
        sums = zeros(builder, height)
        with cgutils.for_range(builder, end, begin) as loop:
            line = load(builder, b, loop.index, j, VECTOR)
            for r, total in zip(rows, sums, strict=True):
                one = spread(builder, load(builder, a, r, loop.index, SINGLE))
                builder.store(add_product(builder, builder.load(total), one, line), total)
        for r, total in zip(rows, sums, strict=True):
            (before,) = zeros(builder, 1)
            with builder.if_then(keep):
                builder.store(load(builder, out, r, j, VECTOR), before)
            after = add_product(builder, builder.load(before), spread(builder, scale), builder.load(total))
            builder.store(after, address(builder, out, r, j, VECTOR), align=4)
        return context.get_dummy_value()

    @intrinsic
    def tile(
        typingctx: Any, out: Any, a: Any, b: Any, scale: Any, i: Any, j: Any, begin: Any, end: Any, keep: Any
    ) -> Any:
        return types.void(out, a, b, scale, i, j, begin, end, keep), emit

    return tile


def arrays(context: Any, builder: Any, signature: Any, arguments: Any) -> Iterator[Any]:
    """Yield the arguments that are arrays, with their pointers and strides."""
    for kind, value in zip(signature.args, arguments, strict=True):
        if isinstance(kind, types.Array):
            yield context.make_array(kind)(context, builder, value)


def zeros(builder: Any, count: int) -> list[Any]:
    """Return variables, each a vector of zeros now; LLVM keeps them in registers."""
    variables = [cgutils.alloca_once(builder, VECTOR) for _ in range(count)]
    for variable in variables:
        builder.store(VECTOR([0.0] * LANES), variable)
    return variables


def spread(builder: Any, number: Any) -> Any:
    """Return LANES times the same number."""
    lanes = builder.insert_element(VECTOR(ir.Undefined), number, WORD(0))
    return builder.shuffle_vector(lanes, VECTOR(ir.Undefined), PICK([0] * LANES))


def add_product(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Return total + a * b, rounded once where the CPU can."""
    return builder.fadd(total, builder.fmul(a, b, flags=("contract",)), flags=("contract",))


def add_lanes(builder: Any, vector: Any) -> Any:
    """Return the sum of a vector's numbers, in an order that suits the CPU."""
    kind = ir.FunctionType(SINGLE, [SINGLE, VECTOR])
    name = f"llvm.vector.reduce.fadd.v{LANES}f32"
    add = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(add, [SINGLE(0.0), vector], fastmath=("reassoc",))


tall_tile: Any = product_tile(ROWS)
four_tile: Any = product_tile(4)
two_tile: Any = product_tile(2)


@operation
def dot_tile(typingctx: Any, a: Any, b: Any, out: Any, i: Any, j: Any, depth: Any) -> Any:
    """out[i : i + DOTS, j : j + 2] = a[i : i + DOTS, :depth] @ b[j : j + 2, :depth].T."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b, out = arrays(context, builder, signature, arguments)
        i, j, depth = arguments[3:]
        rows = [builder.add(i, WORD(r)) for r in range(DOTS)]
        columns = [builder.add(j, WORD(c)) for c in range(2)]
        sums = [zeros(builder, len(columns)) for _ in rows]
        with cgutils.for_range_slice(builder, WORD(0), depth, WORD(LANES), WORD) as (k, _):
            lines = [load(builder, b, c, k, VECTOR) for c in columns]
            for r, totals in zip(rows, sums, strict=True):
                ours = load(builder, a, r, k, VECTOR)
                for line, total in zip(lines, totals, strict=True):
                    builder.store(add_product(builder, builder.load(total), ours, line), total)
        for r, totals in zip(rows, sums, strict=True):
            for c, total in zip(columns, totals, strict=True):
                one = add_lanes(builder, builder.load(total))
                builder.store(one, address(builder, out, r, c, SINGLE), align=4)
        return context.get_dummy_value()

    return types.void(a, b, out, i, j, depth), emit


@operation
def transpose_tile(typingctx: Any, a: Any, out: Any, i: Any, j: Any) -> Any:
    """out[j : j + LANES, i : i + LANES] = a[i : i + LANES, j : j + LANES].T.

    In log2(LANES) rounds; in each, pairs of rows exchange the off-diagonal halves of ever larger squares.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, out = arrays(context, builder, signature, arguments)
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


@operation
def dot_part(typingctx: Any, a: Any, i: Any, j: Any, b: Any, r: Any, c: Any, depth: Any) -> Any:
    """a[i, j : j + depth] @ b[r, c : c + depth], for a depth that is a multiple of LANES."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b = arrays(context, builder, signature, arguments)
        _, i, j, _, r, c, depth = arguments
        (total,) = zeros(builder, 1)
        with cgutils.for_range_slice(builder, WORD(0), depth, WORD(LANES), WORD) as (k, _):
            ours = load(builder, a, i, builder.add(j, k), VECTOR)
            theirs = load(builder, b, r, builder.add(c, k), VECTOR)
            builder.store(add_product(builder, builder.load(total), ours, theirs), total)
        return add_lanes(builder, builder.load(total))

    return types.float32(a, i, j, b, r, c, depth), emit


@operation
def add_part(typingctx: Any, scale: Any, a: Any, i: Any, j: Any, out: Any, r: Any, c: Any, depth: Any) -> Any:
    """out[r, c : c + depth] += scale * a[i, j : j + depth], for a depth that is a multiple of LANES."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, out = arrays(context, builder, signature, arguments)
        scale, _, i, j, _, r, c, depth = arguments
        factor = spread(builder, scale)
        with cgutils.for_range_slice(builder, WORD(0), depth, WORD(LANES), WORD) as (k, _):
            line = load(builder, a, i, builder.add(j, k), VECTOR)
            at = address(builder, out, r, builder.add(c, k), VECTOR)
            before = builder.load(at, align=4, typ=VECTOR)
            builder.store(add_product(builder, before, factor, line), at, align=4)
        return context.get_dummy_value()

    return types.void(scale, a, i, j, out, r, c, depth), emit
