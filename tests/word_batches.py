"""Minibatches of words for the tests of the models of whole words."""

import torch
from torch import Tensor

from backhand.benching.word_timing import batch


def random_batches(steps: int, n: int, T: int, V: int) -> tuple[Tensor, Tensor]:
    """Minibatches of random words, from empty ones to those that fill all positions, many beginning alike."""
    batches = []
    for _ in range(steps):
        words = [torch.randint(1, V, (size,)).tolist() for size in torch.randint(0, T, (n,)).tolist()]
        for i in range(1, n, 3):
            words[i] = words[i - 1][: len(words[i])] + words[i]
        batches.append(batch(words, T))
    return torch.stack([X for X, _ in batches]), torch.stack([Y for _, Y in batches])
