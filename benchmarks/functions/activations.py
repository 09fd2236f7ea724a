"""Activations with parameters, and norms of other kinds."""

import torch
import torch.nn.functional as F
from torch.autograd import Function


class Swish(Function):
    """With a slope that is learned."""

    @staticmethod
    def forward(ctx, x, beta):
        ctx.save_for_backward(x, beta)
        return x * torch.sigmoid(beta * x)

    @staticmethod
    def backward(ctx, grad_output):
        x, beta = ctx.saved_tensors
        s = torch.sigmoid(beta * x)
        ds = s * (1 - s)
        dx = grad_output * (s + beta * x * ds)
        dbeta = (grad_output * x * x * ds).sum()
        return dx, dbeta


def swish_reference(x, beta):
    return x / (1 + torch.exp(-beta * x))


def swish_inputs(g):
    return {"x": torch.randn(5, 6, generator=g), "beta": torch.tensor(1.3)}


class PReLU(Function):
    """One slope a channel, in the middle axis."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x, slope)
        return torch.where(x > 0, x, slope[None, :, None] * x)

    @staticmethod
    def backward(ctx, dy):
        x, slope = ctx.saved_tensors
        negative = x <= 0
        dx = torch.where(negative, slope[None, :, None] * dy, dy)
        dslope = (dy * x * negative).sum((0, 2))
        return dx, dslope


def p_re_lu_reference(x, slope):
    return F.prelu(x, slope)


def p_re_lu_inputs(g):
    return {"x": torch.randn(2, 3, 5, generator=g), "slope": torch.rand(3, generator=g)}


class GeGLU(Function):
    """A gate through the approximate gelu, in float32."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        x = a.float()
        inner = 0.7978845608 * (x + 0.044715 * x**3)
        return (0.5 * x * (1 + torch.tanh(inner))).to(a.dtype) * b

    @staticmethod
    def backward(ctx, dc):
        a, b = ctx.saved_tensors
        x = a.float()
        inner = 0.7978845608 * (x + 0.044715 * x**3)
        t = torch.tanh(inner)
        gelu = 0.5 * x * (1 + t)
        db = dc * gelu.to(dc.dtype)
        dinner = 0.7978845608 * (1 + 3 * 0.044715 * x**2)
        slope = 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * dinner
        da = dc * b * slope.to(dc.dtype)
        return da, db


def ge_glu_reference(a, b):
    return F.gelu(a, approximate="tanh") * b


def ge_glu_inputs(g):
    return {"a": torch.randn(4, 6, generator=g), "b": torch.randn(4, 6, generator=g)}


class Snake(Function):
    """A periodic activation with one frequency a feature, kept as its logarithm."""

    @staticmethod
    def forward(ctx, x, log_alpha):
        alpha = log_alpha.exp()
        ctx.save_for_backward(x, alpha)
        return x + torch.sin(alpha * x) ** 2 / alpha

    @staticmethod
    def backward(ctx, dy):
        x, alpha = ctx.saved_tensors
        double = torch.sin(2 * alpha * x)
        dx = dy * (1 + double)
        dalpha = dy * (x * double / alpha - torch.sin(alpha * x) ** 2 / alpha**2)
        dlog_alpha = (dalpha * alpha).sum(0)
        return dx, dlog_alpha


def snake_reference(x, log_alpha):
    alpha = torch.exp(log_alpha)
    return x + (1 - torch.cos(2 * alpha * x)) / (2 * alpha)


def snake_inputs(g):
    return {"x": torch.randn(5, 4, generator=g), "log_alpha": 0.4 * torch.randn(4, generator=g)}


class DynamicTanh(Function):
    """A tanh with a scale in the place of a norm."""

    @staticmethod
    def forward(ctx, x, alpha, gamma, beta):
        t = torch.tanh(alpha * x.float()).to(x.dtype)
        ctx.save_for_backward(x, t, alpha, gamma)
        return gamma * t + beta

    @staticmethod
    def backward(ctx, dy):
        x, t, alpha, gamma = ctx.saved_tensors
        dbeta = dy.sum(0)
        dgamma = (dy * t).sum(0)
        dz = dy * gamma * (1 - t * t)
        dalpha = (dz * x).sum()
        dx = dz * alpha
        return dx, dalpha, dgamma, dbeta


def dynamic_tanh_reference(x, alpha, gamma, beta):
    return torch.tanh(x * alpha) * gamma + beta


def dynamic_tanh_inputs(g):
    return {
        "x": torch.randn(5, 6, generator=g),
        "alpha": torch.tensor(0.7),
        "gamma": torch.randn(6, generator=g),
        "beta": torch.randn(6, generator=g),
    }


