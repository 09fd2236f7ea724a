"""Functions of real tensors that compute with complex ones on the way."""

import torch
from torch.autograd import Function


class LongConvolution(Function):
    """A causal convolution as long as the sequence, by the spectra of both; keeps the spectra."""

    @staticmethod
    def forward(ctx, x, kernel):
        length = x.shape[-1]
        xf = torch.fft.rfft(x, n=2 * length)
        kf = torch.fft.rfft(kernel, n=2 * length)
        y = torch.fft.irfft(xf * kf, n=2 * length)[..., :length]
        ctx.save_for_backward(xf, kf)
        ctx.length = length
        return y

    @staticmethod
    def backward(ctx, dy):
        xf, kf = ctx.saved_tensors
        twice = 2 * ctx.length
        dyf = torch.fft.rfft(dy, n=twice)
        dxf = dyf * kf.conj()
        dkf = (dyf * xf.conj()).sum(0)
        dx = torch.fft.irfft(dxf, n=twice)[..., : ctx.length]
        dkernel = torch.fft.irfft(dkf, n=twice)[..., : ctx.length]
        return dx, dkernel


def long_convolution_reference(x, kernel):
    length = x.shape[-1]
    rows = [torch.nn.functional.pad(kernel, (i, 0))[..., :length] for i in range(length)]
    return torch.einsum("bcs,scl->bcl", x, torch.stack(rows))


def long_convolution_inputs(g):
    return {"x": torch.randn(3, 2, 6, generator=g), "kernel": torch.randn(2, 6, generator=g)}


class Turning(Function):
    """Turns pairs of features by learned angles, as complex numbers of size one."""

    @staticmethod
    def forward(ctx, q, angles):
        pairs = torch.complex(q[..., 0::2], q[..., 1::2])
        turn = torch.polar(torch.ones_like(angles), angles)
        turned = pairs * turn
        ctx.save_for_backward(turn, turned)
        return torch.stack((turned.real, turned.imag), -1).flatten(-2)

    @staticmethod
    def backward(ctx, dy):
        turn, turned = ctx.saved_tensors
        dturned = torch.complex(dy[..., 0::2], dy[..., 1::2])
        dpairs = dturned * turn.conj()
        dangles = (dturned * turned.conj()).imag
        dangles = dangles.sum(0)
        dq = torch.stack((dpairs.real, dpairs.imag), -1).flatten(-2)
        return dq, dangles


def turning_reference(q, angles):
    a, b = q[..., 0::2], q[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def turning_inputs(g):
    return {"q": torch.randn(3, 4, 6, generator=g), "angles": torch.randn(4, 3, generator=g)}
