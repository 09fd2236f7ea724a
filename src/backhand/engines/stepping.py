"""Plain gradient descent in PyTorch, with gradients from autograd or from a hand-written pass."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from backhand.passes import mlp_fused

Parameters = Mapping[str, Tensor]


class Running(NamedTuple):
    """Running statistics of batch norm, each (1, n_hidden); an engine updates them in place."""

    bnmean: Tensor
    bnstd: Tensor

    def update(self, bnmeani: Tensor, bnvar: Tensor) -> None:
        """Move by a thousandth towards the mean and the standard deviation of a minibatch."""
        self.bnmean.mul_(0.999).add_(0.001 * bnmeani)
        self.bnstd.mul_(0.999).add_(0.001 * bnvar.sqrt())


class Engine(Protocol):
    """Some steps of training: takes minibatches, updates the parameters in place, returns the losses."""

    def __call__(
        self,
        parameters: Parameters,
        Xs: Tensor,
        Ys: Tensor,
        rates: Sequence[float],
        running: Running | None = None,
    ) -> Tensor:
        """Take one step for each minibatch.

        Args:
            parameters: C, W1, b1, W2, b2, bngain, bnbias, with the shapes of `passes`; updated in place.
            Xs: contexts, int64 (steps, n, block_size).
            Ys: targets, int64 (steps, n).
            rates: the learning rate of each step.
            running: running statistics to keep up, or None.

        Returns:
            The loss of each step before its update, (steps,), on the device of the parameters.
        """
        ...


Gradients = Callable[[Parameters, Tensor, Tensor], tuple[dict[str, Tensor], dict[str, Tensor]]]


def by_autograd(
    parameters: Parameters, Xb: Tensor, Yb: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the forward's tensors and the parameters' gradients from PyTorch's own backward pass."""
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    with torch.enable_grad():
        tensors = mlp_fused.forward(Xb, Yb, **leaves)
    gradients = torch.autograd.grad(tensors["loss"], list(leaves.values()))
    return tensors, {f"d{name}": g for name, g in zip(leaves, gradients, strict=True)}


def wired(textbook: ModuleType) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return the backward of a pass as a function of the tensors of its forward, wired by names."""
    saved = tuple(inspect.signature(textbook.backward).parameters)
    return lambda tensors: textbook.backward(**{name: tensors[name] for name in saved})


def by_hand(textbook: ModuleType) -> Gradients:
    """Return the function that computes gradients with a hand-written pass."""
    backward = wired(textbook)

    def gradients(
        parameters: Parameters, Xb: Tensor, Yb: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        tensors = textbook.forward(Xb, Yb, **parameters)
        return tensors, backward(tensors)

    return gradients


def descend(gradients_of: Gradients) -> Engine:
    """Return the engine that takes its gradients from the given function."""

    @torch.no_grad()
    def engine(
        parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float], running: Running | None = None
    ) -> Tensor:
        losses = []
        for Xb, Yb, rate in zip(Xs, Ys, rates, strict=True):
            tensors, gradients = gradients_of(parameters, Xb, Yb)
            for name, p in parameters.items():
                p -= rate * gradients[f"d{name}"]
            if running is not None:
                running.update(tensors["bnmeani"], tensors["bnvar"])
            losses.append(tensors["loss"].detach())
        return torch.stack(losses)

    return engine
