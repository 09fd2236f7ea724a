"""Curves of hand-written and autograd training, overlaid: one picture a type, and the largest difference.

    python benchmarks/overlay.py docs/images/overlaid.png

trains every type on the embedded names from the same start on the same minibatches, once with PyTorch's
gradients and once with the hand-written ones, in machine code where there is any, and compares the losses
step by step.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import backhand
from backhand.language.history import History
from backhand.language.recipes import CONFIGS

STEPS = 300
BY_HAND = {"bigram": "chunked"}
"""The engine of a type that has no machine code."""


def losses(kind: str, engine: str) -> np.ndarray:
    """Train a type by its recipe, but for so many steps; return the loss of each."""
    config = CONFIGS[kind](words="names")
    assert isinstance(config, backhand.TrainConfig)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        backhand.train(dataclasses.replace(config, engine=engine, steps=STEPS), out=run)
        return History(run / "history.csv").read().losses


def main() -> None:
    """Train, draw, and print the differences."""
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(CONFIGS), sharey=True), CONFIGS, strict=True):
        ours, theirs = losses(kind, BY_HAND.get(kind, "native")), losses(kind, "autograd")
        apart = np.abs(ours - theirs).max()
        print(f"| {kind} | {ours[-1]:.6f} | {theirs[-1]:.6f} | {apart:.1e} |", flush=True)
        axes.plot(theirs, color="#b0b0b0", linewidth=3, label="autograd")
        axes.plot(ours, color="#8a3b12", linewidth=0.8, label="by hand")
        axes.set_title(f"{kind}\nat most {apart:.0e} apart", fontsize=9)
        axes.set_xlabel("step")
    figure.axes[0].set_ylabel("loss")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(sys.argv[1], dpi=130)


if __name__ == "__main__":
    main()
