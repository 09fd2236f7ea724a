"""Activations and gated layers: constants of eight digits, tensors kept in float32, results in place."""

import torch
import torch.nn.functional as F
from torch.autograd import Function


class GeluTanh(Function):
    """The approximation by a tanh, with its constant in eight digits."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 0.5 * x * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        t = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
        inner = 0.79788456 + 0.1070322243 * x * x
        ff = 0.5 * x * ((1 - t * t) * inner) + 0.5 * (1 + t)
        return ff * g


def gelu_tanh_reference(x):
    return F.gelu(x, approximate="tanh")


def gelu_tanh_inputs(g):
    return {"x": torch.randn(6, 7, generator=g)}


class BiasGelu(Function):
    """A bias and a gelu in one; both have one gradient, summed for the bias."""

    @staticmethod
    def forward(ctx, x, bias):
        ctx.save_for_backward(x, bias)
        z = x + bias
        return z * 0.5 * (1.0 + torch.erf(z * 0.70710678))

    @staticmethod
    def backward(ctx, grad_output):
        x, bias = ctx.saved_tensors
        z = x + bias
        cdf = 0.5 * (1.0 + torch.erf(z * 0.70710678))
        pdf = torch.exp(-0.5 * z * z) * 0.39894228
        tmp = (cdf + z * pdf) * grad_output
        return tmp, tmp.sum(0)


def bias_gelu_reference(x, bias):
    return F.gelu(x + bias)


def bias_gelu_inputs(g):
    return {"x": torch.randn(5, 6, generator=g), "bias": torch.randn(6, generator=g)}


class SwiGLU(Function):
    """Recomputes the activation."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate.float()).to(gate.dtype) * up

    @staticmethod
    def backward(ctx, dc):
        gate, up = ctx.saved_tensors
        g = gate.float()
        sig = torch.sigmoid(g)
        silu = g * sig
        dup = dc * silu
        dgate = dc * up * (silu * (1 - sig) + sig)
        return dgate.to(gate.dtype), dup.to(up.dtype)


def swi_glu_reference(gate, up):
    return F.silu(gate) * up


def swi_glu_inputs(g):
    return {"gate": torch.randn(5, 8, generator=g), "up": torch.randn(5, 8, generator=g)}


class PackedGLU(Function):
    """Halves of one tensor, written into one buffer."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        a, b = x.chunk(2, dim=-1)
        return a * torch.sigmoid(b)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        a, b = x.chunk(2, dim=-1)
        s = torch.sigmoid(b)
        da = dy * s
        db = dy * a * s * (1 - s)
        return torch.cat([da, db], dim=-1)


def packed_glu_reference(x):
    return F.glu(x, -1)


def packed_glu_inputs(g):
    return {"x": torch.randn(5, 8, generator=g)}


class SquaredReLU(Function):
    """Works on a clone in place."""

    @staticmethod
    def forward(ctx, x):
        r = x.clamp(min=0)
        ctx.save_for_backward(r)
        return r * r

    @staticmethod
    def backward(ctx, dy):
        (r,) = ctx.saved_tensors
        dx = dy.clone()
        dx.mul_(r)
        dx.mul_(2.0)
        return dx


def squared_relu_reference(x):
    return F.relu(x).square()


def squared_relu_inputs(g):
    return {"x": torch.randn(6, 5, generator=g)}


class Mish(Function):
    """A tanh of a softplus."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.tanh(F.softplus(x))

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        t = torch.tanh(F.softplus(x))
        s = torch.sigmoid(x)
        grad = t + x * s * (1 - t * t)
        return dy * grad


def mish_reference(x):
    return F.mish(x)


def mish_inputs(g):
    return {"x": torch.randn(4, 9, generator=g)}


class Linear(Function):
    """A linear layer under autocast, which asks which gradients are needed."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return x @ weight.t() + bias

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = dy @ weight
        if ctx.needs_input_grad[1]:
            dweight = dy.t() @ x
        if ctx.needs_input_grad[2]:
            dbias = dy.sum(0)
        return dx, dweight, dbias


def linear_reference(x, weight, bias):
    return F.linear(x, weight, bias)


def linear_inputs(g):
    return {
        "x": torch.randn(5, 3, generator=g),
        "weight": torch.randn(4, 3, generator=g),
        "bias": torch.randn(4, generator=g),
    }


class LoRA(Function):
    """A frozen weight beside two small ones."""

    @staticmethod
    def forward(ctx, x, W, A, B, s):
        ctx.save_for_backward(x, A, B, W)
        ctx.s = s
        return x @ W.t() + s * (x @ A.t()) @ B.t()

    @staticmethod
    def backward(ctx, dY):
        X, A, B, W = ctx.saved_tensors
        s = ctx.s
        dYB = dY @ B
        dA = dYB.t() @ X
        dA *= s
        dB = dY.t() @ (X @ A.t())
        dB *= s
        dX = dY @ W
        dX += s * dYB @ A
        return dX, None, dA, dB, None


def lo_ra_reference(x, W, A, B, s):
    return x @ (W.detach() + s * B @ A).t()


def lo_ra_inputs(g):
    return {
        "x": torch.randn(5, 6, generator=g),
        "W": torch.randn(4, 6, generator=g),
        "A": torch.randn(2, 6, generator=g),
        "B": torch.randn(4, 2, generator=g),
        "s": 0.5,
    }