class BatchNorm(Function):
    """Over the batch; gives its statistics too, for the running ones, without a gradient."""

    @staticmethod
    def forward(ctx, x, gamma, beta, eps):
        mean = x.mean(0)
        var = x.var(0, unbiased=False)
        invstd = torch.rsqrt(var + eps)
        xhat = (x - mean) * invstd
        ctx.save_for_backward(xhat, gamma, invstd)
        ctx.mark_non_differentiable(mean, var)
        return xhat * gamma + beta, mean, var

    @staticmethod
    def backward(ctx, dy, dmean, dvar):
        xhat, gamma, invstd = ctx.saved_tensors
        n = dy.shape[0]
        dbeta = dy.sum(0)
        dgamma = (dy * xhat).sum(0)
        dx = gamma * invstd / n * (n * dy - dbeta - xhat * dgamma)
        return dx, dgamma, dbeta, None


def batch_norm_reference(x, gamma, beta, eps):
    y = F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)
    return y, x.detach().mean(0), x.detach().var(0, correction=0)


def batch_norm_inputs(g):
    return {
        "x": torch.randn(7, 4, generator=g),
        "gamma": torch.randn(4, generator=g),
        "beta": torch.randn(4, generator=g),
        "eps": 1e-5,
    }


class NormFromOutput(Function):
    """Saves its output to save memory, and takes back the weight and the bias."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        u = x.mean(-1, keepdim=True)
        s = (x - u).pow(2).mean(-1, keepdim=True)
        rstd = 1 / torch.sqrt(s + 1e-5)
        out = (x - u) * rstd * weight + bias
        ctx.save_for_backward(out, weight, bias, rstd)
        return out

    @staticmethod
    def backward(ctx, dout):
        out, weight, bias, rstd = ctx.saved_tensors
        xhat = (out - bias) / weight
        dims = tuple(range(dout.ndim - 1))
        dbias = dout.sum(dims)
        dweight = (dout * xhat).sum(dims)
        dxhat = dout * weight
        size = dout.shape[-1]
        sum1 = dxhat.sum(-1, keepdim=True)
        sum2 = (dxhat * xhat).sum(-1, keepdim=True)
        dx = (size * dxhat - sum1 - xhat * sum2) * rstd / size
        return dx, dweight, dbias


def norm_from_output_reference(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def norm_from_output_inputs(g):
    return {
        "x": torch.randn(2, 3, 6, generator=g),
        "weight": torch.rand(6, generator=g) + 0.5,
        "bias": torch.randn(6, generator=g),
    }


class HeadNorm(Function):
    """Normalises queries and keys head by head, in place of a layout of its own."""

    @staticmethod
    def forward(ctx, q, k, qw, kw):
        found, saved = [], []
        for x, w in ((q, qw), (k, kw)):
            xf = x.float()
            r = torch.rsqrt(xf.square().mean(-1, keepdim=True) + 1e-6)
            saved += [xf * r, r, w]
            found.append((xf * r * w.float()).to(x.dtype).transpose(1, 2))
        ctx.save_for_backward(*saved)
        return tuple(found)

    @staticmethod
    def backward(ctx, dq_t, dk_t):
        qhat, qr, qw, khat, kr, kw = ctx.saved_tensors
        dq_in = dq_t.transpose(1, 2).float()
        dk_in = dk_t.transpose(1, 2).float()
        dqw = (dq_in * qhat).sum((0, 1, 2))
        dkw = (dk_in * khat).sum((0, 1, 2))
        gq, gk = dq_in * qw.float(), dk_in * kw.float()
        dq = qr * (gq - qhat * (gq * qhat).mean(-1, keepdim=True))
        dk = kr * (gk - khat * (gk * khat).mean(-1, keepdim=True))
        return dq.to(dq_t.dtype), dk.to(dk_t.dtype), dqw.to(qw.dtype), dkw.to(kw.dtype)


def head_norm_reference(q, k, qw, kw):
    q = F.rms_norm(q, q.shape[-1:], qw, 1e-6).transpose(1, 2)
    return q, F.rms_norm(k, k.shape[-1:], kw, 1e-6).transpose(1, 2)


def head_norm_inputs(g):
    return {
        "q": torch.randn(2, 3, 4, 5, generator=g),
        "k": torch.randn(2, 3, 2, 5, generator=g),
        "qw": torch.randn(5, generator=g),
        "kw": torch.randn(5, generator=g),
    }
