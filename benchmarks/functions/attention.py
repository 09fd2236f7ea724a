"""Attention in other forms: causal, grouped heads, turned layouts, blocks, linear ones, rotary pairs."""

import torch
import torch.nn.functional as F
from torch.autograd import Function


class CausalAttention(Function):
    """Heads come third, as a projection leaves them; turned round inside."""

    @staticmethod
    def forward(ctx, q, k, v):
        scale = q.shape[-1] ** -0.5
        qh, kh, vh = (x.permute(0, 2, 1, 3).float() for x in (q, k, v))
        s = torch.matmul(qh, kh.transpose(-1, -2)) * scale
        keep = torch.ones_like(s, dtype=torch.bool).tril()
        s = s.masked_fill(~keep, float("-inf"))
        lse = torch.logsumexp(s, dim=-1, keepdim=True)
        p = torch.exp(s - lse)
        o = torch.matmul(p, vh)
        ctx.save_for_backward(qh, kh, vh, o, lse)
        return o.permute(0, 2, 1, 3).to(q.dtype)

    @staticmethod
    def backward(ctx, dout):
        qh, kh, vh, o, lse = ctx.saved_tensors
        scale = qh.shape[-1] ** -0.5
        do = dout.permute(0, 2, 1, 3).float()
        s = torch.matmul(qh, kh.transpose(-1, -2)) * scale
        keep = torch.ones_like(s, dtype=torch.bool).tril()
        p = torch.exp(s - lse).masked_fill(~keep, 0.0)
        dv = torch.matmul(p.transpose(-1, -2), do)
        dp = torch.matmul(do, vh.transpose(-1, -2))
        delta = (o * do).sum(-1, keepdim=True)
        ds = p * (dp - delta) * scale
        dq = torch.matmul(ds, kh)
        dk = torch.matmul(ds.transpose(-1, -2), qh)
        dq, dk, dv = (x.permute(0, 2, 1, 3).to(dout.dtype) for x in (dq, dk, dv))
        return dq, dk, dv


def causal_attention_reference(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def causal_attention_inputs(g):
    return {name: torch.randn(2, 5, 3, 4, generator=g) for name in ("q", "k", "v")}


class GroupedAttention(Function):
    """Several query heads share a key and a value head."""

    @staticmethod
    def forward(ctx, q, k, v):
        b, h, n, d = q.shape
        groups = h // k.shape[1]
        kr = k.repeat_interleave(groups, dim=1)
        vr = v.repeat_interleave(groups, dim=1)
        p = torch.softmax(q @ kr.mT / d**0.5, -1)
        ctx.save_for_backward(q, kr, vr, p)
        ctx.groups = groups
        return p @ vr

    @staticmethod
    def backward(ctx, do):
        q, kr, vr, p = ctx.saved_tensors
        b, h, n, d = q.shape
        kv = h // ctx.groups
        dvr = p.mT @ do
        dp = do @ vr.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True))
        ds = ds / d**0.5
        dq = ds @ kr
        dkr = ds.mT @ q
        dk = dkr.view(b, kv, ctx.groups, -1, d).sum(2)
        dv = dvr.view(b, kv, ctx.groups, -1, dvr.shape[-1]).sum(2)
        return dq, dk, dv


def grouped_attention_reference(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def grouped_attention_inputs(g):
    return {
        "q": torch.randn(2, 4, 3, 5, generator=g),
        "k": torch.randn(2, 2, 6, 5, generator=g),
        "v": torch.randn(2, 2, 6, 5, generator=g),
    }


class BlockedAttention(Function):
    """Goes through the keys block by block, with a running maximum and sum; the backward again so."""

    @staticmethod
    def forward(ctx, q, k, v, block):
        scale = q.shape[-1] ** -0.5
        o = q.new_zeros(q.shape[0], v.shape[1])
        m = q.new_full((q.shape[0], 1), float("-inf"))
        total = q.new_zeros(q.shape[0], 1)
        for start in range(0, k.shape[0], block):
            s = q @ k[start : start + block].T * scale
            new = torch.maximum(m, s.amax(1, keepdim=True))
            p = torch.exp(s - new)
            rescale = torch.exp(m - new)
            total = total * rescale + p.sum(1, keepdim=True)
            o = o * rescale + p @ v[start : start + block]
            m = new
        o = o / total
        ctx.save_for_backward(q, k, v, o, m + total.log())
        ctx.block = block
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, o, lse = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        dq, dk, dv = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v)
        delta = (do * o).sum(1, keepdim=True)
        for start in range(0, k.shape[0], ctx.block):
            stop = start + ctx.block
            kb, vb = k[start:stop], v[start:stop]
            p = torch.exp(q @ kb.T * scale - lse)
            dv[start:stop] = p.T @ do
            ds = p * (do @ vb.T - delta) * scale
            dq += ds @ kb
            dk[start:stop] = ds.T @ q
        return dq, dk, dv, None


