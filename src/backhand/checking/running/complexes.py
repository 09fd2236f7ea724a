"""Complex tensors: which tensors may have a gradient, and complex ones as pairs of real numbers.

The gradient of a complex tensor z = a + i b is dL/da + i dL/db, the pair of those of its two parts: so
it is compared, and so it is judged, by autograd's convention.
"""

from typing import TypeGuard

import torch
from torch import Tensor


def is_differentiable(value: object) -> TypeGuard[Tensor]:
    """Tell whether a value is a tensor that may have a gradient: of floating-point or complex numbers."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def as_reals(value: Tensor) -> Tensor:
    """Return a complex tensor with its real and imaginary parts along a new last axis; any other as it is.

    >>> as_reals(torch.tensor([1 + 2j]))
    tensor([[1., 2.]])
    """
    # `view_as_real` would ask more of a gradient's strides than the function itself
    return torch.stack((value.real, value.imag), -1) if value.is_complex() else value


def both_as_reals(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two tensors as pairs of real numbers if either is complex; else as they are."""
    if not a.is_complex() and not b.is_complex():
        return a, b
    dtype = torch.promote_types(a.dtype, b.dtype)
    return as_reals(a.to(dtype)), as_reals(b.to(dtype))


def as_complex(value: Tensor) -> Tensor:
    """Return the complex tensor of such a pair, whatever its strides."""
    real, imaginary = value.unbind(-1)
    return torch.complex(real, imaginary)


def in_dtype(value: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return a dtype of floating-point numbers, or the complex one of such parts for a complex tensor."""
    return dtype.to_complex() if value.is_complex() else dtype
