"""The history of a run: one row a step, with the loss before its update and the learning rate."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backhand.errors import RunError

from .saving import write_atomically

HEADER = "step,loss,rate\n"


@dataclass(frozen=True)
class History:
    """The file `history.csv` of a run folder, and how its rows are added and cut back."""

    path: Path

    def append(self, step: int, losses: Sequence[float], rates: Sequence[float]) -> None:
        """Add rows from a step on; a loss is written with the fewest digits that give its float32 back."""
        rows = zip(np.asarray(losses, np.float32), rates, strict=True)
        text = "".join(f"{i},{loss!s},{rate!r}\n" for i, (loss, rate) in enumerate(rows, step))
        try:
            with self.path.open("a", encoding="ascii", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"cannot write {self.path}: {error.strerror}; the last checkpoint is still there"
            ) from None

    def cut(self, step: int) -> None:
        """Keep the rows of the steps before `step` only, as a checkpoint knows nothing of later ones."""
        lines = (
            self.path.read_text(encoding="ascii", errors="replace").splitlines(keepends=True)
            if self.path.exists()
            else []
        )
        if step and len(lines) <= step:
            raise RunError(
                f"{self.path} ends before step {step}, which the checkpoint is at; use --overwrite"
            )
        write_atomically(self.path, "".join([HEADER, *lines[1 : step + 1]]).encode())

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss and the rate of every step."""
        table = np.loadtxt(self.path, delimiter=",", skiprows=1, ndmin=2)
        return table[:, 1], table[:, 2]
