r"""A row divided by its length, one power after the other: the exponent comes down, and becomes one less.

With u = x ** 2 summed over a row and a little added, y = x * u ** -1/2 is the row at length 1, as the
normalisations have it. Shapes: n rows of k elements.
"""

import torch
from torch import Tensor

out = "y"


def forward(x: Tensor) -> dict[str, Tensor]:
    """Scale each row of x (n, k) to a length of nearly 1."""
    squares = x**2  # (n, k)
    total = squares.sum(1, keepdim=True)  # (n, 1)
    inverse = (total + 0.1) ** -0.5  # (n, 1)
    y = x * inverse  # (n, k)
    return locals()


def backward(dy: Tensor, x: Tensor, squares: Tensor, total: Tensor, inverse: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dinverse = (x * dy).sum(1, keepdim=True)  # (n, 1)
    dtotal = -0.5 * (total + 0.1) ** -1.5 * dinverse  # (n, 1)
    dsquares = dtotal.expand_as(squares)  # (n, k)
    dx = inverse * dy + 2 * x * dsquares  # (n, k), directly and through squares
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 5 rows of 3 elements."""
    return {"x": torch.randn(5, 3, generator=generator)}
