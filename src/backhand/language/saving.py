"""A run folder: what training leaves behind, written so that a killed process never spoils it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import torch

from backhand.errors import RunError, WordsError

from .about import ABOUT, About
from .checkpoint import MODEL, Checkpoint
from .config import TrainConfig
from .contexts import Contexts, Splits, split_words
from .drawing import LECTURE_SEED, Sample, draw_samples
from .model_types import AnyModel
from .vocabulary import Vocabulary
from .words import hash_words, load_words

HISTORY, PLOT, SAMPLES, TENSORBOARD = "history.csv", "loss.png", "samples.txt", "tensorboard"


@dataclass
class Run:
    """A run: a usable model, and all that is needed to go on training it.

    Attributes:
        path: its folder.
        config: what it was started with; `words` is an embedded list's name or an absolute path, and `steps`
            and `keep` are what was chosen for it where they had been left open.
        vocabulary: the symbols.
        words_sha256: see `hash_words`.
        step: how many steps have been taken.
        model: the model to use: parameters and batch norm statistics as of step `kept`.
        latest: the model as of `step`, which training goes on from; the same one where the last is kept.
        generator: the generator that draws minibatches, as of `step`.
        kept: as of which step the model to use is.
        dev: its development loss as it was watched, where the best is kept.
        history: the SHA-256 of history.csv up to `step`; None before the first checkpoint.
        results: once training is complete, the loss of each split in nats a symbol.
    """

    path: Path
    config: TrainConfig
    vocabulary: Vocabulary
    words_sha256: str
    step: int
    model: AnyModel
    latest: AnyModel
    generator: torch.Generator
    kept: int = 0
    dev: float = inf
    history: str | None = None
    results: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Read a run folder.

        Raises:
            RunError: it is not a run folder, or a file in it is damaged or belongs to something else.
        """
        path = Path(path)
        about = About.read(path)
        if about.step == 0 and not (path / MODEL).exists():
            raise RunError(
                f"the run in {path} was stopped before its first checkpoint; "
                f"go on with: backhand train --out {path} --resume"
            )
        saved = Checkpoint.read(path, about)
        if about.step > saved.step or (about.results and saved.step != about.config.steps):
            raise RunError(f"{path / MODEL} is older than {ABOUT} beside it; train again with --overwrite")
        return cls(
            path,
            about.config,
            about.vocabulary,
            about.words_sha256,
            saved.step,
            saved.model,
            saved.latest,
            saved.generator,
            saved.kept,
            saved.dev,
            saved.history if about.format > 1 else None,
            about.results,
        )

    @property
    def about(self) -> About:
        """What run.json says of it."""
        return About(self.config, self.vocabulary, self.words_sha256, self.step, self.results)

    def save(self) -> None:
        """Write the checkpoint, then run.json; a reader finds the old file or the new one, never half of one.

        Replacing the checkpoint is the moment at which a new step counts: `history.csv` may be ahead of it
        (resuming cuts it back) and run.json behind it.
        """
        about = self.about
        state = (self.step, self.model, self.latest, self.generator, self.kept, self.dev, self.history)
        Checkpoint(*state).write(self.path, about.identity)
        about.write(self.path)

    def words(self) -> list[str]:
        """Read the words that the run was trained on again.

        Raises:
            WordsError: they are no longer there, or are no longer the same.
        """
        words = load_words(self.config.words, self.config.column, self.config.clean)
        if hash_words(words) != self.words_sha256:
            raise WordsError(
                f"{self.config.words} has changed since {self.path} was trained on it; restore it"
            )
        return words

    def sample(
        self,
        *,
        n: int = 20,
        seed: int = LECTURE_SEED,
        temperature: float = 1.0,
        top_k: int | None = None,
        prefix: str = "",
        new_only: bool = False,
    ) -> list[Sample]:
        """Draw words.

        The first 100 are drawn with the lecture's random numbers; the words of a smaller n are the first of a
        larger one.

        Args:
            n: how many words.
            seed: seeds the draws; the default is the lecture's.
            temperature: below 1 for likelier words, above 1 for wilder ones.
            top_k: draw each symbol from the k likeliest only.
            prefix: letters that every word begins with.
            new_only: leave out words of the list that the model was trained on.

        Raises:
            BackhandError: an option cannot work, the prefix has an unknown letter, or the words that the run
                was trained on cannot be read.
        """
        return draw_samples(
            self.model,
            set(self.words()),
            n=n,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            prefix=prefix,
            new_only=new_only,
        )

    def loss(self, words: Iterable[str]) -> float:
        """Return the mean cross entropy of some words, the end of each included, in nats a symbol.

        Raises:
            WordsError: there are none, or one holds a letter that the model has never seen; or a text is
                given, whose letters would be taken for words.
        """
        if isinstance(words, str):
            raise WordsError(f"loss takes a list of words, not a text; for one word give [{words!r:.50}]")
        words = list(words)
        for word in words:
            if not isinstance(word, str):
                raise WordsError(f"loss takes a list of words; {word!r:.50} is none")
        if not words:
            raise WordsError("there are no words whose loss could be measured")
        return self.model.loss(Contexts(words, self.vocabulary, self.config.block_size))

    def contexts(self) -> Splits[Contexts]:
        """Return the contexts of each split of the words that the run was trained on."""
        return make_contexts(self.words(), self.vocabulary, self.config)


def make_contexts(
    words: Sequence[str], vocabulary: Vocabulary, config: TrainConfig, device: str = "cpu"
) -> Splits[Contexts]:
    """Split words as a configuration says, and return the contexts of each split."""
    splits = split_words(words, config.split_seed)
    train, dev, test = (Contexts(split, vocabulary, config.block_size, device) for split in splits)
    return Splits(train, dev, test)
