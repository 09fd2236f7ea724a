"""Steps on a GPU without a word between them: one is captured as a CUDA graph, and replayed for the others.

A step of the lecture's model is some fifty small kernels, and launching one costs more than it computes. A
graph launches all of them at once. It always reads and writes the same memory, so which minibatch and which
rate a step takes stands in memory as well: a counter, which the step itself moves on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .stepping import Engine, Gradients, Parameters, Running, descend


def graphed(gradients_of: Gradients) -> Engine:
    """Return the engine that takes its gradients from the given function, as a graph on a GPU."""
    plainly = descend(gradients_of)

    @torch.no_grad()
    def engine(
        parameters: Parameters, Xs: Tensor, Ys: Tensor, rates: Sequence[float], running: Running | None = None
    ) -> Tensor:
        if not Xs.is_cuda or len(rates) < 2:
            return plainly(parameters, Xs, Ys, rates, running)
        with another_stream():  # what CUDA prepares at first use cannot be captured, so one step goes ahead
            first = plainly(parameters, Xs[:1], Ys[:1], rates[:1], running)
        step, losses = counted_step(gradients_of, parameters, Xs[1:], Ys[1:], rates[1:], running)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # recorded, not run
            step()
        for _ in rates[1:]:
            graph.replay()
        return torch.cat([first, losses])

    return engine


def counted_step(
    gradients_of: Gradients,
    parameters: Parameters,
    Xs: Tensor,
    Ys: Tensor,
    rates: Sequence[float],
    running: Running | None,
) -> tuple[Callable[[], None], Tensor]:
    """Return a function that takes the next step each time it is called, and where it writes the losses.

    Nothing in it depends on values that the CPU would have to know.
    """
    losses = torch.empty(len(rates), dtype=parameters["C"].dtype, device=Xs.device)
    paces = torch.tensor(rates, dtype=losses.dtype, device=Xs.device)
    at = torch.zeros(1, dtype=torch.int64, device=Xs.device)

    def step() -> None:
        Xb, Yb, rate = (of_all.index_select(0, at).squeeze(0) for of_all in (Xs, Ys, paces))
        tensors, gradients = gradients_of(parameters, Xb, Yb)
        for name, p in parameters.items():
            p -= rate * gradients[f"d{name}"]
        if running is not None:
            running.update(tensors["bnmeani"], tensors["bnvar"])
        losses.index_copy_(0, at, tensors["loss"].view(1))
        at.add_(1)

    return step, losses


@contextmanager
def another_stream() -> Iterator[None]:
    """Let a GPU do what is in the context on a stream of its own, after what came and before what comes."""
    here, there = torch.cuda.current_stream(), torch.cuda.Stream()
    there.wait_stream(here)
    with torch.cuda.stream(there):
        yield
    here.wait_stream(there)
