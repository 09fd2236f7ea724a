"""Steps that several processes take together, each with the gradients of its part of every minibatch.

Data parallel: all hold the same parameters, add their gradients up and take the same step. The processes are
those of `torch.distributed`, which `torchrun` starts; over gloo on CPUs, over nccl on GPUs.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from backhand.errors import JobError
from backhand.passes import mlp_synchronised

from .stepping import Engine, Parameters, descend, wired
from .textbooks import Textbook
from .word_engines import WordEngine, by_hand
from .word_engines import descend as descend_on_words

Gradients = dict[str, Tensor]


def processes() -> int:
    """Return how many train together; 1 is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(part: Tensor) -> Tensor:
    """Return the sum of what each process gives.

    Raises:
        JobError: one of them has ended.
    """
    total = part.clone()
    try:
        dist.all_reduce(total)
    except RuntimeError as error:
        raise JobError(
            "another process of the job has ended; start it once more with --resume, "
            "which goes on from the last checkpoint"
        ) from error
    return total


def own_rows(n: int) -> slice:
    """Return which of n rows are this process's: as many as any other's, or one more."""
    rank, size = dist.get_rank(), dist.get_world_size()
    return slice(rank * n // size, (rank + 1) * n // size)


def _added_up(loss: Tensor, gradients: Gradients) -> tuple[Tensor, Gradients]:
    """Return the loss and the gradients of all, in one exchange: each costs more than its few bytes."""
    parts = [loss, *gradients.values()]
    total = summed(torch.cat([part.reshape(-1) for part in parts]))
    pieces = total.split([part.numel() for part in parts])
    loss, *whole = (piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))
    return loss, dict(zip(gradients, whole, strict=True))


_backward = wired(mlp_synchronised)


def _of_the_mlp(parameters: Parameters, Xb: Tensor, Yb: Tensor) -> tuple[Gradients, Gradients]:
    rows = own_rows(len(Xb))
    tensors: dict[str, Any] = mlp_synchronised.forward(
        Xb[rows], Yb[rows], **parameters, n=len(Xb), summed=summed
    )
    gradients = _backward(tensors)
    parts = {f"d{name}": gradients[f"d{name}"] for name in mlp_synchronised.PARTS}
    loss, whole = _added_up(tensors["loss"], parts)
    return tensors | {"loss": loss}, gradients | whole


def _of_words(
    book: Textbook, parameters: Parameters, X: Tensor, Y: Tensor, given: dict[str, Any]
) -> tuple[Tensor, Gradients]:
    rows = own_rows(len(X))
    if "kept" in given and given["kept"].shape[2] > 1:  # drawn for the whole minibatch, as on one process
        given = given | {"kept": given["kept"][:, :, rows]}
    loss, gradients = by_hand(book, parameters, X[rows], Y[rows], given)
    part = (Y[rows] >= 0).sum() / (Y >= 0).sum()  # the loss is a mean over symbols, and a word has several
    return _added_up(loss * part, {f"d{name}": gradients[f"d{name}"] * part for name in parameters})


mlp: Engine = descend(_of_the_mlp)
words: WordEngine = descend_on_words(_of_words, fused=True)
