"""How good a model is: its loss on words, beside two yardsticks."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backhand.errors import ConfigError

from .config import SplitName
from .contexts import Contexts
from .saving import Run
from .words import load_words


@dataclass(frozen=True)
class Score:
    """How well some words are predicted, letter by letter, the end of each word included.

    Attributes:
        words: which words: a split's name, or a file.
        contexts: how many symbols were predicted.
        loss: the model's mean cross entropy, in nats a symbol.
        bigram: the same of a bigram count model of the training split (every count plus one).
        uniform: the same of guessing blindly, ln(vocabulary).
    """

    words: str
    contexts: int
    loss: float
    bigram: float
    uniform: float

    @property
    def perplexity(self) -> float:
        """Among how many equally likely symbols the model is left in doubt: exp(loss)."""
        return math.exp(self.loss)

    @property
    def bits_per_character(self) -> float:
        """The loss in bits: loss / ln 2."""
        return self.loss / math.log(2)

    def to_dict(self) -> dict[str, str | int | float]:
        """Return every figure by its name."""
        return vars(self) | {"perplexity": self.perplexity, "bits_per_character": self.bits_per_character}


def evaluate(
    run: Run | str | Path,
    *,
    split: SplitName = "all",
    words: str | Path | None = None,
    column: str | None = None,
) -> list[Score]:
    """Measure a trained model's loss on the splits of its list of words, or on other words.

    Args:
        run: a run, or its folder.
        split: train, dev or test; or all three.
        words: measure on all words of this file (or embedded list) instead, cleaned as the run's list was.
        column: the column of `words` that holds them, if it is a CSV file.

    Raises:
        BackhandError: the run or the words cannot be read, or hold a letter that the model has never seen.

    >>> import tempfile
    >>> from backhand import TrainConfig, train
    >>> folder = Path(tempfile.mkdtemp()) / "run"
    >>> run = train(TrainConfig(words="municipios", n_hidden=8, steps=20), out=folder)
    >>> [(score.words, score.contexts) for score in evaluate(folder, split="dev")]
    [('dev', 10745)]
    """
    run = run if isinstance(run, Run) else Run.load(run)
    if words is not None and split != "all":
        raise ConfigError(f"--split {split} chooses a part of the training list; leave it out with --words")
    splits = run.contexts()
    parts: dict[str, Contexts]
    if words is not None:
        others = load_words(words, column, run.config.clean)
        parts = {str(words): Contexts(others, run.vocabulary, run.config.block_size)}
    else:
        parts = {name: part for name, part in splits._asdict().items() if split in ("all", name)}
    bigram = bigram_logprobs(splits.train)
    uniform = math.log(len(run.vocabulary))
    return [
        Score(name, len(part), run.model.loss(part), bigram_loss(bigram, part), uniform)
        for name, part in parts.items()
    ]


def bigram_counts(contexts: Contexts) -> Tensor:
    """Return how often each symbol follows each, float64 (vocabulary, vocabulary), ends included."""
    size = len(contexts.vocabulary)
    previous, following = contexts.flat[contexts.block_size - 1 : -1], contexts.flat[contexts.block_size :]
    counts = torch.zeros(size * size, dtype=torch.int64)
    for a, b in zip(previous.split(1 << 20), following.split(1 << 20), strict=True):
        counts += torch.bincount(a.long() * size + b, minlength=size * size)
    return counts.view(size, size).double()


def bigram_logprobs(contexts: Contexts) -> Tensor:
    """Return the log probabilities of a bigram count model, with one added to every count."""
    counts = bigram_counts(contexts) + 1
    return (counts / counts.sum(1, keepdim=True)).log()  # (vocabulary, vocabulary)


def bigram_loss(logprobs: Tensor, contexts: Contexts) -> float:
    """Return a bigram model's mean cross entropy over all symbols, in nats."""
    return -(bigram_counts(contexts) * logprobs).sum().item() / len(contexts)
