"""A part of large inputs: few enough elements for all that a check tries."""

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from math import ceil, prod
from typing import Any

from torch import Tensor

from backhand.checking.running.containers import each_tensor, flatten

# Elements of all inputs together. Up to here a check of them takes a second or two.
LARGE = 2**20
# What is aimed at, and what will do where some axis cannot be cut. That is enough for every branch of an
# element's formula to be taken.
FEW, ENOUGH = 2**16, 2**18
# An axis of so many is left as it is: it may count channels, heads or symbols, which the code may know.
SHORT = 64
# No long axis is cut to fewer.
LEAST = 8


def parts_of(inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of large inputs that may do for them all, best first; of small ones none.

    In the first every long axis is cut, all by the same factor, so that products and sums of them still fit.
    In the second only the rows are: what the first axis of the first tensor counts. Whether the user's code
    takes them is for him who runs it to see.
    """
    tensors = [v for v in flatten(inputs).values() if isinstance(v, Tensor)]
    if sum(t.numel() for t in tensors) <= LARGE:
        return
    long = {n for t in tensors for n in t.shape if n > SHORT}
    rows = {next(t.shape[0] for t in tensors if t.dim())} & long
    for cut in (long, rows) if rows != long else (long,):
        lengths = _shorter(tensors, cut)
        if lengths:
            yield {name: each_tensor(v, partial(_cropped, lengths=lengths)) for name, v in inputs.items()}


def _shorter(tensors: Collection[Tensor], cut: Collection[int]) -> dict[int, int]:
    """Return what length each becomes; nothing if too much is left, or two lengths would be one."""
    kept = {n for t in tensors for n in t.shape} - set(cut)
    found, left, factor = {n: n for n in cut}, LARGE, 2
    while left > FEW and cut and min(cut) >= LEAST * factor:
        found = {n: ceil(n / factor) for n in cut}
        left = sum(prod(found.get(n, n) for n in t.shape) for t in tensors)
        factor *= 2
    are_apart = len(kept.union(found.values())) == len(kept) + len(found)
    return found if are_apart and left <= ENOUGH else {}


def _cropped(tensor: Tensor, lengths: Mapping[int, int]) -> Tensor:
    """Return a copy of the beginning of a tensor along every axis."""
    part = tensor.detach()[tuple(slice(lengths.get(n)) for n in tensor.shape)]
    return part.clone().requires_grad_(tensor.requires_grad)
