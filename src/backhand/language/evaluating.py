"""How good a model is: its loss on words, beside two yardsticks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backhand.errors import ConfigError

from .config import SplitName, TrainConfig
from .contexts import Contexts, count_distinct
from .model_types import uses_hidden
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
        return math.exp(self.loss) if self.loss < 700 else math.inf

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
    return scored(run, {name: (part, run.model.loss(part)) for name, part in parts.items()}, splits.train)


def final_scores(run: Run) -> list[Score]:
    """Return the scores of a run that has just been trained, by the losses that it ended with."""
    splits = run.contexts()
    parts = {name: (part, run.results[name]) for name, part in splits._asdict().items()}
    return scored(run, parts, splits.train)


def scored(run: Run, parts: Mapping[str, tuple[Contexts, float]], train: Contexts) -> list[Score]:
    """Return the scores of some words, whose losses have been measured, beside what counting reaches."""
    bigram, uniform = Bigram.of(train), math.log(len(run.vocabulary))
    return [Score(name, len(part), loss, bigram.loss(part), uniform) for name, (part, loss) in parts.items()]


@dataclass(frozen=True)
class Bigram:
    """A model that counts: how often each symbol follows each in some contexts, plus one.

    Attributes:
        pairs, counts: the distinct pairs, previous * vocabulary + following, ascending, and their counts.
        totals: how often each symbol comes before another, (vocabulary,).
    """

    pairs: np.ndarray
    counts: np.ndarray
    totals: np.ndarray

    @classmethod
    def of(cls, contexts: Contexts) -> "Bigram":
        """Count."""
        size = len(contexts.vocabulary)
        pairs, counts = count_pairs(contexts)
        return cls(pairs, counts, np.bincount(pairs // size, counts, size))

    def loss(self, contexts: Contexts) -> float:
        """Return the mean cross entropy over all symbols, in nats."""
        size = len(self.totals)
        pairs, counts = count_pairs(contexts)
        where = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        seen = np.where(self.pairs[where] == pairs, self.counts[where], 0)
        logprobs = np.log((seen + 1) / (self.totals[pairs // size] + size))
        return -float((counts * logprobs).sum()) / len(contexts)


def count_pairs(contexts: Contexts) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct pairs of symbols, as `Bigram` has them, and how often each occurs."""
    size = len(contexts.vocabulary)
    flat = contexts.flat.cpu()
    previous, following = flat[contexts.block_size - 1 : -1], flat[contexts.block_size :]
    packed = (
        (a.long() * size + b).numpy()
        for a, b in zip(previous.split(1 << 20), following.split(1 << 20), strict=True)
    )
    return count_distinct(packed, size * size)


def worse_than_counting(scores: Sequence[Score], config: TrainConfig) -> str | None:
    """Say so where a model predicts the development words worse than a bigram model, and what to try."""
    by_words = {score.words: score for score in scores}
    dev, train = by_words.get("dev"), by_words.get("train")
    if dev is None or dev.loss < dev.bigram:
        return None
    than = "guessing blindly" if dev.loss > dev.uniform else "counting pairs of letters"
    low, high = (dev.uniform, dev.loss) if dev.loss > dev.uniform else (dev.bigram, dev.loss)
    # a model that loses on the words that it was trained on has learnt too little, not too much by heart
    learnt_little = train is not None and train.loss > train.bigram
    tries = (to_learn_more if learnt_little else to_learn_less)(config, dev.contexts * 8)
    return f"worse than {than}: dev loss {high:.3f}, not {low:.3f}. Try {', '.join(tries)}"


def to_learn_more(config: TrainConfig, contexts: int) -> list[str]:
    """Return what to try with a model that does not even fit its training words."""
    tries = ["more --steps"] if config.steps and config.steps < config.fitting_steps(contexts) else []
    if uses_hidden(config) and config.hidden < config.fitting_hidden(contexts):
        tries.append(f"a larger model (--n-hidden {config.fitting_hidden(contexts)})")
    return tries or ["another --rate"]


def to_learn_less(config: TrainConfig, contexts: int) -> list[str]:
    """Return what to try with a model that fits its training words alone."""
    tries = ["more words"]
    if config.keep == "last":  # else the steps after the best ones did no harm
        tries.append("--keep best")
        if config.steps and config.steps > config.fitting_steps(contexts):
            tries.append("fewer --steps")
    if uses_hidden(config):
        tries += [f"a smaller model (--n-hidden {max(1, config.hidden // 4)})"]
    if config.type == "mlp" and config.block_size > 2:
        tries.append(f"a shorter context (--block-size {config.block_size - 1})")
    return tries
