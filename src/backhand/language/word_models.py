"""The models that read whole words: their parameters, and what they make of a word."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from backhand.engines.native_words import Moments, Settings
from backhand.engines.word_engines import TEXTBOOKS, extras
from backhand.errors import WordsError

from .contexts import Contexts
from .recipes import WordConfig
from .vocabulary import Vocabulary

Shapes = dict[str, tuple[int, ...]]

AT_ONCE = 1 << 10
"""Words that are computed at once; a pass keeps every layer's tensors, some 200 MB of a transformer's."""

FIRST, SECOND = "first.", "second."


def bigram_shapes(config: WordConfig, V: int) -> Shapes:
    """Shapes of the table."""
    return {"W": (V, V)}


def rnn_shapes(config: WordConfig, V: int) -> Shapes:
    """Shapes of the rnn's parameters."""
    e, m = config.n_embd, config.n_hidden
    inner = {"Wx": (e, m), "Wh": (m, m), "b": (m,)}
    return {"E": (V, e), "h0": (1, m), **inner, "Wo": (m, V), "bo": (V,)}


def gru_shapes(config: WordConfig, V: int) -> Shapes:
    """Shapes of the gru's parameters."""
    e, m = config.n_embd, config.n_hidden
    inner = {"Wx": (e, 3 * m), "Wh": (m, 2 * m), "Wn": (m, m), "b": (3 * m,)}
    return {"E": (V, e), "h0": (1, m), **inner, "Wo": (m, V), "bo": (V,)}


def transformer_shapes(config: WordConfig, V: int) -> Shapes:
    """Shapes of the transformer's parameters."""
    T, L, d = config.block_size + 1, config.layers, config.n_embd
    attention = {"Wqkv": (L, d, 3 * d), "bqkv": (L, 3 * d), "Wproj": (L, d, d), "bproj": (L, d)}
    wide = {"Wfc": (L, d, 4 * d), "bfc": (L, 4 * d), "Wout": (L, 4 * d, d), "bout": (L, d)}
    first, second = ({f"gain{i}": (L, d), f"bias{i}": (L, d)} for i in (1, 2))
    ends = {"gainf": (d,), "biasf": (d,), "Wo": (d, V)}
    return {"E": (V, d), "P": (T, d), **first, **attention, **second, **wide, **ends}


SHAPES: Mapping[str, Callable[[WordConfig, int], Shapes]] = {
    "bigram": bigram_shapes,
    "rnn": rnn_shapes,
    "gru": gru_shapes,
    "transformer": transformer_shapes,
}


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
    """A model that reads whole words: parameters, and AdamW's moments, with which training goes on."""

    vocabulary: Vocabulary
    config: WordConfig
    parameters: dict[str, Tensor]
    moments: Moments

    @property
    def block_size(self) -> int:
        """How many symbols of context the model is given."""
        return self.config.block_size

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and moments, by name."""
        first, second = self.moments
        tensors = self.parameters | {FIRST + name: t for name, t in first.items()}
        return tensors | {SECOND + name: t for name, t in second.items()}

    def changed(self, change: Callable[[Tensor], Tensor]) -> "WordModel":
        """Return the model with every tensor changed."""
        parameters, first, second = (
            {name: change(t) for name, t in each.items()} for each in (self.parameters, *self.moments)
        )
        return WordModel(self.vocabulary, self.config, parameters, Moments(first, second))

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
        if "P" in self.parameters and X.shape[1] > len(self.parameters["P"]):
            raise WordsError(
                f"a word has {X.shape[1] - 1} letters; this model knows {self.block_size} positions at most"
            )
        more = extras(self.config.type, self.parameters, X, Settings(heads=self.config.heads), 0)
        forward = TEXTBOOKS[self.config.type].forward
        return forward(X, torch.zeros_like(X), **self.parameters, **more)["logits"]

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
        """Return the mean cross entropy over all symbols, in nats; summed in float64."""
        words = contexts.whole
        total = 0.0
        for some in words.sizes.argsort().split(AT_ONCE):  # words of one length together: less padding
            longest = int(words.sizes[some].max())
            X, Y = words.X[some, :longest], words.Y[some, :longest]
            logprobs = self.all_logits(X).log_softmax(2).gather(2, Y.clamp(min=0)[:, :, None])[:, :, 0]
            total -= logprobs[Y >= 0].double().sum().item()
        return total / len(contexts)
