"""Pictures of a run: its loss, and heat maps of a minibatch's tensors."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .config import TrainConfig
from .history import Curves

MARKS = 12
"""Changes of the rate that are marked at most: more labels would cover one another, and take minutes."""


def plot_history(curves: Curves, config: TrainConfig, kept: int | None) -> bytes:
    """Draw the loss, raw and smoothed, and the development loss, on a log axis; return a PNG.

    The learning rates are marked, and the model that is kept, unless it is the last one.
    """
    losses, rates, measured, devs = curves
    steps = np.arange(len(losses))
    stretch = max(1, len(losses) // 200)
    whole = len(losses) // stretch * stretch
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.4, label="each minibatch", rasterized=True)
    axes.plot(
        steps[:whole].reshape(-1, stretch).mean(1),
        losses[:whole].reshape(-1, stretch).mean(1),
        color="#08519c",
        linewidth=1.5,
        label=f"mean of {stretch:,} steps",
    )
    axes.plot(measured, devs, color="#31a354", linewidth=1.5, label="dev")
    if kept is not None:
        where = np.flatnonzero(measured == kept)
        axes.plot(measured[where], devs[where], "o", color="#31a354", label=f"kept: step {kept:,}")
    for start in rate_marks(rates):
        if start:
            axes.axvline(start, color="#d95f02", linewidth=1, linestyle="--")
        axes.annotate(
            f"rate {rates[start]:g}",
            (start, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            color="#a34700",
            va="top",
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(
        xlabel="step",
        ylabel="loss (nats)",
        title=f"{Path(config.words).name}, {config.engine} backward",
        xmargin=0,
    )
    axes.legend(loc="upper right")
    return to_png(figure)


def rate_marks(rates: np.ndarray) -> list[int]:
    """Return the steps at which the learning rate is marked: the first, and each where it changes.

    Of a rate that falls along a curve, which is another one at almost every step, the first and the last.

    >>> rate_marks(np.array([0.1, 0.1, 0.1, 0.01])), rate_marks(np.linspace(1, 0, 100))
    ([0, 3], [0, 99])
    """
    marks = [0, *(np.flatnonzero(np.diff(rates)) + 1).tolist()]
    return marks if len(marks) <= MARKS else [0, len(rates) - 1]


def plot_heat_maps(tensors: Mapping[str, Tensor]) -> bytes:
    """Draw each matrix as a heat map, white being zero, blue negative and red positive; return a PNG."""
    figure = Figure(figsize=(10, 3.2 * len(tensors)), layout="constrained")
    for axes, (name, tensor) in zip(
        np.atleast_1d(figure.subplots(len(tensors))), tensors.items(), strict=True
    ):
        largest = tensor.abs().max().item() or 1.0
        image = axes.imshow(
            tensor.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
        )
        axes.set(title=f"{name}  {tuple(tensor.shape)}", xlabel="column", ylabel="example")
        figure.colorbar(image, ax=axes)
    return to_png(figure)


def to_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file, the same each time."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()
