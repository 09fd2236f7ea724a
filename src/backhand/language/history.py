"""The history of a run: one row a step, with the loss before its update and the learning rate.

The development loss stands in the rows of the steps after which it was measured.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backhand.errors import RunError

from .files import refuse_no_file, write_atomically

HEADER = "step,loss,rate,dev\n"
FIRST_HEADER = "step,loss,rate\n"
"""Of the first format, which had no development losses."""


class Curves(NamedTuple):
    """What a history holds: loss and rate of every step, and the steps after which dev was measured."""

    losses: np.ndarray
    rates: np.ndarray
    measured: np.ndarray
    devs: np.ndarray


class History:
    """The file `history.csv` of a run folder, and how its rows are added and cut back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, as far as it is known from here."""
        return self._digest.hexdigest()

    def append(
        self, step: int, losses: Sequence[float], rates: Sequence[float], devs: Mapping[int, float]
    ) -> None:
        """Add rows from a step on; a loss is written with the fewest digits that give its float32 back.

        Args:
            step: the first one's, counted from 0.
            losses: of each step, before its update.
            rates: of each step.
            devs: the development loss after so many steps, where it was measured.
        """
        rows = enumerate(zip(np.asarray(losses, np.float32), rates, strict=True), step)
        text = "".join(
            f"{i},{loss!s},{rate!r},{f'{devs[i + 1]:.6f}' if i + 1 in devs else ''}\n"
            for i, (loss, rate) in rows
        ).encode()
        try:
            with self.path.open("ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"cannot write {self.path}: {error.strerror}; the last checkpoint is still there"
            ) from None
        self._digest.update(text)

    def cut(self, step: int, sha256: str | None) -> None:
        """Keep the rows of the steps before `step` only, as a checkpoint knows nothing of later ones.

        Args:
            step: the checkpoint's.
            sha256: what the checkpoint says of those rows; None where it says nothing.

        Raises:
            RunError: they are not there, or have changed.
        """
        lines = self._lines()
        if len(lines) <= step and step:
            raise RunError(
                f"{self.path} ends before step {step}, which the checkpoint is at; use --overwrite"
            )
        rows = lines[1 : step + 1]
        if lines[:1] == [FIRST_HEADER.encode()]:
            rows = [row.rstrip(b"\r\n") + b",\n" for row in rows]
        text = b"".join([HEADER.encode(), *rows])
        self._digest = hashlib.sha256(text)
        if sha256 not in (None, self.sha256):
            raise RunError(
                f"{self.path} is damaged: it is not what was written up to step {step}; use --overwrite"
            )
        self._refuse_no_numbers(text, step)
        write_atomically(self.path, text)

    def read(self) -> Curves:
        """Return what the file holds."""
        table = parse(self.path.read_bytes())
        measured = np.flatnonzero(~np.isnan(table[:, 3]))
        return Curves(table[:, 1], table[:, 2], measured + 1, table[measured, 3])

    def _lines(self) -> list[bytes]:
        refuse_no_file(self.path)
        try:
            return self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        except OSError as error:
            raise RunError(f"cannot read {self.path}: {error.strerror}") from None

    def _refuse_no_numbers(self, text: bytes, step: int) -> None:
        """Raise unless each row has the number of its step: a file of the first format has no checksum."""
        try:
            sound = not step or np.array_equal(parse(text)[:, 0], np.arange(step))
        except ValueError:
            sound = False
        if not sound:
            raise RunError(f"{self.path} is damaged: its rows are not those of {step} steps; use --overwrite")


def parse(text: bytes) -> np.ndarray:
    """Return the rows of a history, (steps, 4); a development loss that was not measured is NaN."""
    lines = text.decode("ascii").splitlines()[1:]
    filled = (line + "nan" if line.endswith(",") else line for line in lines)
    return np.loadtxt(filled, delimiter=",", ndmin=2, usecols=range(4))
