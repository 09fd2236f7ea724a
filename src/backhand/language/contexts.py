"""Splitting words, and the contexts that a model is trained on: windows over one flat array."""

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from backhand.errors import WordsError

from .vocabulary import Vocabulary

T = TypeVar("T")

COUNTERS = 1 << 22
"""Up to so many different contexts with targets are counted one by one."""


class Splits(NamedTuple, Generic[T]):
    """One of something for each split; unpacks as train, dev, test."""

    train: T
    dev: T
    test: T


def split_words(words: Iterable[str], seed: int = 42) -> Splits[list[str]]:
    """Shuffle words and split them 80/10/10, as the lecture does (Python's `random.shuffle`).

    Raises:
        WordsError: there are so few words that a split would be empty.

    >>> [len(split) for split in split_words("abcdefghij")]
    [8, 1, 1]
    """
    shuffled = list(words)
    random.Random(seed).shuffle(shuffled)
    n1, n2 = int(0.8 * len(shuffled)), int(0.9 * len(shuffled))
    splits = Splits(shuffled[:n1], shuffled[n1:n2], shuffled[n2:])
    if not all(splits):
        raise WordsError(f"{len(shuffled)} words are too few to split 80/10/10; at least 6 are needed")
    return splits


class Contexts:
    """Every context of some words with the symbol that follows it.

    The words stand in one flat array, a byte a letter, each followed by 0 (the end). Context i is the window
    `flat[i : i + block_size]` and its target `flat[i + block_size]`; symbols of the word before are read as
    0. So "emma" with block size 3 gives ...→e, ..e→m, .em→m, emm→a, mma→. as in the lecture, in the same
    order.

    Args:
        words: the words, in the order in which their contexts are numbered.
        vocabulary: gives the indices; unknown letters raise a WordsError.
        block_size: how many symbols of context, at least 1.
        device: where the flat array lives and minibatches are made.
    """

    def __init__(
        self,
        words: Sequence[str],
        vocabulary: Vocabulary,
        block_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.vocabulary = vocabulary
        self.block_size = block_size
        flat = vocabulary.encode_all(words, before=block_size)
        self.flat: Tensor = torch.from_numpy(flat).to(device)  # (block_size + len(self),)
        self.windows: Tensor = self.flat.unfold(0, block_size + 1, 1)  # (len(self), block_size + 1), a view
        self._first: dict[int, Contexts] = {}

    def __len__(self) -> int:
        return len(self.flat) - self.block_size

    def first(self, count: int) -> "Contexts":
        """Return the first contexts, up to a number; where there are no more, these same ones."""
        if len(self) <= count:
            return self
        if count not in self._first:
            part = copy.copy(self)
            part.flat = self.flat[: count + self.block_size]
            part.windows = self.windows[:count]
            part._first = {}
            for cached in ("merged", "whole"):  # those of all contexts
                part.__dict__.pop(cached, None)
            self._first[count] = part
        return self._first[count]

    def __getitem__(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return contexts X, int64 (*rows, block_size), and targets Y, int64 (*rows), for any indices."""
        windows = self.windows[rows].long()
        X, Y = windows[..., :-1], windows[..., -1]
        for j in range(self.block_size - 2, -1, -1):
            X[..., j] *= X[..., j + 1] != 0  # what stands before an end belongs to another word
        return X, Y

    def chunks(self, size: int = 1 << 18) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all contexts and targets in order, a limited number at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    @cached_property
    def whole(self) -> "Words":
        """The words of these contexts; where the last one's end is not among them, what there is of it."""
        flat = self.flat[self.block_size :].long()  # (len(self),)
        ends = (flat == 0).nonzero()[:, 0]  # (words,)
        if not len(ends) or ends[-1] != len(flat) - 1:
            ends = torch.cat([ends, torch.tensor([len(flat) - 1], device=flat.device)])
        sizes = ends.diff(prepend=ends.new_tensor([-1]))  # (n,)
        rows = torch.arange(len(sizes), device=flat.device).repeat_interleave(sizes)
        t = torch.arange(len(flat), device=flat.device) - (ends - sizes + 1)[rows]
        Y = flat.new_full((len(sizes), max(self.block_size + 1, int(sizes.max()))), -1)  # (n, T)
        Y[rows, t] = flat
        X = torch.cat([torch.zeros_like(Y[:, :1]), Y[:, :-1].clamp(min=0)], 1)  # (n, T)
        return Words(X, Y, sizes)

    @cached_property
    def merged(self) -> "Merged":
        """The same contexts, equal ones merged: what a sum over all of them needs, in far fewer rows."""
        base = len(self.vocabulary)
        if base ** (self.block_size + 1) >= 2**63:  # too long to be packed: such contexts hardly repeat
            X, Y = zip(*((X.to(self.flat.dtype), Y) for X, Y in self.chunks()), strict=True)
            rows = torch.arange(len(self), device=self.flat.device)
            return Merged(torch.cat(X), rows, torch.cat(Y), torch.ones_like(rows))
        # each context with its target is packed into one integer, its digits in base `base`
        powers = base ** torch.arange(self.block_size, 0, -1, device=self.flat.device)
        packed = (((X * powers).sum(1) + Y).numpy(force=True) for X, Y in self.chunks())
        codes, counts = count_distinct(packed, base ** (self.block_size + 1))
        contexts, rows = np.unique(codes // base, return_inverse=True)
        X = contexts[:, None] // base ** np.arange(self.block_size - 1, -1, -1) % base
        X = torch.from_numpy(X).to(self.flat)
        rows, Y, counts = (torch.from_numpy(a).to(self.flat.device) for a in (rows, codes % base, counts))
        return Merged(X, rows, Y, counts)


class Words(NamedTuple):
    """Whole words, as the models take them that read them whole.

    X: 0, the word's symbols, and 0 where it has ended, int64 (n, T).
    Y: the word's symbols, 0 for its end, and -1 after it, int64 (n, T).
    sizes: how many symbols of each are to be predicted, (n,).
    """

    X: Tensor
    Y: Tensor
    sizes: Tensor


def count_distinct(chunks: Iterable[np.ndarray], below: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct numbers of some arrays, ascending, and how often each occurs.

    Args:
        chunks: arrays of integers from 0 up.
        below: what all of them are below; if it is small, a counter for each number takes the least memory.
    """
    if below <= COUNTERS:
        counters = np.zeros(below, np.int64)
        for chunk in chunks:
            counters += np.bincount(chunk, minlength=below)
        codes = np.flatnonzero(counters)
        return codes, counters[codes]
    parts = [np.unique(chunk, return_counts=True) for chunk in chunks]
    codes, where = np.unique(np.concatenate([codes for codes, _ in parts]), return_inverse=True)
    counts = np.zeros_like(codes)
    np.add.at(counts, where, np.concatenate([counts for _, counts in parts]))
    return codes, counts


class Merged(NamedTuple):
    """Distinct contexts, and how often each symbol follows each.

    X: the m distinct contexts, (m, block_size), in the flat array's dtype.
    rows, Y, counts: for each of the p distinct pairs, the context's row in X, in ascending order, the
        target, and how often the pair occurs, int64 (p,).
    """

    X: Tensor
    rows: Tensor
    Y: Tensor
    counts: Tensor

    def chunks(self, size: int = 1 << 16) -> Iterator["Merged"]:
        """Yield a limited number of contexts at a time, with their pairs; `rows` count within the chunk."""
        for start in range(0, len(self.X), size):
            ends = torch.tensor([start, start + size], device=self.rows.device)
            i, j = torch.searchsorted(self.rows, ends).tolist()
            yield Merged(self.X[start : start + size], self.rows[i:j] - start, self.Y[i:j], self.counts[i:j])