def blocked_attention_reference(q, k, v, block):
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1) @ v


def blocked_attention_inputs(g):
    return {
        "q": torch.randn(4, 3, generator=g),
        "k": torch.randn(7, 3, generator=g),
        "v": torch.randn(7, 5, generator=g),
        "block": 3,
    }


class LinearAttention(Function):
    """Causal, without a softmax, normalised by the sum of the keys."""

    @staticmethod
    def forward(ctx, q, k, v):
        phi_q, phi_k = torch.relu(q) + 1, torch.relu(k) + 1
        kv = torch.einsum("nd,ne->nde", phi_k, v).cumsum(0)
        z = phi_k.cumsum(0)
        norm = (phi_q * z).sum(-1, keepdim=True)
        o = torch.einsum("nd,nde->ne", phi_q, kv) / norm
        ctx.save_for_backward(q, k, v, kv, z, norm, o)
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, kv, z, norm, o = ctx.saved_tensors
        phi_q, phi_k = torch.relu(q) + 1, torch.relu(k) + 1
        dnum = do / norm
        dnorm = -(dnum * o).sum(-1, keepdim=True)
        dphi_q = torch.einsum("ne,nde->nd", dnum, kv) + dnorm * z
        dkv = torch.einsum("nd,ne->nde", phi_q, dnum).flip(0).cumsum(0).flip(0)
        dz = (dnorm * phi_q).flip(0).cumsum(0).flip(0)
        dphi_k = torch.einsum("nde,ne->nd", dkv, v) + dz
        dv = torch.einsum("nde,nd->ne", dkv, phi_k)
        dq = dphi_q * (q > 0)
        dk = dphi_k * (k > 0)
        return dq, dk, dv


def linear_attention_reference(q, k, v):
    phi_q, phi_k = torch.relu(q) + 1, torch.relu(k) + 1
    s = (phi_q @ phi_k.T).tril()
    return s @ v / s.sum(-1, keepdim=True)


def linear_attention_inputs(g):
    return {
        "q": torch.randn(5, 3, generator=g),
        "k": torch.randn(5, 3, generator=g),
        "v": torch.randn(5, 4, generator=g),
    }


class RotaryPair(Function):
    """Turns queries and keys at once, half by half, each into a buffer of its own."""

    @staticmethod
    def forward(ctx, q, k, cos, sin):
        half = q.shape[-1] // 2
        out_q, out_k = torch.empty_like(q), torch.empty_like(k)
        for out, x in ((out_q, q), (out_k, k)):
            x1, x2 = x[..., :half], x[..., half:]
            out[..., :half] = x1 * cos - x2 * sin
            out[..., half:] = x2 * cos + x1 * sin
        ctx.save_for_backward(cos, sin)
        return out_q, out_k

    @staticmethod
    def backward(ctx, dq_out, dk_out):
        cos, sin = ctx.saved_tensors
        half = cos.shape[-1]
        q1, q2 = dq_out[..., :half], dq_out[..., half:]
        k1, k2 = dk_out[..., :half], dk_out[..., half:]
        dq1 = q1 * cos + q2 * sin
        dq2 = q2 * cos - q1 * sin
        dk1 = k1 * cos + k2 * sin
        dk2 = k2 * cos - k1 * sin
        dq = torch.cat((dq1, dq2), dim=-1)
        dk = torch.cat((dk1, dk2), dim=-1)
        return dq, dk, None, None


def rotary_pair_reference(q, k, cos, sin):
    cos, sin = (torch.cat([t.detach(), t.detach()], -1) for t in (cos, sin))

    def turned(x):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    return turned(q), turned(k)


def rotary_pair_inputs(g):
    angles = torch.rand(4, 3, generator=g)
    return {
        "q": torch.randn(2, 4, 6, generator=g),
        "k": torch.randn(2, 4, 6, generator=g),
        "cos": angles.cos(),
        "sin": angles.sin(),
    }


class InterleavedRotary(Function):
    """Even and odd features are pairs; one head after another."""

    @staticmethod
    def forward(ctx, x, freqs):
        cos, sin = freqs.cos()[:, None], freqs.sin()[:, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        ctx.save_for_backward(cos, sin)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        ge, go = grad[..., 0::2], grad[..., 1::2]
        dx = torch.empty_like(grad)
        dx[..., 0::2] = ge * cos + go * sin
        dx[..., 1::2] = go * cos - ge * sin
        return dx, None


def interleaved_rotary_reference(x, freqs):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turns = torch.polar(torch.ones_like(freqs), freqs.detach())
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2)


def interleaved_rotary_inputs(g):
    return {"x": torch.randn(5, 2, 6, generator=g), "freqs": torch.rand(5, 3, generator=g)}
