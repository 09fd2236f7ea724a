"""Everything that decides a training run: the flags of `backhand train`, and what a run folder saves."""

import dataclasses
import math
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import tyro

from backhand.errors import ConfigError

EngineName = Literal["autograd", "chunked", "fused", "native"]
BatchNorm = Literal["calibrate", "running"]
Keep = Literal["best", "last"]
CleaningStep = Literal["first", "swap", "ascii", "lower", "strip", "dots", "nfc"]
SplitName = Literal["train", "dev", "test", "all"]

LECTURE_STEPS = 200_000
LECTURE_HIDDEN = 200


def described(text: str, metavar: str | None = None, name: str | None = None) -> Any:
    """Return the description of a flag whose default goes without saying."""
    return tyro.conf.arg(help=text, metavar=metavar, name=name, help_behavior_hint="")


TypeName = Annotated[
    str,
    tyro.conf.arg(
        metavar="NAME",
        help="the model, by makemore's name: bigram, mlp, rnn, gru or transformer; each has its own "
        "defaults: --type gru --help",
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the lecture's.

    Raises:
        ConfigError: a value cannot work; the message names the option.

    >>> TrainConfig(n_hidden=64).rate_at(150_000)
    0.01
    """

    passes: ClassVar[int] = 35
    """How often the lecture's 200,000 steps go through its training contexts."""

    most_steps: ClassVar[int] = LECTURE_STEPS

    type: TypeName = "mlp"

    words: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[WORDS]")] = "names"
    """a file with one word a line, a CSV file (with --column), or an embedded list: names, municipios"""

    column: Annotated[str | None, described("the CSV column that holds the words", "NAME")] = None

    clean: Annotated[
        tuple[CleaningStep, ...],
        described(
            "cleaning steps, applied in the order given. first: keep what stands before a slash; "
            'swap: "Ballestero, El" to "El Ballestero"; ascii: write accents and other scripts in ASCII; '
            "lower: lower case; strip: remove brackets and quotes; dots: remove full stops, which end a word "
            "in the model; nfc: compose accents (Unicode NFC)",
        ),
    ] = ()

    block_size: int = 3
    """symbols of context"""

    n_embd: int = 10
    """size of the embedding of one symbol"""

    n_hidden: Annotated[
        int | None,
        described(
            "units of the hidden layer (default: the lecture's 200; on a list of less than 4,000 training "
            "contexts one for each 20 of them)",
            "INT",
        ),
    ] = None

    batch_size: int = 32
    """contexts in a minibatch"""

    steps: Annotated[
        int | None,
        described(
            "minibatches to train on (default: as many as go 35 times through the training contexts; "
            "at most 200,000, as in the lecture)",
            "INT",
        ),
    ] = None

    rate: float = 0.1
    """learning rate"""

    final_rate: float = 0.01
    """learning rate after the drop"""

    drop_at: float = 0.5
    """share of the steps after which the rate drops"""

    batch_norm: BatchNorm = "calibrate"
    """statistics for using the model: of the training split, or kept in training (momentum 0.001)"""

    keep: Annotated[
        Keep | None,
        described(
            "which model to use: the one with the best development loss, or the last "
            "(default: best; last, as in the lecture, for its list and the embedded ones)",
            "best|last",
        ),
    ] = None

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
        for name in ("block_size", "n_embd", "n_hidden", "batch_size", "checkpoint_every", "steps"):
            value = getattr(self, name)
            if name in ("steps", "n_hidden") and value is None:
                continue
            if not is_whole(value) or value < 1:
                raise ConfigError(f"{flag(name)} is {value!r:.50}; it must be a whole number from 1 up")
        if self.type != self.__class__.type:
            raise ConfigError(f"a {self.__class__.__name__} is of the type {self.__class__.type}")
        if self.batch_size == 1 and self.type == "mlp":
            raise ConfigError("--batch-size is 1; batch norm needs at least 2 examples to have a variance")
        for name in ("rate", "final_rate"):
            value = getattr(self, name)
            if not (is_number(value) and math.isfinite(value) and value >= 0):
                raise ConfigError(f"{flag(name)} is {value!r:.50}; it must be a number from 0 up")
        for name in ("seed", "split_seed"):
            value = getattr(self, name)
            if not is_whole(value) or not 0 <= value < 2**63:
                raise ConfigError(f"{flag(name)} is {value!r:.50}; it must be from 0 up and below 2**63")
        if not is_number(self.drop_at) or not 0 <= self.drop_at <= 1:
            raise ConfigError(f"--drop-at is {self.drop_at!r:.50}; it is a share of the steps, from 0 to 1")
        self._refuse_other_choices()

    def _refuse_other_choices(self) -> None:
        """Raise unless each option with a fixed set of values has one of them, and texts are texts."""
        for name, choices in (("engine", EngineName), ("batch_norm", BatchNorm), ("keep", Keep)):
            value = getattr(self, name)
            if value not in get_args(choices) and not (name == "keep" and value is None):
                raise ConfigError(
                    f"{flag(name)} is {value!r:.50}; choose from {', '.join(get_args(choices))}"
                )
        for name in ("words", "device"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{flag(name)} is {getattr(self, name)!r:.50}; it must be a text")
        if not (self.column is None or isinstance(self.column, str)):
            raise ConfigError(f"--column is {self.column!r:.50}; it must be a text")
        if not isinstance(self.tensorboard, bool):
            raise ConfigError(f"--tensorboard is {self.tensorboard!r:.50}; it must be true or false")
        for step in self.clean:
            if step not in get_args(CleaningStep):
                raise ConfigError(
                    f"there is no cleaning step {step!r:.50}; choose from {', '.join(get_args(CleaningStep))}"
                )

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.rate if step < self.drop_at * (self.steps or LECTURE_STEPS) else self.final_rate

    @property
    def hidden(self) -> int:
        """Units of the hidden layer: the lecture's where nothing is said of them."""
        return self.n_hidden or LECTURE_HIDDEN

    def fitting_hidden(self, contexts: int) -> int:
        """Return how many units of a hidden layer so many training contexts can fill, at most the lecture's.

        More of them learn by heart: 50 words predicted others worse than bigram counts do with 200 units on
        each of nine lists, and with one unit for 20 contexts on two. From 4,000 contexts on, 200 are best.

        >>> [TrainConfig().fitting_hidden(contexts) for contexts in (145, 1431, 182_625)]
        [10, 71, 200]
        """
        return max(10, min(LECTURE_HIDDEN, contexts // 20))

    def fitting_steps(self, contexts: int) -> int:
        """Return how many steps go through so many training contexts 35 times, at most the lecture's 200,000.

        Another type's recipe has numbers of its own.

        Rounded up to two digits: the lecture's 182,625 contexts would else take 199,746.

        >>> TrainConfig().fitting_steps(182_625), TrainConfig().fitting_steps(2_800)
        (200000, 3100)
        """
        steps = math.ceil(self.passes * contexts / self.batch_size)
        unit = 10 ** max(0, len(str(steps)) - 2)
        return min(self.most_steps, -(-steps // unit) * unit)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON can hold it."""
        values = dataclasses.asdict(self) | {"clean": list(self.clean)}
        if self.type == "mlp":
            del values["type"]  # so that run folders of before there were types are like those of today
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the configuration that `to_dict` was called on; raise ValueError for other fields."""
        fields = {field.name for field in dataclasses.fields(cls)}
        if isinstance(values, dict):
            values = {"type": "mlp", **values}
        if not isinstance(values, dict) or values.keys() != fields or not isinstance(values["clean"], list):
            raise ValueError("the configuration lacks an option, or has one too many")
        return cls(**{**values, "clean": tuple(values["clean"])})


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a number; True and False are none."""
    return isinstance(value, float) or is_whole(value)


def flag(name: str) -> str:
    """Return a field's name as the command line spells it."""
    return "--" + name.replace("_", "-")
