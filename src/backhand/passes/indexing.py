r"""Reading rows of a table: a row that is read several times accumulates as many gradients.

Shapes: n reads of a table with v rows and e columns.
"""

import torch
from torch import Tensor

out = "y"


def forward(table: Tensor, index: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Read the rows at index (n,), int64, of table (v, e), and weigh each by weight (n, 1)."""
    rows = table[index]  # (n, e)
    y = weight * rows  # (n, e)
    return locals()


def backward(dy: Tensor, table: Tensor, index: Tensor, weight: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Compute the gradient of every tensor."""
    dweight = (rows * dy).sum(1, keepdim=True)  # (n, 1)
    drows = weight * dy  # (n, e)
    dtable = torch.zeros_like(table)  # (v, e)
    dtable.index_add_(0, index, drows)
    return locals()


def inputs(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw 7 reads of a table of 4 rows, so that some row is read twice."""
    return {
        "table": torch.randn(4, 3, generator=generator),
        "index": torch.randint(0, 4, (7,), generator=generator),
        "weight": torch.randn(7, 1, generator=generator),
    }
