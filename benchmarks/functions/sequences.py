"""Attention, rotary embeddings, scans and products of matrices."""

import torch
import torch.nn.functional as F
from torch.autograd import Function


def rotate_half(x):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([-b, a], dim=-1)


class Rotary(Function):
    """Turns pairs of features; the backward turns back."""

    @staticmethod
    def forward(ctx, q, cos, sin):
        ctx.save_for_backward(cos, sin)
        return q * cos + rotate_half(q) * sin

    @staticmethod
    def backward(ctx, dy):
        cos, sin = ctx.saved_tensors
        turned = dy * sin
        dq = dy * cos - rotate_half(turned)
        return dq, None, None


def rotary_reference(q, cos, sin):
    a, b = q.chunk(2, dim=-1)
    turned = torch.cat([-b, a], dim=-1)
    return q * cos.detach() + turned * sin.detach()


def rotary_inputs(g):
    return {
        "q": torch.randn(2, 5, 6, generator=g),
        "cos": torch.randn(5, 6, generator=g),
        "sin": torch.randn(5, 6, generator=g),
    }


class ScaledMaskedSoftmax(Function):
    """Masks, scales and normalises; keeps its output."""

    @staticmethod
    def forward(ctx, x, scale):
        mask = torch.ones_like(x, dtype=torch.bool).triu(1)
        p = torch.softmax((x * scale).masked_fill(mask, float("-inf")), -1)
        ctx.save_for_backward(p)
        ctx.scale = scale
        return p

    @staticmethod
    def backward(ctx, dp):
        (p,) = ctx.saved_tensors
        inner = (dp * p).sum(-1, keepdim=True)
        dx = p * (dp - inner)
        dx = dx * ctx.scale
        return dx, None


def scaled_masked_softmax_reference(x, scale):
    mask = torch.full_like(x, float("-inf")).triu(1)
    return torch.softmax(x * scale + mask, -1)


def scaled_masked_softmax_inputs(g):
    return {"x": torch.randn(2, 4, 4, generator=g), "scale": 0.5}


class Attention(Function):
    """Recomputes the probabilities from the log of their sum."""

    @staticmethod
    def forward(ctx, q, k, v, scale):
        s = q @ k.mT * scale
        lse = torch.logsumexp(s, -1, keepdim=True)
        o = torch.exp(s - lse) @ v
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.scale = scale
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, o, lse = ctx.saved_tensors
        p = torch.exp(q @ k.mT * ctx.scale - lse)
        dv = p.mT @ do
        dp = do @ v.mT
        delta = (do * o).sum(-1, keepdim=True)
        ds = p * (dp - delta)
        dq = ds @ k * ctx.scale
        dk = ds.mT @ q * ctx.scale
        return dq, dk, dv, None


def attention_reference(q, k, v, scale):
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def attention_inputs(g):
    return {
        "q": torch.randn(2, 5, 3, generator=g),
        "k": torch.randn(2, 4, 3, generator=g),
        "v": torch.randn(2, 4, 6, generator=g),
        "scale": 0.7,
    }


class DecayScan(Function):
    """A linear recurrence over time with a decay of its own at each step."""

    @staticmethod
    def forward(ctx, x, a):
        h = torch.zeros_like(x[0])
        hs = []
        for t in range(x.shape[0]):
            h = a[t] * h + x[t]
            hs.append(h)
        y = torch.stack(hs)
        ctx.save_for_backward(a, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        a, y = ctx.saved_tensors
        dx, da = torch.empty_like(y), torch.zeros_like(a)
        dh = torch.zeros_like(y[0])
        for t in range(y.shape[0] - 1, -1, -1):
            dh = dh + dy[t]
            dx[t] = dh
            if t > 0:
                da[t] = dh * y[t - 1]
            dh = dh * a[t]
        return dx, da


def decay_scan_reference(x, a):
    h = torch.zeros_like(x[0])
    hs = []
    for t in range(x.shape[0]):
        h = a[t] * h + x[t]
        hs.append(h)
    return torch.stack(hs)


def decay_scan_inputs(g):
    return {"x": torch.randn(5, 3, generator=g), "a": torch.rand(5, 3, generator=g)}


class Gather(Function):
    """Takes rows by number, and adds what comes back."""

    @staticmethod
    def forward(ctx, table, index):
        ctx.save_for_backward(index)
        ctx.rows = table.shape[0]
        return table[index]

    @staticmethod
    def backward(ctx, dy):
        (index,) = ctx.saved_tensors
        dtable = dy.new_zeros(ctx.rows, dy.shape[-1])
        dtable.index_add_(0, index, dy)
        return dtable, None


def gather_reference(table, index):
    return F.embedding(index, table)


def gather_inputs(g):
    return {"table": torch.randn(5, 4, generator=g), "index": torch.randint(0, 5, (9,), generator=g)}


class Convolution(Function):
    """A short causal convolution, one kernel for each channel."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        k = w.shape[-1]
        padded = F.pad(x, (k - 1, 0))
        windows = padded.unfold(-1, k, 1)
        return (windows * w[:, None, :]).sum(-1) + b[:, None]

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        k = w.shape[-1]
        windows = F.pad(x, (k - 1, 0)).unfold(-1, k, 1)
        dw = (windows * dy[..., None]).sum((0, 2))
        db = dy.sum((0, 2))
        later = F.pad(dy, (0, k - 1)).unfold(-1, k, 1)
        dx = (later * w.flip(-1)[:, None, :]).sum(-1)
        return dx, dw, db


def convolution_reference(x, w, b):
    k = w.shape[-1]
    return F.conv1d(F.pad(x, (k - 1, 0)), w[:, None, :], b, groups=x.shape[1])


def convolution_inputs(g):
    return {
        "x": torch.randn(2, 3, 6, generator=g),
        "w": torch.randn(3, 4, generator=g),
        "b": torch.randn(3, generator=g),
    }
