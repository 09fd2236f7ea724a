"""Normalisations, most of them in float32 inside, as kernels compute."""

import torch
import torch.nn.functional as F
from torch.autograd import Function


class LayerNorm(Function):
    """Saves what is normalised."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        mean = x.mean(-1, keepdim=True)
        rstd = ((x - mean).square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        xhat = (x - mean) * rstd
        ctx.save_for_backward(xhat, rstd, weight)
        return xhat * weight + bias

    @staticmethod
    def backward(ctx, dy):
        xhat, rstd, weight = ctx.saved_tensors
        wdy = dy * weight
        c1 = (wdy * xhat).mean(-1, keepdim=True)
        c2 = wdy.mean(-1, keepdim=True)
        dx = (wdy - xhat * c1 - c2) * rstd
        dw = (dy * xhat).sum(0)
        db = dy.sum(0)
        return dx, dw, db


def layer_norm_reference(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def layer_norm_inputs(g):
    return {
        "x": torch.randn(5, 7, generator=g),
        "weight": torch.randn(7, generator=g),
        "bias": torch.randn(7, generator=g),
    }


class RMSNorm(Function):
    """Casts to float32 on the way in, and back on the way out."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        xf = x.float()
        rstd = torch.rsqrt(xf.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, rstd)
        return (xf * rstd).to(x.dtype) * weight

    @staticmethod
    def backward(ctx, grad_output):
        x, weight, rstd = ctx.saved_tensors
        xf = x.float()
        g = grad_output.float()
        xhat = xf * rstd
        gw = g * weight.float()
        dot = (gw * xhat).sum(-1, keepdim=True)
        dx = rstd * (gw - xhat * dot / x.shape[-1])
        dweight = (g * xhat).sum(0)
        return dx.to(x.dtype), dweight.to(weight.dtype), None


def rms_norm_reference(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rms_norm_inputs(g):
    return {"x": torch.randn(6, 5, generator=g), "weight": torch.randn(5, generator=g), "eps": 1e-6}


class GemmaNorm(Function):
    """Its weight is off by one; it recomputes the scale."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        h = x.float()
        scale = torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)
        return (h * scale * (1.0 + weight.float())).type_as(x)

    @staticmethod
    def backward(ctx, dout):
        x, weight = ctx.saved_tensors
        h, dy = x.float(), dout.float()
        scale = torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)
        normed = h * scale
        dnormed = dy * (1.0 + weight.float())
        dh = scale * (dnormed - normed * (dnormed * normed).mean(-1, keepdim=True))
        dweight = (dy * normed).sum((0, 1))
        return dh.type_as(x), dweight.type_as(weight)


def gemma_norm_reference(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + weight)


def gemma_norm_inputs(g):
    return {"x": torch.randn(2, 3, 6, generator=g), "weight": torch.randn(6, generator=g)}


class AddNorm(Function):
    """Adds a residual, and returns the sum beside the norm."""

    @staticmethod
    def forward(ctx, x, residual, weight):
        h = x + residual
        rstd = torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-5)
        ctx.save_for_backward(h, rstd, weight)
        return h * rstd * weight, h

    @staticmethod
    def backward(ctx, dy, dres):
        h, rstd, weight = ctx.saved_tensors
        xhat = h * rstd
        wdy = weight * dy
        c = (wdy * xhat).mean(-1, keepdim=True)
        dh = (wdy - xhat * c) * rstd
        dh = dh + dres
        dweight = (dy * xhat).sum(0)
        return dh, dh, dweight


def add_norm_reference(x, residual, weight):
    h = x + residual
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-5) * weight, h


def add_norm_inputs(g):
    return {
        "x": torch.randn(5, 6, generator=g),
        "residual": torch.randn(5, 6, generator=g),
        "weight": torch.randn(6, generator=g),
    }


class GatedNorm(Function):
    """A norm times a silu of a gate."""

    @staticmethod
    def forward(ctx, x, z, weight):
        rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
        ctx.save_for_backward(x, z, weight, rstd)
        return x * rstd * weight * z * torch.sigmoid(z)

    @staticmethod
    def backward(ctx, do):
        x, z, weight, rstd = ctx.saved_tensors
        sig = torch.sigmoid(z)
        xhat = x * rstd
        dz = do * xhat * weight * sig * (1 + z * (1 - sig))
        dy = do * z * sig
        dw = (dy * xhat).sum(0)
        wdy = dy * weight
        dx = (wdy - xhat * (wdy * xhat).mean(-1, keepdim=True)) * rstd
        return dx, dz, dw


def gated_norm_reference(x, z, weight):
    return F.rms_norm(x, x.shape[-1:], weight, 1e-5) * F.silu(z)


def gated_norm_inputs(g):
    return {
        "x": torch.randn(4, 5, generator=g),
        "z": torch.randn(4, 5, generator=g),
        "weight": torch.randn(5, generator=g),
    }


class L2Norm(Function):
    """Divides rows by their length, and keeps its output."""

    @staticmethod
    def forward(ctx, x):
        inv = 1.0 / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        y = x * inv
        ctx.save_for_backward(y, inv)
        return y

    @staticmethod
    def backward(ctx, dy):
        y, inv = ctx.saved_tensors
        along = (dy * y).sum(-1, keepdim=True)
        return inv * (dy - y * along)


def l2_norm_reference(x):
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def l2_norm_inputs(g):
    return {"x": torch.randn(4, 6, generator=g)}


class GroupNorm(Function):
    """Views channels as groups."""

    @staticmethod
    def forward(ctx, x, weight, bias, groups):
        n, c = x.shape[:2]
        xg = x.reshape(n, groups, -1)
        mean = xg.mean(-1, keepdim=True)
        rstd = (xg.var(-1, keepdim=True, correction=0) + 1e-5).rsqrt()
        xhat = ((xg - mean) * rstd).reshape(n, c, -1)
        ctx.save_for_backward(xhat, rstd, weight)
        ctx.groups = groups
        return (xhat * weight[:, None] + bias[:, None]).reshape(x.shape)

    @staticmethod
    def backward(ctx, grad):
        xhat, rstd, weight = ctx.saved_tensors
        n, c = grad.shape[:2]
        dy = grad.reshape(n, c, -1)
        dweight = (dy * xhat).sum((0, 2))
        dbias = dy.sum((0, 2))
        dxhat = (dy * weight[:, None]).reshape(n, ctx.groups, -1)
        hat = xhat.reshape(n, ctx.groups, -1)
        m1 = dxhat.mean(-1, keepdim=True)
        m2 = (dxhat * hat).mean(-1, keepdim=True)
        dx = rstd * (dxhat - m1 - hat * m2)
        return dx.reshape(grad.shape), dweight, dbias, None


def group_norm_reference(x, weight, bias, groups):
    return F.group_norm(x, groups, weight, bias)


def group_norm_inputs(g):
    return {
        "x": torch.randn(2, 6, 5, generator=g),
        "weight": torch.randn(6, generator=g),
        "bias": torch.randn(6, generator=g),
        "groups": 2,
    }
