"""Drawing words from a model: the first ones as the lecture draws them, the rest many at a time."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backhand.errors import ConfigError
from backhand.threads import one_thread

from .model import rows_at_once
from .model_types import AnyModel
from .word_models import WordModel

LONGEST = 100
"""Letters after which a word ends in any case, so that a model that never ends one cannot go on for ever."""

ONE_BY_ONE = 100
"""Words that are drawn one at a time, with the lecture's random numbers, before the rest come in blocks."""

BLOCK = 10_000
"""Words that are drawn at once. Fixed, so that the words of a smaller count are the first of a larger one."""

BLOCK_OF_WHOLE = 1_000
"""The same of a model that reads whole words: ten times as many would take a transformer seconds."""

TABLE = 1 << 17
"""Up to so many possible contexts, their distributions are computed beforehand, if they are no more than"""
TABLED = 1 << 24
"""numbers: 64 MB."""

LECTURE_SEED = 2147483647 + 10
PATIENCE = 1000
"""Known words in a row after which `new_only` gives up."""

Distributions = Callable[[Tensor], Tensor]
"""From contexts, int64 (n, block_size), to the probability of each symbol, (n, vocabulary)."""


@dataclass(frozen=True)
class Sample:
    """A word that a model made; `new` if it is not in the list that the model was trained on."""

    word: str
    new: bool


def draw_samples(
    model: AnyModel,
    known: Collection[str],
    *,
    n: int,
    seed: int,
    temperature: float,
    top_k: int | None,
    prefix: str,
    new_only: bool,
) -> list[Sample]:
    """Draw n words and tell which are known; the options are those of `sample`.

    Raises:
        BackhandError: an option cannot work, or the prefix has an unknown letter.
    """
    for option, value in (("-n", n), ("--top-k", top_k)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} is {value}; it must be at least 1")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed is {seed}; it must be from 0 up and below 2**63")
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"--temperature is {temperature}; it must be a number above 0")
    generator = torch.Generator().manual_seed(seed)
    samples: list[Sample] = []
    misses = 0
    for word in draw_words(model, generator, temperature=temperature, top_k=top_k, prefix=prefix):
        if new_only and word in known:
            misses += 1
            if misses == PATIENCE:
                raise ConfigError(
                    f"--new-only: {PATIENCE} words in a row were known ones; try a higher --temperature"
                )
            continue
        misses = 0
        samples.append(Sample(word, word not in known))
        if len(samples) == n:
            break
    return samples


def draw_words(
    model: AnyModel,
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    prefix: str = "",
) -> Iterator[str]:
    """Yield words for ever; the same ones for the same generator, however many are taken.

    Args:
        model: on the CPU.
        generator: where all chance comes from.
        temperature: divides the logits; below 1 the likely symbols become likelier. Above 0.
        top_k: only the k likeliest symbols can be drawn; None for all.
        prefix: letters that every word begins with.

    Raises:
        WordsError: the prefix has a letter that the model does not know.
    """
    begin = model.vocabulary.encode(prefix)

    def distributions(X: Tensor) -> Tensor:
        logits = model.logits(X) / temperature  # (n, vocabulary)
        if top_k is not None:
            lowest = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]  # (n, 1)
            logits = logits.masked_fill(logits < lowest, float("-inf"))
        return logits.softmax(1)

    for _ in range(ONE_BY_ONE):
        yield draw_word(model, distributions, begin, generator)
    tabled = tabulate(model, distributions)
    count = BLOCK_OF_WHOLE if isinstance(model, WordModel) else BLOCK
    while True:
        yield from draw_block(model, tabled, begin, generator, count)


@one_thread()
def draw_word(
    model: AnyModel, distributions: Distributions, begin: list[int], generator: torch.Generator
) -> str:
    """Draw one word with `torch.multinomial`, a symbol at a time."""
    word = list(begin)
    while len(word) < LONGEST:
        context = ([0] * model.block_size + word)[-model.block_size :]
        probs = distributions(torch.tensor([context]))  # (1, vocabulary)
        symbol = int(torch.multinomial(probs, num_samples=1, generator=generator).item())
        if symbol == 0:
            break
        word.append(symbol)
    return model.vocabulary.decode(word)


def tabulate(model: AnyModel, distributions: Distributions) -> Distributions:
    """Return the same distributions from a table of all contexts, if there are few enough of them."""
    base, block_size = len(model.vocabulary), model.block_size
    if base**block_size > TABLE or base ** (block_size + 1) > TABLED:
        return distributions
    powers = base ** torch.arange(block_size - 1, -1, -1)  # (block_size,)
    contexts = torch.arange(base**block_size)[:, None] // powers % base  # (contexts, block_size)
    table = torch.cat([distributions(X) for X in contexts.split(1 << 14)])  # (contexts, vocabulary)
    return lambda X: table[(X * powers).sum(1)]


def draw_block(
    model: AnyModel, distributions: Distributions, begin: list[int], generator: torch.Generator, count: int
) -> list[str]:
    """Draw so many words side by side, each symbol by inverting its cumulative distribution."""
    words = torch.zeros(count, model.block_size + max(LONGEST, len(begin)), dtype=torch.int64)
    end = model.block_size + len(begin)
    words[:, model.block_size : end] = torch.tensor(begin, dtype=torch.int64)
    alive = torch.arange(count)  # the words that have not ended
    while len(alive) and end < words.shape[1]:
        chances = torch.rand(len(alive), 1, generator=generator, dtype=torch.float64)
        contexts = words[alive, end - model.block_size : end]  # (alive, block_size)
        some = rows_at_once(len(model.vocabulary))  # of 20,000 symbols, few enough for the memory
        symbols = torch.cat(
            [
                invert(distributions(X), chance)
                for X, chance in zip(contexts.split(some), chances.split(some), strict=True)
            ]
        )  # (alive,)
        words[alive, end] = symbols
        alive = alive[symbols != 0]
        end += 1
    return as_text(words[:, model.block_size : end], model)


def invert(probs: Tensor, chances: Tensor) -> Tensor:
    """Return the symbol at which each cumulative distribution passes a chance from 0 to 1: (n,)."""
    cumulative = probs.double().cumsum(1)  # (n, vocabulary)
    return (cumulative <= chances * cumulative[:, -1:]).sum(1)


def as_text(words: Tensor, model: AnyModel) -> list[str]:
    """Return each row of symbols as a word, without the zeros at its end."""
    if model.vocabulary.clusters:
        return [model.vocabulary.decode(filter(None, row)) for row in words.tolist()]
    letters = np.array(["\0", *model.vocabulary.letters])  # NumPy takes NUL at the end for padding
    symbols = np.ascontiguousarray(letters[words.numpy()])  # (n, length), a letter each
    return symbols.view(f"<U{symbols.shape[1]}")[:, 0].tolist()
