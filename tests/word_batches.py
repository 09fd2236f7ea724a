"""Minibatches of words for the tests of the models of whole words."""

import torch
from torch import Tensor


def batch(words: list[list[int]], T: int) -> tuple[Tensor, Tensor]:
    """Words of symbols from 1 as inputs and targets (n, T); what is longer than T - 1 is cut."""
    X, Y = torch.zeros(len(words), T, dtype=torch.int64), torch.full((len(words), T), -1)
    for i, whole in enumerate(words):
        word = torch.tensor(whole[: T - 1], dtype=torch.int64)
        X[i, 1 : len(word) + 1] = Y[i, : len(word)] = word
        Y[i, len(word)] = 0
    return X, Y


def random_batches(steps: int, n: int, T: int, V: int) -> tuple[Tensor, Tensor]:
    """Minibatches of random words, from empty ones to those that fill all positions, many beginning alike."""
    batches = []
    for _ in range(steps):
        words = [torch.randint(1, V, (size,)).tolist() for size in torch.randint(0, T, (n,)).tolist()]
        for i in range(1, n, 3):
            words[i] = words[i - 1][: len(words[i])] + words[i]
        batches.append(batch(words, T))
    return torch.stack([X for X, _ in batches]), torch.stack([Y for _, Y in batches])
