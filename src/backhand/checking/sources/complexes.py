"""Complex tensors as pairs of real ones: so their gradients are judged by autograd's convention.

The gradient of a complex tensor z = a + i b is dL/da + i dL/db, that is the pair of those of its two parts.
"""

import torch
from torch import Tensor


def as_reals(value: Tensor) -> Tensor:
    """Return a complex tensor with its real and imaginary parts along a new last axis; any other as it is.

    >>> as_reals(torch.tensor([1 + 2j]))
    tensor([[1., 2.]])
    """
    # `view_as_real` would ask more of a gradient's strides than the function itself
    return torch.stack((value.real, value.imag), -1) if value.is_complex() else value


def as_complex(value: Tensor) -> Tensor:
    """Return the complex tensor of such a pair, whatever its strides."""
    real, imaginary = value.unbind(-1)
    return torch.complex(real, imaginary)
