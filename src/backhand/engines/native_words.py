"""The native engines of the models that read whole words: steps of AdamW as machine code, on one core.

The steps of each type are in a module of their own, `rnn_steps` and so on, which need Numba; this module does
not, until an engine is used. A type is compiled when it is first used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

from torch import Tensor

from . import native
from .stepping import Parameters


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
    vocabulary = len(parameters["E"])
    for symbols, least in ((Xs, 0), (Ys, -1)):
        if symbols.numel() and not least <= symbols.min() <= symbols.max() < vocabulary:
            raise IndexError(f"symbols are numbered from 0 to {vocabulary - 1}; there is one beyond")
    if "P" in parameters and Xs.shape[2] > len(parameters["P"]):
        raise IndexError(f"words of {Xs.shape[2]} positions, in a model of {len(parameters['P'])}")
    native.machine_code(f"{kind}_steps")
    module = native.steps(f"{kind}_steps")
    assert isinstance(module, ModuleType)
    return module.MODEL.take_steps(parameters, Xs, Ys, rates, moments, settings)
