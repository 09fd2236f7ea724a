"""What a run's model is made of, whatever its type: the lecture's, or one that reads whole words."""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from backhand.engines.native_words import Moments

from .config import TrainConfig
from .model import Model, draw_parameters, parameter_shapes
from .recipes import WordConfig
from .vocabulary import Vocabulary
from .word_models import FIRST, SECOND, SHAPES, Shapes, WordModel, draw

AnyModel: TypeAlias = Model | WordModel


def shapes_of(config: TrainConfig, vocab_size: int) -> Shapes:
    """Return the shapes of a model's parameters."""
    if isinstance(config, WordConfig):
        return SHAPES[config.type](config, vocab_size)
    return parameter_shapes(config, vocab_size)


def state_shapes(config: TrainConfig, vocab_size: int) -> Shapes:
    """Return the shapes of all that a checkpoint holds of a model."""
    shapes = shapes_of(config, vocab_size)
    if isinstance(config, WordConfig):
        return shapes | {before + name: shape for before in (FIRST, SECOND) for name, shape in shapes.items()}
    return shapes | {"bnmean": shapes["bngain"], "bnstd": shapes["bngain"]}


def model_of(config: TrainConfig, tensors: Mapping[str, Tensor], vocabulary: Vocabulary) -> AnyModel:
    """Return the model that the tensors of a checkpoint are."""
    names = shapes_of(config, len(vocabulary))
    parameters = {name: tensors[name] for name in names}
    if isinstance(config, WordConfig):
        first, second = ({name: tensors[before + name] for name in names} for before in (FIRST, SECOND))
        return WordModel(vocabulary, config, parameters, Moments(first, second))
    return Model(vocabulary, parameters, tensors["bnmean"], tensors["bnstd"])


def draw_model(config: TrainConfig, vocabulary: Vocabulary, generator: torch.Generator) -> AnyModel:
    """Return a model that has not been trained, on the CPU."""
    if isinstance(config, WordConfig):
        parameters = draw(shapes_of(config, len(vocabulary)), generator)
        first, second = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
        return WordModel(vocabulary, config, parameters, Moments(first, second))
    parameters = draw_parameters(config, len(vocabulary), generator)
    return Model(vocabulary, parameters, torch.zeros(1, config.n_hidden), torch.ones(1, config.n_hidden))
