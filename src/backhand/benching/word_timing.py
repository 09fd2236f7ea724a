"""Timing steps of the models of whole words, checked first as those of the lecture's model are."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from backhand.engines.native_words import Moments, Settings, take_steps
from backhand.language.contexts import Contexts, split_words
from backhand.language.vocabulary import Vocabulary
from backhand.language.words import load_words

from . import word_jax
from .racing import checked, raced, steps_in, summarised
from .report import WordTiming
from .word_peers import Model, Parameters, draw, plain_model, shapes_of, train

TYPES = ("rnn", "gru", "transformer")
POSITIONS, WIDTH, LAYERS, HEADS, BATCH = 16, 64, 4, 4, 32
"""Of makemore's models, and of its minibatches."""

RATE, WEIGHT_DECAY = 1e-3, 0.01
CHECKED_STEPS = 200
CLOSE_ENOUGH = 1e-5
"""How far a loss may be from that of a float64 run: after as many steps of AdamW, which divides small
gradients by small roots, float32 rounding leaves about 1e-6."""

EAGER = "PyTorch, eager"
Contender = Callable[[str, Parameters, Tensor, Tensor], Tensor]


def eager(kind: str, parameters: Parameters, Xs: Tensor, Ys: Tensor) -> Tensor:
    """Train by autograd, an operation at a time, in the parameters' precision."""
    return by_autograd(plain_model(kind, HEADS), parameters, Xs, Ys)


def by_autograd(model: Model, parameters: Parameters, Xs: Tensor, Ys: Tensor) -> Tensor:
    """Return the losses of training a copy of the parameters."""
    dtype = parameters["E"].dtype
    return train(model, parameters, Xs, Ys, [RATE] * len(Xs), WEIGHT_DECAY, dtype)[0]


@cache
def compiled_model(kind: str) -> Model:
    """Return torch.compile's version of a model; autograd's backward of it is compiled as well."""
    logits = torch.compile(lambda p, X: plain_model(kind, HEADS)(p, X, 0), dynamic=False)
    return lambda p, X, step: logits(p, X)


def compiled(kind: str, parameters: Parameters, Xs: Tensor, Ys: Tensor) -> Tensor:
    """Train with the model under torch.compile."""
    return by_autograd(compiled_model(kind), parameters, Xs, Ys)


def native(kind: str, parameters: Parameters, Xs: Tensor, Ys: Tensor) -> Tensor:
    """Train in machine code."""
    copy = {name: p.clone() for name, p in parameters.items()}
    moments = Moments(*({name: torch.zeros_like(p) for name, p in copy.items()} for _ in range(2)))
    settings = Settings(weight_decay=WEIGHT_DECAY, heads=HEADS)
    return take_steps(kind, copy, Xs, Ys, [RATE] * len(Xs), moments, settings)


def in_jax(kind: str, parameters: Parameters, Xs: Tensor, Ys: Tensor) -> Tensor:
    """Train with JAX."""
    return word_jax.losses(kind, parameters, Xs, Ys, HEADS, RATE, WEIGHT_DECAY)


CONTENDERS: dict[str, Contender] = {
    EAGER: eager,
    "torch.compile": compiled,
    "JAX jit + scan": in_jax,
    "native": native,
}


@dataclass(frozen=True)
class WordCase:
    """A model of whole words, and minibatches to train it on."""

    kind: str
    parameters: Parameters
    Xs: Tensor
    Ys: Tensor

    def run(self, contender: Contender, steps: int) -> tuple[Tensor, float]:
        """Take steps from the initial parameters; return the losses, and seconds of processor time a step.

        All contenders compute on one core; what else the machine does costs less of that than of the clock.
        """
        which = torch.arange(steps) % len(self.Xs)
        Xs, Ys = self.Xs[which], self.Ys[which]
        began = time.process_time()
        losses = contender(self.kind, self.parameters, Xs, Ys)
        return losses, (time.process_time() - began) / steps

    def flops(self) -> float:
        """Return the operations of a step's dense products that no contender can leave out, at the mean.

        That is two for each number of a matrix and each state, forward, and twice as many backward. Words
        that begin alike share their states as far as they do, and the first layer (Wx) is a table.
        """
        numbers = sum(p.numel() for name, p in self.parameters.items() if name[0] == "W" and name != "Wx")
        return 6 * numbers * sum(map(count_states, self.Xs, self.Ys)) / len(self.Xs)


def count_states(X: Tensor, Y: Tensor) -> int:
    """Return how many different beginnings the words of a minibatch have, those of one symbol among them."""
    return sum(len(X[Y[:, t] >= 0, : t + 1].unique(dim=0)) for t in range(X.shape[1]) if (Y[:, t] >= 0).any())


def make_case(kind: str, words: str) -> WordCase:
    """Return a model of makemore's size, and minibatches of a list's training words."""
    listed = load_words(words)
    vocabulary = Vocabulary.of(listed)
    X, Y, _ = Contexts(split_words(listed).train, vocabulary, POSITIONS - 1).whole
    generator = torch.Generator().manual_seed(42)
    which = torch.randint(0, len(X), (CHECKED_STEPS, BATCH), generator=generator)
    sizes = {"V": len(vocabulary), "e": WIDTH, "m": WIDTH, "T": X.shape[1], "L": LAYERS}
    return WordCase(kind, draw(shapes_of(kind, **sizes), generator), X[which], Y[which])


def measure_types(
    types: Sequence[str],
    words: str,
    contenders: Sequence[str],
    rounds: int,
    seconds: float,
    peak_gflops: float,
    watch: Callable[[str], None],
) -> Iterator[WordTiming]:
    """Check and time the contenders on each type of model; PyTorch's eager mode is always among them."""
    names = [EAGER, *(name for name in CONTENDERS if name in contenders)]
    for kind in types:
        watch(f"{kind}, batch {BATCH}")
        yield from time_case(make_case(kind, words), names, rounds, seconds, peak_gflops)


def time_case(
    case: WordCase, names: Sequence[str], rounds: int, seconds: float, peak_gflops: float
) -> list[WordTiming]:
    """Check the contenders on one case, and time them in turn."""
    double = replace(case, parameters={name: p.double() for name, p in case.parameters.items()})
    expected, _ = double.run(eager, CHECKED_STEPS)

    def losses_of(name: str) -> Tensor:
        return case.run(CONTENDERS[name], CHECKED_STEPS)[0]

    def pace(name: str, steps: int) -> float:
        return case.run(CONTENDERS[name], steps)[1]

    def warm_up(name: str) -> int:
        pace(name, 10)  # compilers compile
        steps = steps_in(seconds, pace(name, 10))
        pace(name, steps)  # JAX compiles anew for another number of steps
        return steps

    blanks = [WordTiming(name=name, kind=case.kind, batch_size=case.Xs.shape[1]) for name in names]
    timings = [checked(blank, losses_of, expected, CLOSE_ENOUGH) for blank in blanks]
    sound = [timing.name for timing in timings if timing.failure is None]
    times = raced(pace, {name: warm_up(name) for name in sound}, rounds)
    at_peak = case.flops() / peak_gflops / 1e3  # microseconds
    found = [summarised(timing, times, EAGER) for timing in timings]
    return [replace(t, share_of_peak=at_peak / t.microseconds) for t in found]
