"""Exercise 4 of the lecture: train the language model with the learner's own backward, autograd unused."""

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from backhand.checking.verdicts.comparing import largest_difference
from backhand.engines.stepping import by_autograd, by_hand, descend
from backhand.errors import in_short
from backhand.language.config import TrainConfig
from backhand.language.contexts import Contexts
from backhand.language.model import draw_parameters
from backhand.language.vocabulary import Vocabulary
from backhand.language.words import load_words

STEPS = 200
WORDS = 2000
RATE = 0.1
# Two right backward passes differ by rounding, which training amplifies; in float64 far below this.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Training:
    """Two loss curves from the same start on the same minibatches.

    Attributes:
        losses: with the learner's backward, one a step, in nats.
        expected: with autograd.
        difference: the largest one between the two.
        error: the exception in which the learner's training ended, or an empty string.
    """

    losses: tuple[float, ...]
    expected: tuple[float, ...]
    difference: float
    error: str = ""

    @property
    def matches(self) -> bool:
        """Tell whether the curves agree."""
        return not self.error and self.difference <= TOLERANCE


@dataclass(frozen=True)
class _Start:
    parameters: dict[str, Tensor]
    Xs: Tensor
    Ys: Tensor
    expected: Tensor


@cache
def _start() -> _Start:
    """Draw parameters and minibatches once, and train on them with autograd."""
    words = load_words("names", None, ())[:WORDS]
    vocabulary = Vocabulary.of(words)
    config = TrainConfig(words="names", n_hidden=64)
    generator = torch.Generator().manual_seed(config.seed)
    drawn = draw_parameters(config, len(vocabulary), generator)
    parameters = {name: p.detach().double() for name, p in drawn.items()}
    contexts = Contexts(words, vocabulary, config.block_size)
    rows = torch.randint(0, len(contexts), (STEPS, config.batch_size), generator=generator)
    Xs, Ys = contexts[rows]
    copies = {name: p.clone() for name, p in parameters.items()}
    expected = descend(by_autograd)(copies, Xs, Ys, [RATE] * STEPS)
    return _Start(parameters, Xs, Ys, expected)


def train_with(module: ModuleType) -> Training:
    """Train for 200 steps with the gradients of a learner's pass, and compare the loss with autograd's."""
    start = _start()
    copies = {name: p.clone() for name, p in start.parameters.items()}
    expected = tuple(start.expected.tolist())
    try:
        losses = descend(by_hand(module))(copies, start.Xs, start.Ys, [RATE] * STEPS)
    except Exception as error:  # the learner's code may raise anything
        return Training((), expected, float("inf"), in_short(error))
    return Training(tuple(losses.tolist()), expected, largest_difference(losses, start.expected))
