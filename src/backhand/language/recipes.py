"""The options of the models that read whole words: a configuration a type, whose defaults are its recipe."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import tyro

from backhand.errors import ConfigError

from .config import BatchNorm, EngineName, TrainConfig, TypeName, flag, is_number, is_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordConfig(TrainConfig):
    """One training run of a model that reads whole words, by AdamW.

    Of the options of the lecture's model, those that have no meaning here are left at their defaults:
    `block_size` becomes the length of the longest word, and there is no batch norm.

    >>> [round(CONFIGS["gru"](steps=100).rate_at(step), 6) for step in (0, 50, 99)]
    [0.002, 0.00115, 0.0003]
    """

    passes: ClassVar[int] = 7  # fifty times through the lecture's words, of seven symbols each
    most_steps: ClassVar[int] = 40_000

    block_size: Annotated[int, tyro.conf.Suppress] = 3
    drop_at: Annotated[float, tyro.conf.Suppress] = 0.5
    batch_norm: Annotated[BatchNorm, tyro.conf.Suppress] = "calibrate"
    batch_size: int = 32
    """words in a minibatch"""

    n_embd: int = 64
    """size of the embedding of one symbol; of a transformer, of everything"""

    n_hidden: int = 64
    """numbers in a state of an rnn or gru"""

    rate: float = 2e-3
    """learning rate at first; it falls along half a cosine"""

    final_rate: float = 0.0
    """learning rate in the end; averaging likes it to be above 0"""

    weight_decay: float = 0.01
    """what share of a parameter a step takes away, in learning rates"""

    average: float = 0.0
    """share of the steps, the last ones, over which weights are averaged for the model to use"""

    layers: int = 4
    """of a transformer"""

    heads: int = 4
    """of a transformer's attention"""

    dropout: float = 0.0
    """share of the numbers that a transformer's branches drop in training"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers", "heads"):
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise ConfigError(f"{flag(name)} is {value!r:.50}; it must be a whole number from 1 up")
        for name in ("dropout", "average"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < 1:
                raise ConfigError(f"{flag(name)} is {value!r:.50}; it is a share, at least 0 and below 1")
        if not is_number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"--weight-decay is {self.weight_decay!r:.50}; it must be a number from 0 up")

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        done = step / (self.steps or self.most_steps)
        return self.final_rate + (self.rate - self.final_rate) * 0.5 * (1 + math.cos(math.pi * done))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BigramConfig(WordConfig):
    """A run of the bigram model."""

    type: TypeName = "bigram"
    engine: EngineName = "chunked"
    """whose backward pass: PyTorch's, or one by hand; there is no machine code of it, and native is fused"""
    rate: float = 0.02
    """learning rate at first; it falls along half a cosine"""
    weight_decay: float = 0.0
    """what share of a parameter a step takes away, in learning rates"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RnnConfig(WordConfig):
    """A run of the rnn."""

    most_steps: ClassVar[int] = 22_000
    type: TypeName = "rnn"
    final_rate: float = 5e-4
    """learning rate in the end"""
    average: float = 0.2
    """share of the steps, the last ones, over which weights are averaged for the model to use"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GruConfig(WordConfig):
    """A run of the gru."""

    most_steps: ClassVar[int] = 22_000
    type: TypeName = "gru"
    final_rate: float = 3e-4
    """learning rate in the end"""
    average: float = 0.6
    """share of the steps, the last ones, over which weights are averaged for the model to use"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig(WordConfig):
    """A run of the transformer: without dropout and weight decay it overfits the lecture's list."""

    most_steps: ClassVar[int] = 10_500
    type: TypeName = "transformer"
    batch_size: int = 64
    """words in a minibatch"""
    final_rate: float = 3e-4
    """learning rate in the end"""
    average: float = 0.3
    """share of the steps, the last ones, over which weights are averaged for the model to use"""
    dropout: float = 0.2
    """share of the numbers that a transformer's branches drop in training"""
    weight_decay: float = 0.1
    """what share of a parameter a step takes away, in learning rates"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_embd % self.heads:
            raise ConfigError(
                f"--n-embd is {self.n_embd}; {self.heads} heads cannot share it, take a multiple of --heads"
            )


CONFIGS: Mapping[str, type[TrainConfig]] = {
    "bigram": BigramConfig,
    "mlp": TrainConfig,
    "rnn": RnnConfig,
    "gru": GruConfig,
    "transformer": TransformerConfig,
}
"""The types of model, each with its options: all that the rest of the package knows of which there are."""


def config_of(kind: str) -> type[TrainConfig]:
    """Return the options of a type.

    Raises:
        ConfigError: there is no such type.
    """
    if kind not in CONFIGS:
        raise ConfigError(f"there is no --type {kind!r:.50}; choose from {', '.join(CONFIGS)}")
    return CONFIGS[kind]
