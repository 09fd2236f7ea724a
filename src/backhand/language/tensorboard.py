"""TensorBoard logs of a run, where its package is installed."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from backhand.errors import ConfigError


def writer_class() -> Any:
    """Return TensorBoard's writer; raise a ConfigError where the package is not installed."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise ConfigError("--tensorboard needs a package: pip install 'backhand[tensorboard]'") from None
    return SummaryWriter


class TensorBoardLog:
    """Writes the mean loss of every hundred steps, and the rate, into a folder; does nothing if off."""

    EVERY = 100

    def __init__(self, folder: Path, on: bool) -> None:
        self.writer: Any = writer_class()(str(folder)) if on else None

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
