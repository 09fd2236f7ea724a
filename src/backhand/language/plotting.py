"""Pictures of a run: its loss, and heat maps of a minibatch's tensors."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .config import TrainConfig


def plot_history(losses: np.ndarray, rates: np.ndarray, config: TrainConfig) -> bytes:
    """Draw the loss, raw and smoothed, on a log axis, with the learning rates marked; return a PNG."""
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
    drops = [0, *(np.flatnonzero(np.diff(rates)) + 1)]
    for start in drops:
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
