"""TensorBoard logs of a run, where its package is installed."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from backhand.errors import ConfigError


class TensorBoardLog:
    """Writes the mean loss of every hundred steps, and the rate, into a folder; does nothing when it is off.

    Raises:
        ConfigError: it is on, and the package is not installed.
    """

    EVERY = 100

    def __init__(self, folder: Path, on: bool) -> None:
        self.writer = None
        if on:
            try:
                from torch.utils.tensorboard.writer import SummaryWriter
            except ImportError:
                raise ConfigError(
                    "--tensorboard needs a package: pip install 'backhand[tensorboard]'"
                ) from None
            self.writer = SummaryWriter(str(folder))

    def add(self, step: int, losses: Sequence[float], rates: Sequence[float]) -> None:
        """Add some steps, the first of which is `step`."""
        if self.writer is None:
            return
        for i in range(0, len(losses), self.EVERY):
            part = losses[i : i + self.EVERY]
            self.writer.add_scalar("loss", sum(part) / len(part), step + i)
            self.writer.add_scalar("rate", rates[i], step + i)

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()
