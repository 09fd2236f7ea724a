"""Complex tensors: a Function on them has its line and its mistake, as one on real ones has."""

from typing import Any

import pytest
import torch

import backhand
from altered import from_text
from backhand.checking.report import Row

FUNCTIONS = '''
import torch
from torch.autograd import Function


class Turned(Function):
    """A linear layer of complex numbers, each output gated by a size; wrong ones are changed in one line."""

    @staticmethod
    def forward(ctx, z, W, gate):
        product = z @ W.T
        ctx.save_for_backward(z, W, gate, product)
        return product * gate

    @staticmethod
    def backward(ctx, dy):
        z, W, gate, product = ctx.saved_tensors
        dgate = (dy * product.conj()).real.sum(0)
        dproduct = dy * gate
        dz = dproduct @ W.conj()
        dW = dproduct.T @ z.conj()
        return dz, dW, dgate


def turned(z, W, gate):
    return (z @ W.T) * gate


def turned_inputs():
    g = torch.Generator().manual_seed(0)
    z, W = (torch.randn(n, 3, generator=g, dtype=torch.complex64) for n in (4, 2))
    return {"z": z, "W": W, "gate": torch.randn(2, generator=g)}


class Spectrum(Function):
    """A circular convolution by its spectra: all that is complex is made on the way."""

    @staticmethod
    def forward(ctx, u, kernel):
        uf, kf = torch.fft.rfft(u), torch.fft.rfft(kernel)
        ctx.save_for_backward(uf, kf)
        ctx.length = u.shape[-1]
        return torch.fft.irfft(uf * kf, n=ctx.length)

    @staticmethod
    def backward(ctx, dy):
        uf, kf = ctx.saved_tensors
        dyf = torch.fft.rfft(dy)
        duf = dyf * kf.conj()
        dkf = (dyf * uf.conj()).sum(0)
        du = torch.fft.irfft(duf, n=ctx.length)
        dkernel = torch.fft.irfft(dkf, n=ctx.length)
        return du, dkernel


def spectrum(u, kernel):
    n = u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u) * torch.fft.rfft(kernel), n=n)


def spectrum_inputs():
    g = torch.Generator().manual_seed(0)
    return {"u": torch.randn(3, 7, generator=g), "kernel": torch.randn(7, generator=g)}


class Pairs(Function):
    """Turns pairs of features, the angles of which have no gradient by its reference."""

    @staticmethod
    def forward(ctx, q, angles):
        turn = torch.polar(torch.ones_like(angles), angles)
        ctx.save_for_backward(turn)
        pairs = torch.complex(q[..., 0::2], q[..., 1::2])
        return torch.view_as_real(pairs * turn).flatten(-2)

    @staticmethod
    def backward(ctx, dy):
        (turn,) = ctx.saved_tensors
        darriving = torch.complex(dy[..., 0::2], dy[..., 1::2])
        dpairs = darriving * turn.conj()
        return torch.view_as_real(dpairs).flatten(-2), None


def pairs(q, angles):
    cos, sin = angles.detach().cos(), angles.detach().sin()
    a, b = q[..., 0::2], q[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


def pairs_inputs():
    g = torch.Generator().manual_seed(0)
    return {"q": torch.randn(3, 5, 6, generator=g), "angles": torch.randn(5, 3, generator=g)}
'''


def checked(name: str, *changes: tuple[str, str]) -> backhand.Report:
    text = FUNCTIONS
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    module: Any = from_text(text)
    fn, reference, inputs = (getattr(module, n) for n in (name, name.lower(), f"{name.lower()}_inputs"))
    return backhand.check_function(fn, reference, inputs())


def culprit_of(name: str, old: str, new: str) -> Row:
    (row,) = checked(name, (old, new)).culprits
    return row


@pytest.mark.parametrize("name", ["Turned", "Spectrum", "Pairs"])
def test_a_right_function_of_complex_numbers_is_right(name: str) -> None:
    assert checked(name).ok


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("Turned", "dproduct @ W.conj()", "dproduct @ W", "`W` stands where its conjugate belongs"),
        ("Turned", "dproduct.T @ z.conj()", "dproduct.T @ z", "`z` stands where its conjugate belongs"),
        ("Turned", "dy * gate", "dy.conj() * gate", "the conjugate is one too many"),
        (
            "Turned",
            "(dy * product.conj()).real",
            "(dy * product.conj()).imag",
            "`(dy * product.conj()).real`",
        ),
        ("Spectrum", "dyf * kf.conj()", "dyf * kf", "`kf` stands where its conjugate belongs"),
        ("Spectrum", "dyf * uf.conj()", "dyf", "the factor uf.conj() is missing"),
        (
            "Spectrum",
            "irfft(duf, n=ctx.length)",
            "irfft(duf, n=ctx.length) / ctx.length",
            "the right gradient times",
        ),
        ("Pairs", "darriving * turn.conj()", "darriving * turn", "`turn` stands where its conjugate belongs"),
    ],
)
def test_a_slip_of_complex_numbers_has_its_line_and_its_name(
    name: str, old: str, new: str, words: str
) -> None:
    row = culprit_of(name, old, new)
    assert row.mistake is not None
    assert words in row.mistake.message
    assert new in row.lines[0].text


def test_an_element_of_a_complex_gradient_is_told_as_one_number() -> None:
    row = culprit_of("Turned", "dproduct @ W.conj()", "dproduct @ W")
    assert row.mistake is not None
    assert "j, found " in row.mistake.message


def test_a_complex_input_of_two_functions_is_judged() -> None:
    forward = "def forward(z):\n    size = z * z.conj()\n    loss = size.real.sum()\n    return locals()\n"
    backward = "def backward(z):\n    dz = 2 * z\n    return locals()\n"
    z = torch.randn(4, 2, dtype=torch.complex64)
    assert backhand.check(from_text(forward + backward), inputs={"z": z}).ok
    wrong = from_text(forward + backward.replace("2 * z", "2 * z.conj()"))
    report = backhand.check(wrong, inputs={"z": z})
    assert report["z"].verdict == "wrong"
