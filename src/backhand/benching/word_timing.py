"""Timing steps of the models of whole words, checked first as those of the lecture's model are."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from backhand.engines.native_words import Moments, Settings, take_steps
from backhand.language.contexts import split_words
from backhand.language.vocabulary import Vocabulary
from backhand.language.words import load_words

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


def batch(words: Sequence[Sequence[int]], T: int) -> tuple[Tensor, Tensor]:
    """Return words of symbols from 1 as inputs and targets (n, T); what is longer than T - 1 is cut.

    >>> batch([[5, 2], [7]], 4)[1].tolist()
    [[5, 2, 0, -1], [7, 0, -1, -1]]
    """
    X, Y = torch.zeros(len(words), T, dtype=torch.int64), torch.full((len(words), T), -1)
    for i, whole in enumerate(words):
        word = torch.tensor(whole[: T - 1], dtype=torch.int64)
        X[i, 1 : len(word) + 1] = Y[i, : len(word)] = word
        Y[i, len(word)] = 0
    return X, Y


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


CONTENDERS: dict[str, Contender] = {EAGER: eager, "torch.compile": compiled, "native": native}


@dataclass(frozen=True)
class WordCase:
    """A model of whole words, and minibatches to train it on."""

    kind: str
    parameters: Parameters
    Xs: Tensor
    Ys: Tensor

    def run(self, contender: Contender, steps: int) -> tuple[Tensor, float]:
        """Take steps from the initial parameters; return the losses, and seconds a step."""
        which = torch.arange(steps) % len(self.Xs)
        Xs, Ys = self.Xs[which], self.Ys[which]
        began = time.perf_counter()
        losses = contender(self.kind, self.parameters, Xs, Ys)
        return losses, (time.perf_counter() - began) / steps


def make_case(kind: str, words: str) -> WordCase:
    """Return a model of makemore's size, and minibatches of a list's training words."""
    listed = load_words(words)
    vocabulary = Vocabulary.of(listed)
    X, Y = batch(list(map(vocabulary.encode, split_words(listed).train)), POSITIONS)
    generator = torch.Generator().manual_seed(42)
    which = torch.randint(0, len(X), (CHECKED_STEPS, BATCH), generator=generator)
    sizes = {"V": len(vocabulary), "e": WIDTH, "m": WIDTH, "T": POSITIONS, "L": LAYERS}
    return WordCase(kind, draw(shapes_of(kind, **sizes), generator), X[which], Y[which])


def measure_types(
    types: Sequence[str],
    words: str,
    contenders: Sequence[str],
    rounds: int,
    seconds: float,
    watch: Callable[[str], None],
) -> Iterator[WordTiming]:
    """Check and time the contenders on each type of model; PyTorch's eager mode is always among them."""
    names = [EAGER, *(name for name in CONTENDERS if name in contenders)]
    for kind in types:
        watch(f"{kind}, batch {BATCH}")
        yield from time_case(make_case(kind, words), names, rounds, seconds)


def time_case(case: WordCase, names: Sequence[str], rounds: int, seconds: float) -> list[WordTiming]:
    """Check the contenders on one case, and time them in turn."""
    double = replace(case, parameters={name: p.double() for name, p in case.parameters.items()})
    expected, _ = double.run(eager, CHECKED_STEPS)
    checked = [check(case, name, expected) for name in names]
    sound = [timing.name for timing in checked if timing.failure is None]
    steps = {name: steps_in(case, CONTENDERS[name], seconds) for name in sound}
    times = {name: np.empty(rounds) for name in sound}
    for r in range(rounds):
        for name in sound:
            times[name][r] = case.run(CONTENDERS[name], steps[name])[1]
    return [summarised(timing, times) if timing.name in times else timing for timing in checked]


def check(case: WordCase, name: str, expected: Tensor) -> WordTiming:
    """Compare a contender's losses with those of a float64 run."""
    blank = WordTiming(name, case.kind, case.Xs.shape[1])
    try:
        losses, _ = case.run(CONTENDERS[name], CHECKED_STEPS)
    except Exception as error:  # whatever a compiler or a missing package may raise
        return replace(blank, failure=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
    loss_error = (losses - expected).abs().max().item()
    if not loss_error < CLOSE_ENOUGH:
        failure = f"a loss is off by {loss_error:.2g}, above {CLOSE_ENOUGH:g}: not the same training"
        return replace(blank, loss_error=loss_error, failure=failure)
    return replace(blank, loss_error=loss_error)


def steps_in(case: WordCase, contender: Contender, seconds: float) -> int:
    """Return how many steps take about as long."""
    pace = case.run(contender, 10)[1]
    return max(2, min(20_000, round(seconds / pace)))


def summarised(timing: WordTiming, times: dict[str, np.ndarray]) -> WordTiming:
    """Return a timing with its median and quartiles, in microseconds."""
    own = times[timing.name]
    low, median, high = (np.quantile(own, [0.25, 0.5, 0.75]) * 1e6).tolist()
    ratio = float(np.median(times[EAGER] / own)) if EAGER in times else float("nan")
    return replace(timing, microseconds=median, low=low, high=high, ratio=ratio)
