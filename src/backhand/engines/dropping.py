"""Which numbers dropout drops: a function of where they stand, the same in PyTorch and in machine code.

A mask is not drawn but computed, by the integer hash of splitmix64 (Steele, Lea and Flood 2014, figure 10),
from a seed, the step, the layer, the branch and the element. So a run that is resumed, or whose steps are cut
into other calls, drops the same; an engine keeps no mask for the backward; and no order of evaluation
matters.

Words of a minibatch that begin alike share their masks as far as they do. Their hidden states are then equal,
as they are without dropout, and an engine may compute them once.
"""

from typing import Any, TypeAlias

import torch
from torch import Tensor

Whole: TypeAlias = Any
"""Integers of 64 bits that wrap around: a tensor, or, in machine code, a number."""

BRANCHES = 2
"""Of a transformer's layer: attention, and the linear layers after it."""

GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""splitmix64's constants, as signed integers of 64 bits."""


def mix(x: Whole) -> Whole:
    """Return splitmix64's number after x: each bit of x changes each of its bits with probability 1/2."""
    x = x + GOLDEN
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * FIRST  # the mask makes the shift a logical one
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * SECOND
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def stream(seed: Whole, step: Whole, layer: Whole, branch: Whole) -> Whole:
    """Return the key of a mask, int64."""
    return mix(mix(mix(mix(seed) ^ step) ^ layer) ^ branch)


def upper(x: Whole) -> Whole:
    """Return the upper 32 bits of a hash, from 0 to 2^32 - 1."""
    return (x >> 32) & 0xFFFFFFFF


def threshold(rate: float) -> int:
    """Return the number of 2^32 below which the hash of a dropped element is."""
    return round(rate * 2**32)


def scale(rate: float) -> float:
    """Return the factor of what is kept, so that the mean stays what it was."""
    return 1 / (1 - rate)


def masks(X: Tensor, layers: int, width: int, *, rate: float, seed: int, step: int) -> Tensor:
    """Return what the branches of a transformer are multiplied with in one step of training.

    Args:
        X: a minibatch of words, int64 (n, T).
        layers: how many there are.
        width: numbers in a row of a branch, k.
        rate: the share of elements to drop, at least 0 and below 1.
        seed: that of the run.
        step: counted from the run's first.

    Returns:
        (layers, BRANCHES, n, T, width) in float32: 0 where an element is dropped, else 1 / (1 - rate).
        Element (i, t, k) is that of the first word which equals word i up to t.

    >>> X = torch.tensor([[0, 5, 1], [0, 5, 2]])
    >>> mask = masks(X, 1, 4, rate=0.5, seed=1, step=0)[0, 0]
    >>> torch.equal(mask[0, :2], mask[1, :2]), torch.equal(mask[0, 2], mask[1, 2])
    (True, False)
    """
    T = X.shape[1]
    alike = (X[:, None] == X).to(torch.uint8).cumprod(2, dtype=torch.uint8)  # (n, n, T)
    firsts = alike.argmax(1)  # (n, T), of equal ones the first
    rows = firsts * T + torch.arange(T, device=X.device)
    elements = rows[..., None] * width + torch.arange(width, device=X.device)  # (n, T, width)
    keys = [
        stream(*torch.tensor([seed, step, layer, branch], device=X.device))
        for layer in range(layers)
        for branch in range(BRANCHES)
    ]
    hashes = mix(torch.stack(keys).view(layers, BRANCHES, 1, 1, 1) ^ elements)
    return (upper(hashes) >= threshold(rate)) * scale(rate)
