"""Steps of AdamW for the models that read whole words: one engine a way to get the gradients."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from . import adamw, native, native_words
from .native_words import Moments, Settings
from .stepping import Parameters
from .textbooks import Textbook, has_machine_code, textbook


class WordEngine(Protocol):
    """Some steps of training: updates parameters and moments in place, returns the losses."""

    def __call__(
        self,
        kind: str,
        parameters: Parameters,
        Xs: Tensor,
        Ys: Tensor,
        rates: Sequence[float],
        moments: Moments,
        settings: Settings,
    ) -> Tensor:
        """Take one step for each minibatch, as `native_words.take_steps` does."""
        ...


def trimmed(X: Tensor, Y: Tensor, given: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return a minibatch without the positions at which all words have ended."""
    used = int((Y >= 0).sum(1).max())
    if "kept" in given:
        given = given | {"kept": given["kept"][:, :, :, :used]}
    return X[:, :used], Y[:, :used], given


Gradients = Callable[..., tuple[Tensor, dict[str, Tensor]]]
"""Returns loss and gradients for a pass, parameters, words X and Y, and what else the pass is given."""


def by_autograd(
    book: Textbook, parameters: Parameters, X: Tensor, Y: Tensor, given: dict[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and PyTorch's own gradients."""
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        loss = book.forward(X, Y, leaves, given)["loss"]
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return loss.detach(), {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}


def by_hand(
    book: Textbook, parameters: Parameters, X: Tensor, Y: Tensor, given: dict[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the hand-written gradients."""
    tensors = book.forward(X, Y, parameters, given)
    return tensors["loss"], book.backward(tensors)


def descend(gradients_of: Gradients, fused: bool = False) -> WordEngine:
    """Return the engine with gradients from one of the two, of the chunked pass or of the fused one."""

    @torch.no_grad()
    def engine(
        kind: str,
        parameters: Parameters,
        Xs: Tensor,
        Ys: Tensor,
        rates: Sequence[float],
        moments: Moments,
        settings: Settings,
    ) -> Tensor:
        book, losses = textbook(kind, fused), []
        for i, (X, Y, rate) in enumerate(zip(Xs, Ys, rates, strict=True)):
            step = settings.steps_before + i
            minibatch = trimmed(X, Y, book.given(parameters, X, settings, step))
            loss, gradients = gradients_of(book, parameters, *minibatch)
            adamw.update(
                parameters, gradients, *moments, rate=rate, weight_decay=settings.weight_decay, step=step + 1
            )
            losses.append(loss)
        return torch.stack(losses)

    return engine


fused: WordEngine = descend(by_hand, fused=True)


def is_for_machine_code(kind: str, parameters: Parameters) -> bool:
    """Return whether a type's steps have been written as machine code, and its parameters are on a CPU."""
    return has_machine_code(kind) and next(iter(parameters.values())).device.type == "cpu"


def runs_in_machine_code(kind: str, parameters: Parameters) -> bool:
    """Return whether the native engine takes a model's steps in machine code."""
    return is_for_machine_code(kind, parameters) and native.why_not(parameters) is None


def machine_code(
    kind: str,
    parameters: Parameters,
    Xs: Tensor,
    Ys: Tensor,
    rates: Sequence[float],
    moments: Moments,
    settings: Settings,
) -> Tensor:
    """Take some steps in machine code; where that cannot be, the fused engine does.

    It says so in a NativeEngineWarning, unless it is because of the type or a GPU.
    """
    take = fused
    if is_for_machine_code(kind, parameters):
        reason = native.why_not(parameters)
        if reason is None:
            take = native_words.take_steps
        else:
            text = f"{reason}; the fused engine takes its place"
            warnings.warn(text, native.NativeEngineWarning, stacklevel=2)
    return take(kind, parameters, Xs, Ys, rates, moments, settings)


WORD_ENGINES: Mapping[str, WordEngine] = {
    "autograd": descend(by_autograd),
    "chunked": descend(by_hand),
    "fused": fused,
    "native": machine_code,
}
