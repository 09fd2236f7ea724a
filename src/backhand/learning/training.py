"""Exercise 4 of the lecture: train the language model with the learner's own backward, autograd unused."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from types import ModuleType

import torch
from torch import Tensor

from backhand.checking.verdicts.comparing import largest_difference
from backhand.engines.stepping import Engine, by_autograd, by_hand, descend
from backhand.errors import in_short
from backhand.language.config import TrainConfig
from backhand.language.contexts import Contexts
from backhand.language.drawing import LECTURE_SEED, draw_words
from backhand.language.model import Model, calibrate, draw_parameters
from backhand.language.vocabulary import Vocabulary
from backhand.language.words import load_words

STEPS = 200
WORDS = 2000
RATE = 0.1
# After so many steps more, names come out that one can read; it takes about a second.
MORE = 1500
DRAWN = 8
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
        words: what the model makes up after some more steps with the learner's backward.
    """

    losses: tuple[float, ...]
    expected: tuple[float, ...]
    difference: float
    error: str = ""
    words: tuple[str, ...] = ()

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
    vocabulary: Vocabulary
    contexts: Contexts
    more: tuple[Tensor, Tensor]


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
    more = contexts[torch.randint(0, len(contexts), (MORE, config.batch_size), generator=generator)]
    copies = {name: p.clone() for name, p in parameters.items()}
    expected = descend(by_autograd)(copies, Xs, Ys, [RATE] * STEPS)
    return _Start(parameters, Xs, Ys, expected, vocabulary, contexts, more)


def train_with(module: ModuleType) -> Training:
    """Train for 200 steps with the gradients of a learner's pass, and compare the loss with autograd's."""
    start = _start()
    copies = {name: p.clone() for name, p in start.parameters.items()}
    expected = tuple(start.expected.tolist())
    try:
        engine = descend(by_hand(module))
        losses = engine(copies, start.Xs, start.Ys, [RATE] * STEPS)
        trained = Training(tuple(losses.tolist()), expected, largest_difference(losses, start.expected))
        return replace(trained, words=_words(engine, copies, start)) if trained.matches else trained
    except Exception as error:  # the learner's code may raise anything
        return Training((), expected, float("inf"), in_short(error))


def _words(engine: Engine, parameters: dict[str, Tensor], start: _Start) -> tuple[str, ...]:
    """Go on training until names come out, and return some."""
    engine(parameters, *start.more, [RATE] * MORE)
    model = Model(start.vocabulary, parameters, *calibrate(parameters, start.contexts))
    return tuple(islice(draw_words(model, torch.Generator().manual_seed(LECTURE_SEED)), DRAWN))
