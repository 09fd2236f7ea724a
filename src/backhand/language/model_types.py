"""What a run's model is made of, whatever its type: the lecture's, or one that reads whole words."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from . import word_models
from .config import TrainConfig
from .model import Model, draw_parameters, parameter_shapes
from .recipes import WordConfig
from .vocabulary import Vocabulary
from .word_models import Shapes, WordModel

AnyModel: TypeAlias = Model | WordModel


def shapes_of(config: TrainConfig, vocab_size: int) -> Shapes:
    """Return the shapes of a model's parameters."""
    if isinstance(config, WordConfig):
        return word_models.shapes_of(config, vocab_size)
    return parameter_shapes(config, vocab_size)


def uses_hidden(config: TrainConfig) -> bool:
    """Return whether a model's size depends on `n_hidden`."""
    shapes = (shapes_of(each, 2) for each in (config, replace(config, n_hidden=config.hidden + 1)))
    return next(shapes) != next(shapes)


def state_shapes(config: TrainConfig, vocab_size: int) -> Shapes:
    """Return the shapes of all that a checkpoint holds of a model."""
    if isinstance(config, WordConfig):
        return word_models.state_shapes(config, vocab_size)
    shapes = parameter_shapes(config, vocab_size)
    return shapes | {"bnmean": shapes["bngain"], "bnstd": shapes["bngain"]}


def model_of(config: TrainConfig, tensors: Mapping[str, Tensor], vocabulary: Vocabulary) -> AnyModel:
    """Return the model that the tensors of a checkpoint are."""
    if isinstance(config, WordConfig):
        return WordModel.of(vocabulary, config, tensors)
    parameters = {name: tensors[name] for name in parameter_shapes(config, len(vocabulary))}
    return Model(vocabulary, parameters, tensors["bnmean"], tensors["bnstd"])


def draw_model(config: TrainConfig, vocabulary: Vocabulary, generator: torch.Generator) -> AnyModel:
    """Return a model that has not been trained, on the CPU."""
    if isinstance(config, WordConfig):
        return WordModel.drawn(vocabulary, config, generator)
    parameters = draw_parameters(config, len(vocabulary), generator)
    return Model(vocabulary, parameters, torch.zeros(1, config.hidden), torch.ones(1, config.hidden))
