"""Sampling new words from a trained model."""

from dataclasses import dataclass
from pathlib import Path

import torch

from backhand.errors import ConfigError

from .drawing import draw_words
from .saving import Run

LECTURE_SEED = 2147483647 + 10
PATIENCE = 1000
"""Known words in a row after which `new_only` gives up."""


@dataclass(frozen=True)
class Sample:
    """A word that a model made; `new` if it is not in the list that the model was trained on."""

    word: str
    new: bool


def sample(
    run: Run | str | Path,
    *,
    n: int = 20,
    seed: int = LECTURE_SEED,
    temperature: float = 1.0,
    top_k: int | None = None,
    prefix: str = "",
    new_only: bool = False,
) -> list[Sample]:
    """Draw words from a trained model.

    The first 100 are drawn with the lecture's random numbers; the words of a smaller n are the first of a
    larger one.

    Args:
        run: a run, or its folder.
        n: how many words.
        seed: seeds the draws; the default is the lecture's.
        temperature: below 1 for likelier words, above 1 for wilder ones.
        top_k: draw each symbol from the k likeliest only.
        prefix: letters that every word begins with.
        new_only: leave out words of the list that the model was trained on.

    Raises:
        BackhandError: an option cannot work, the prefix has an unknown letter, or the run or its words
            cannot be read.

    >>> import tempfile
    >>> from backhand import TrainConfig, train
    >>> folder = Path(tempfile.mkdtemp()) / "run"
    >>> run = train(TrainConfig(words="municipios", n_hidden=8, steps=20), out=folder)
    >>> [sample.word[:2] for sample in sample(run, n=3, prefix="vi", temperature=0.5)]
    ['vi', 'vi', 'vi']
    """
    if n < 1 or (top_k is not None and top_k < 1):
        raise ConfigError(f"-n is {n} and --top-k is {top_k}; both must be at least 1")
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed is {seed}; it must be from 0 up and below 2**63")
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"--temperature is {temperature}; it must be a number above 0")
    run = run if isinstance(run, Run) else Run.load(run)
    known = set(run.words())
    generator = torch.Generator().manual_seed(seed)
    samples: list[Sample] = []
    misses = 0
    for word in draw_words(run.model, generator, temperature=temperature, top_k=top_k, prefix=prefix):
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
