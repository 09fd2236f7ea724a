"""Everything that decides a training run: the flags of `backhand train`, and what a run folder saves."""

import dataclasses
import math
from typing import Annotated, Any, Literal, get_args

import tyro

from backhand.errors import ConfigError

EngineName = Literal["autograd", "chunked", "fused", "native"]
BatchNorm = Literal["calibrate", "running"]
CleaningStep = Literal["first", "swap", "ascii", "lower", "strip"]
SplitName = Literal["train", "dev", "test", "all"]


def described(text: str, metavar: str | None = None, name: str | None = None) -> Any:
    """Return the description of a flag whose default goes without saying."""
    return tyro.conf.arg(help=text, metavar=metavar, name=name, help_behavior_hint="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the lecture's.

    Raises:
        ConfigError: a value cannot work; the message names the option.

    >>> TrainConfig(n_hidden=64).rate_at(150_000)
    0.01
    """

    words: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[WORDS]")] = "names"
    """a file with one word a line, a CSV file (with --column), or an embedded list: names, municipios"""

    column: Annotated[str | None, described("the CSV column that holds the words", "NAME")] = None

    clean: Annotated[tuple[CleaningStep, ...], described("cleaning steps, applied in the order given")] = ()

    block_size: int = 3
    """symbols of context"""

    n_embd: int = 10
    """size of the embedding of one symbol"""

    n_hidden: int = 200
    """units of the hidden layer"""

    batch_size: int = 32
    """contexts in a minibatch"""

    steps: int = 200_000
    """minibatches to train on"""

    rate: float = 0.1
    """learning rate"""

    final_rate: float = 0.01
    """learning rate after the drop"""

    drop_at: float = 0.5
    """share of the steps after which the rate drops"""

    batch_norm: BatchNorm = "calibrate"
    """statistics for using the model: of the training split, or kept in training (momentum 0.001)"""

    seed: int = 2147483647
    """seeds the parameters and the minibatches"""

    split_seed: int = 42
    """seeds the shuffle before the 80/10/10 split"""

    engine: EngineName = "native"
    """whose backward pass: PyTorch's, 26 gradients by hand, the simplified ones by hand, or those as machine
    code (on a CPU; on a GPU, native is fused)"""

    device: str = "cpu"
    """cpu, or cuda where there is one"""

    checkpoint_every: int = 10_000
    """steps between checkpoints"""

    tensorboard: Annotated[bool, described("also write TensorBoard logs into the run folder")] = False

    def __post_init__(self) -> None:
        for name in ("block_size", "n_embd", "n_hidden", "batch_size", "steps", "checkpoint_every"):
            if getattr(self, name) < 1 or not isinstance(getattr(self, name), int):
                raise ConfigError(
                    f"{flag(name)} is {getattr(self, name)}; it must be a whole number from 1 up"
                )
        if self.batch_size == 1:
            raise ConfigError("--batch-size is 1; batch norm needs at least 2 examples to have a variance")
        for name in ("rate", "final_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; it must be a number from 0 up")
        for name in ("seed", "split_seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ConfigError(
                    f"{flag(name)} is {getattr(self, name)}; it must be from 0 up and below 2**63"
                )
        if not 0 <= self.drop_at <= 1:
            raise ConfigError(f"--drop-at is {self.drop_at}; it is a share of the steps, from 0 to 1")

        for name, choices in (("engine", EngineName), ("batch_norm", BatchNorm)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"{flag(name)} is {getattr(self, name)!r}; choose from {', '.join(get_args(choices))}"
                )

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.rate if step < self.drop_at * self.steps else self.final_rate

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON can hold it."""
        return dataclasses.asdict(self) | {"clean": list(self.clean)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Return the configuration that `to_dict` was called on; raise TypeError for unknown fields."""
        values = {**values, "clean": tuple(values["clean"])}
        return cls(**values)


def flag(name: str) -> str:
    """Return a field's name as the command line spells it."""
    return "--" + name.replace("_", "-")
