"""The models that read whole words: their parameters, and what they make of a word."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from backhand.engines import native_words
from backhand.engines.axes import shape_of
from backhand.engines.native_words import Moments, Settings
from backhand.engines.textbooks import textbook
from backhand.engines.word_engines import runs_in_machine_code
from backhand.errors import WordsError

from .contexts import Contexts, Words
from .recipes import WordConfig
from .vocabulary import Vocabulary

Shapes = dict[str, tuple[int, ...]]

AT_ONCE = 1 << 7
"""Words that are computed at once: a pass keeps every layer's tensors, and those of so few stay in the cache;
of a transformer's, eight times as many take half as long again."""

FIRST, SECOND, AVERAGE = "first.", "second.", "average."


def shapes_of(config: WordConfig, vocab_size: int) -> Shapes:
    """Return the shapes of the parameters, as the pass says what their axes are."""
    width, state = config.n_embd, config.hidden
    sizes = {"V": vocab_size, "T": config.block_size + 1, "L": config.layers, "1": 1}
    sizes |= {"e": width, "d": width, "m": state}
    return {name: shape_of(axes, sizes) for name, axes in textbook(config.type).axes.items()}


def state_shapes(config: WordConfig, vocab_size: int) -> Shapes:
    """Return the shapes of a model's `tensors`."""
    groups = ("", FIRST, SECOND, AVERAGE) if config.average else ("", FIRST, SECOND)
    shapes = shapes_of(config, vocab_size)
    return {before + name: shape for before in groups for name, shape in shapes.items()}


def draw(shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw parameters with makemore's spread: gains 1, biases and h0 0, embeddings of deviation 1.

    Those of a product have the variance 1 / (3 inputs), that of PyTorch's linear layers.
    """
    parameters = {}
    for name, shape in shapes.items():
        if name[0] == "W":
            parameters[name] = torch.randn(shape, generator=generator) * (3 * shape[-2]) ** -0.5
        elif name in ("E", "P"):
            parameters[name] = torch.randn(shape, generator=generator)
        else:
            parameters[name] = torch.ones(shape) if name.startswith("gain") else torch.zeros(shape)
    return parameters


@dataclass(frozen=True)
class WordModel:
    """A model that reads whole words: its parameters, and all with which training goes on.

    Attributes:
        vocabulary: the symbols.
        config: gives the sizes that its tensors do not tell.
        parameters: by name.
        moments: AdamW's.
        average: the parameters as `averaging` averages them; empty where it does not.
    """

    vocabulary: Vocabulary
    config: WordConfig
    parameters: dict[str, Tensor]
    moments: Moments
    average: dict[str, Tensor]

    @classmethod
    def of(cls, vocabulary: Vocabulary, config: WordConfig, tensors: Mapping[str, Tensor]) -> "WordModel":
        """Return the model whose `tensors` these are."""
        names = shapes_of(config, len(vocabulary))
        parameters, first, second = (
            {name: tensors[before + name] for name in names} for before in ("", FIRST, SECOND)
        )
        average = {name: tensors[AVERAGE + name] for name in names if config.average}
        return cls(vocabulary, config, parameters, Moments(first, second), average)

    @classmethod
    def drawn(cls, vocabulary: Vocabulary, config: WordConfig, generator: torch.Generator) -> "WordModel":
        """Return a model that has not been trained."""
        parameters = draw(shapes_of(config, len(vocabulary)), generator)
        first, second, average = (
            {name: torch.zeros_like(p) for name, p in parameters.items()} for _ in "123"
        )
        return cls(vocabulary, config, parameters, Moments(first, second), average if config.average else {})

    @property
    def block_size(self) -> int:
        """How many symbols of context the model is given."""
        return self.config.block_size

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and what training goes on with, by name."""
        groups = {"": self.parameters, FIRST: self.moments.first, SECOND: self.moments.second}
        groups[AVERAGE] = self.average
        return {before + name: t for before, group in groups.items() for name, t in group.items()}

    def changed(self, change: Callable[[Tensor], Tensor]) -> "WordModel":
        """Return the model with every tensor changed."""
        tensors = {name: change(t) for name, t in self.tensors.items()}
        return WordModel.of(self.vocabulary, self.config, tensors)

    def to(self, device: str) -> "WordModel":
        """Return the model on a device."""
        return self.changed(lambda t: t.to(device))

    def copy(self) -> "WordModel":
        """Return a model that stays as it is when this one's parameters are trained further."""
        return self.changed(torch.clone)

    def settings(self, steps_before: int = 0) -> Settings:
        """Return what an engine is told beside parameters and minibatches."""
        c = self.config
        return Settings(steps_before, c.weight_decay, c.heads, c.dropout, c.seed)

    @torch.no_grad()
    def all_logits(self, X: Tensor) -> Tensor:
        """Return the logits (n, T, vocabulary) at every position of words X (n, T), as a minibatch has them.

        Raises:
            WordsError: the words are longer than those that the model was made for.
        """
        self.refuse_longer(X)
        book = textbook(self.config.type)
        given = book.given(self.parameters, X, Settings(heads=self.config.heads), 0)  # nothing is dropped
        return book.forward(X, torch.zeros_like(X), self.parameters, given)["logits"]

    def refuse_longer(self, X: Tensor) -> None:
        """Raise if words X (n, T) are longer than those that the model was made for."""
        if "P" in self.parameters and X.shape[1] > len(self.parameters["P"]):
            raise WordsError(
                f"a word has {X.shape[1] - 1} letters; this model knows {self.block_size} positions at most"
            )

    def logits(self, X: Tensor) -> Tensor:
        """Return the logits for contexts X, integers (n, block_size), 0 before a word: (n, vocabulary)."""
        rows = []
        for contexts in X.long().split(AT_ONCE):
            sizes = (contexts != 0).sum(1)  # (n,)
            t = torch.arange(int(sizes.max()) + 1, device=X.device)  # (T,)
            where = (t + (X.shape[1] - 1 - sizes[:, None])).clamp(0, X.shape[1] - 1)  # (n, T)
            words = contexts.gather(1, where) * ((t > 0) & (t <= sizes[:, None]))  # (n, T)
            rows.append(self.all_logits(words)[torch.arange(len(words), device=X.device), sizes])
        return torch.cat(rows)

    def loss(self, contexts: Contexts) -> float:
        """Return the mean cross entropy over all symbols, in nats; in machine code if that has trained it."""
        words, kind = contexts.whole, self.config.type
        if self.config.engine == "native" and runs_in_machine_code(kind, self.parameters):
            longest = int(words.sizes.max())
            X, Y = words.X[:, :longest], words.Y[:, :longest]
            self.refuse_longer(X)
            undropped = Settings(heads=self.config.heads)
            return native_words.total_loss(kind, self.parameters, X, Y, undropped) / len(contexts)
        return self.total_loss(words) / len(contexts)

    def total_loss(self, words: Words) -> float:
        """Return the sum of the cross entropies of all symbols, by the pass; summed in float64."""
        total = 0.0
        for some in words.sizes.argsort().split(AT_ONCE):  # words of one length together: less padding
            longest = int(words.sizes[some].max())
            X, Y = words.X[some, :longest], words.Y[some, :longest]
            logprobs = self.all_logits(X).log_softmax(2).gather(2, Y.clamp(min=0)[:, :, None])[:, :, 0]
            total -= logprobs[Y >= 0].double().sum().item()
        return total
