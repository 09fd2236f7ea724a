"""The native engines of the models that read whole words: steps of AdamW as machine code, on one core.

The steps of each type are in a module of their own, `rnn_steps` and so on, which need Numba; this module does
not, until an engine is used. A type is compiled when it is first used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from . import native
from .stepping import Parameters

AT_ONCE = 1 << 7
"""Words that are evaluated at once: what a forward keeps of so few stays in the cache."""


class Moments(NamedTuple):
    """AdamW's running means of the gradients and of their squares, by parameter; updated in place."""

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """What steps depend on beside parameters and minibatches.

    Args:
        steps_before: how many steps the moments have seen.
        weight_decay: what share of a parameter a step takes away, in learning rates.
        heads: of a transformer's attention.
        dropout: the share of a transformer's branches that `dropping` drops.
        seed: that of `dropping`.
    """

    steps_before: int = 0
    weight_decay: float = 0.01
    heads: int = 1
    dropout: float = 0.0
    seed: int = 0


def take_steps(
    kind: str,
    parameters: Parameters,
    Xs: Tensor,
    Ys: Tensor,
    rates: Sequence[float],
    moments: Moments,
    settings: Settings,
) -> Tensor:
    """Take one step of AdamW for each minibatch, in machine code.

    Args:
        kind: "rnn", "gru" or "transformer".
        parameters: those of its pass, float32 on a CPU; updated in place.
        Xs: words, int64 (steps, n, T): 0, the word's symbols, and 0 where it has ended.
        Ys: targets, int64 (steps, n, T): the word's symbols, 0 for its end, and -1 after it.
        rates: the learning rate of each step.
        moments: as the steps before left them, zeros at first.
        settings: the rest.

    Returns:
        The loss of each step before its update, (steps,): the mean over all targets.

    Raises:
        IndexError: a symbol is not in the vocabulary, or the words have more positions than a transformer.
    """
    refuse_beyond(parameters, Xs, Ys)
    return machine_code(kind).take_steps(parameters, Xs, Ys, rates, moments, settings)


def total_loss(kind: str, parameters: Parameters, X: Tensor, Y: Tensor, settings: Settings) -> float:
    """Return the sum of the losses of all targets of words, in machine code.

    Args:
        kind: "rnn", "gru" or "transformer".
        parameters: those of its pass, float32 on a CPU.
        X: words, int64 (n, T), in any order; those that begin alike are put together, to be computed once.
        Y: targets, int64 (n, T).
        settings: those of evaluation, without dropout.

    Raises:
        IndexError: a symbol is not in the vocabulary, or the words have more positions than a transformer.
    """
    refuse_beyond(parameters, X, Y)
    order = np.lexsort(X.numpy().T[::-1])
    more = -len(X) % AT_ONCE  # empty words, which fill up the last minibatch
    Xs = pad(X[order], (0, 0, 0, more)).view(-1, AT_ONCE, X.shape[1])
    Ys = pad(Y[order], (0, 0, 0, more), value=-1).view(Xs.shape)
    means = machine_code(kind).losses(parameters, Xs, Ys, settings)
    return float(means.double() @ (Ys >= 0).sum((1, 2)).double())


def refuse_beyond(parameters: Parameters, X: Tensor, Y: Tensor) -> None:
    """Raise where machine code would read beyond an array."""
    vocabulary = len(parameters["E"])
    for symbols, least in ((X, 0), (Y, -1)):
        if symbols.numel() and not least <= symbols.min() <= symbols.max() < vocabulary:
            raise IndexError(f"symbols are numbered from 0 to {vocabulary - 1}; there is one beyond")
    if "P" in parameters and X.shape[-1] > len(parameters["P"]):
        raise IndexError(f"words of {X.shape[-1]} positions, in a model of {len(parameters['P'])}")


def machine_code(kind: str) -> Any:
    """Return a type's `word_steps.NativeModel`, compiled."""
    native.machine_code(f"{kind}_steps")
    module = native.steps(f"{kind}_steps")
    assert isinstance(module, ModuleType)
    return module.MODEL
