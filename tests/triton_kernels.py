"""Six kernels in Triton with their backwards, run by its interpreter; `fault` spoils the backward."""

import torch
import triton
import triton.language as tl
from torch.autograd import Function

BLOCK = 8


@triton.jit
def swiglu(a, b, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < n
    gate, value = tl.load(a + at, mask=there), tl.load(b + at, mask=there)
    tl.store(y + at, gate / (1 + tl.exp(-gate)) * value, mask=there)


@triton.jit
def swiglu_backward(dy, a, b, da, db, n, BLOCK: tl.constexpr, DERIVATIVE: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < n
    upstream = tl.load(dy + at, mask=there)
    gate, value = tl.load(a + at, mask=there), tl.load(b + at, mask=there)
    sigmoid = 1 / (1 + tl.exp(-gate))
    slope = sigmoid * (1 + gate * (1 - sigmoid)) if DERIVATIVE else sigmoid
    tl.store(da + at, upstream * value * slope, mask=there)
    tl.store(db + at, upstream * gate * sigmoid, mask=there)


@triton.jit
def rms_norm(x, weight, y, n, eps, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    there, row = at < n, tl.program_id(0) * n
    value = tl.load(x + row + at, mask=there, other=0.0)
    inv_rms = 1 / tl.sqrt(tl.sum(value * value, 0) / n + eps)
    tl.store(y + row + at, value * inv_rms * tl.load(weight + at, mask=there), mask=there)


@triton.jit
def rms_norm_backward(dy, x, weight, dx, dweights, n, eps, BLOCK: tl.constexpr, DIVIDES: tl.constexpr):
    at = tl.arange(0, BLOCK)
    there, row = at < n, tl.program_id(0) * n
    value = tl.load(x + row + at, mask=there, other=0.0)
    upstream = tl.load(dy + row + at, mask=there, other=0.0)
    inv_rms = 1 / tl.sqrt(tl.sum(value * value, 0) / n + eps)
    xhat, dxhat = value * inv_rms, upstream * tl.load(weight + at, mask=there, other=0.0)
    coupled = tl.sum(dxhat * xhat, 0) / n if DIVIDES else tl.sum(dxhat * xhat, 0)
    tl.store(dx + row + at, inv_rms * (dxhat - xhat * coupled), mask=there)
    tl.store(dweights + row + at, upstream * xhat, mask=there)


@triton.jit
def softmax(x, y, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    there, row = at < n, tl.program_id(0) * n
    value = tl.load(x + row + at, mask=there, other=-float("inf"))
    numerator = tl.exp(value - tl.max(value, 0))
    tl.store(y + row + at, numerator / tl.sum(numerator, 0), mask=there)


@triton.jit
def softmax_backward(dy, y, dx, n, BLOCK: tl.constexpr, READ: tl.constexpr):
    at = tl.arange(0, BLOCK)
    there, row = at < n, tl.program_id(0) * n
    upstream = tl.load(dy + row + at, mask=at < READ, other=0.0)
    p = tl.load(y + row + at, mask=there, other=0.0)
    tl.store(dx + row + at, p * (upstream - tl.sum(p * upstream, 0)), mask=there)


@triton.jit
def rotate(x, cos, sin, y, half, SIGN: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    there, row = at < half, tl.program_id(0)
    first = tl.load(x + 2 * row * half + at, mask=there)
    second = tl.load(x + (2 * row + 1) * half + at, mask=there)
    c, s = tl.load(cos + row * half + at, mask=there), tl.load(sin + row * half + at, mask=there)
    tl.store(y + 2 * row * half + at, first * c - SIGN * second * s, mask=there)
    tl.store(y + (2 * row + 1) * half + at, second * c + SIGN * first * s, mask=there)


@triton.jit
def cross_entropy(logits, target, losses, dlogits, n, SUBTRACTS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    there, row = at < n, tl.program_id(0)
    value = tl.load(logits + row * n + at, mask=there, other=-float("inf"))
    wanted = at == tl.load(target + row)
    largest = tl.max(value, 0)
    total = tl.sum(tl.exp(value - largest), 0)
    chosen = tl.sum(tl.where(wanted, value, 0.0), 0)
    tl.store(losses + row, largest + tl.log(total) - chosen)
    p = tl.exp(value - largest) / total
    tl.store(dlogits + row * n + at, tl.where(wanted, p - SUBTRACTS, p), mask=there)


@triton.jit
def matmul(a, b, y, n, m, ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inner = tl.arange(0, INNER)
    left = tl.load(a + rows[:, None] * n + inner)
    right = tl.load(b + inner[:, None] * m + columns)
    tl.store(y + rows[:, None] * m + columns, tl.dot(left, right))


def multiplied(a, b):
    """The product of two matrices in float32, whose sides are powers of two, 16 at least."""
    y = a.new_empty(a.shape[0], b.shape[1], dtype=torch.float32)
    matmul[(1,)](a.float().contiguous(), b.float().contiguous(), y, *b.shape, *a.shape, b.shape[1])
    return y.to(a.dtype)


def matmul_function(fault: bool) -> type[Function]:
    class MatMul(Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return multiplied(a, b)

        @staticmethod
        def backward(ctx, dy):
            a, b = ctx.saved_tensors
            return multiplied(dy, b if fault else b.T), multiplied(a.T, dy)

    return MatMul


def swiglu_function(fault: bool) -> type[Function]:
    class SwiGLU(Function):
        @staticmethod
        def forward(ctx, a, b):
            y = torch.empty_like(a)
            swiglu[(triton.cdiv(a.numel(), BLOCK),)](a.contiguous(), b.contiguous(), y, a.numel(), BLOCK)
            ctx.save_for_backward(a, b)
            return y

        @staticmethod
        def backward(ctx, dy):
            a, b = (saved.contiguous() for saved in ctx.saved_tensors)
            da, db = torch.empty_like(a), torch.empty_like(b)
            grid = (triton.cdiv(a.numel(), BLOCK),)
            swiglu_backward[grid](dy.contiguous(), a, b, da, db, a.numel(), BLOCK, not fault)
            return da, db

    return SwiGLU


def rms_norm_function(fault: bool) -> type[Function]:
    class RMSNorm(Function):
        @staticmethod
        def forward(ctx, x, weight):
            x = x.contiguous()
            y = torch.empty_like(x)
            rms_norm[(x.shape[0],)](x, weight.contiguous(), y, x.shape[1], 1e-6, BLOCK)
            ctx.save_for_backward(x, weight.contiguous())
            return y

        @staticmethod
        def backward(ctx, dy):
            x, weight = ctx.saved_tensors
            dx, dweights = torch.empty_like(x), torch.empty_like(x)
            dy, n = dy.contiguous(), x.shape[1]
            rms_norm_backward[(x.shape[0],)](dy, x, weight, dx, dweights, n, 1e-6, BLOCK, not fault)
            return dx, dweights.sum(0)

    return RMSNorm


def softmax_function(fault: bool) -> type[Function]:
    class Softmax(Function):
        @staticmethod
        def forward(ctx, x):
            x = x.contiguous()
            y = torch.empty_like(x)
            softmax[(x.shape[0],)](x, y, x.shape[1], BLOCK)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, dy):
            (y,) = ctx.saved_tensors
            dx, n = torch.empty_like(y), y.shape[1]
            softmax_backward[(y.shape[0],)](dy.contiguous(), y, dx, n, BLOCK, n - 1 if fault else n)
            return dx

    return Softmax


def rotary_function(fault: bool) -> type[Function]:
    class Rotary(Function):
        @staticmethod
        def forward(ctx, x, cos, sin):
            cos, sin, y = cos.contiguous(), sin.contiguous(), x.new_empty(x.shape)
            rotate[(x.shape[0],)](x.contiguous(), cos, sin, y, x.shape[1] // 2, 1, BLOCK)
            ctx.save_for_backward(cos, sin)
            return y

        @staticmethod
        def backward(ctx, dy):
            (cos, sin), dx = ctx.saved_tensors, dy.new_empty(dy.shape)
            rotate[(dy.shape[0],)](dy.contiguous(), cos, sin, dx, dy.shape[1] // 2, 1 if fault else -1, BLOCK)
            return dx, None, None

    return Rotary


def cross_entropy_function(fault: bool) -> type[Function]:
    class CrossEntropy(Function):
        @staticmethod
        def forward(ctx, logits, target):
            logits = logits.contiguous()
            losses, dlogits = logits.new_empty(logits.shape[0]), torch.empty_like(logits)
            cross_entropy[(logits.shape[0],)](logits, target, losses, dlogits, logits.shape[1], 1, BLOCK)
            ctx.save_for_backward(dlogits)
            return losses.mean()

        @staticmethod
        def backward(ctx, dloss):
            (dlogits,) = ctx.saved_tensors
            dlogits = dlogits * dloss if fault else dlogits * dloss / dlogits.shape[0]
            return dlogits, None

    return CrossEntropy
