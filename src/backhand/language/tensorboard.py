"""TensorBoard logs of a run, where its package is installed."""

from collections.abc import Mapping, Sequence
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
    """Writes the mean loss of every hundred steps, the rate and the development loss; does nothing if off."""

    EVERY = 100

    def __init__(self, folder: Path, on: bool) -> None:
        self.writer: Any = writer_class()(str(folder)) if on else None

    def add(
        self, step: int, losses: Sequence[float], rates: Sequence[float], devs: Mapping[int, float]
    ) -> None:
        """Add some steps, the first of which is `step`, and the development losses measured among them."""
        if self.writer is None:
            return
        for i in range(0, len(losses), self.EVERY):
            part = losses[i : i + self.EVERY]
            self.writer.add_scalar("loss", sum(part) / len(part), step + i)
            self.writer.add_scalar("rate", rates[i], step + i)
        for measured, dev in devs.items():
            self.writer.add_scalar("dev", dev, measured)

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()
