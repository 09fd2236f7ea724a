"""What a benchmark found, as frozen dataclasses."""

from dataclasses import asdict, dataclass, field
from typing import Any

from backhand.remembering import Memory


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How fast one contender is, and that it does what the others do.

    Attributes:
        name: the engine, or what one would use instead.
        loss_error: the largest difference from the losses of a float64 run on the same minibatches.
        microseconds: the median time of a step, and its quartiles.
        low: first quartile.
        high: third quartile.
        ratio: the median of how many times faster than the baseline, round by round.
        share_of_peak: the dense work of a step, by the time, by what a large matrix product reaches.
        failure: why it was not timed: not installed, or the losses are wrong. The times are NaN then.
    """

    name: str
    loss_error: float = float("nan")
    microseconds: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    ratio: float = float("nan")
    share_of_peak: float = float("nan")
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Timing(Measured):
    """One contender on one model size and batch size, beside the lecture's loop.

    Attributes:
        n_embd, n_hidden, batch_size: the sizes.

    The share of the peak counts the dense work of a plain step: 6 n (block_size n_embd + vocabulary) n_hidden
    floating point operations. Above 1 is possible where repeated work is left out.
    """

    n_embd: int
    n_hidden: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class WordTiming(Measured):
    """One contender on one type of model of whole words, of makemore's size, beside PyTorch's eager mode.

    Attributes:
        kind: the type of model.
        batch_size: how many words a minibatch has.

    The share of the peak counts the dense work that no contender can leave out: 6 floating point operations
    for each number of a matrix and each different beginning of a minibatch's words.
    """

    kind: str
    batch_size: int


@dataclass(frozen=True)
class Errand:
    """What is done beside the steps of training.

    Attributes:
        name: what it is.
        seconds: the median, and its quartiles.
        low: first quartile.
        high: third quartile.
        words: how many words it was done with, where that was varied.
    """

    name: str
    seconds: float
    low: float
    high: float
    words: int | None = None


@dataclass(frozen=True)
class Overhead:
    """What `differentiable` costs beside a bare `torch.autograd.Function` that does the same.

    Attributes:
        name: what was done.
        microseconds: the median time.
        bare: that of the bare Function.
        ratio: the median of how many times as long it takes, round by round, and its quartiles.
        low: first quartile.
        high: third quartile.
    """

    name: str
    microseconds: float
    bare: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class BenchReport:
    """All that a benchmark found.

    Attributes:
        machine: processor, cores, and the versions of what was measured.
        peak_gflops: what a product of two 1024-square float32 matrices reaches on one core.
        timings: in the order in which they were taken: every contender with every batch size, then some of
            them with more hidden sizes.
        errands: in the same way.
        peak_memory: megabytes of a process that trains with a contender at the largest batch size.
        overheads: what `differentiable` costs.
        kept: the bytes that passes keep between forward and backward, as `memory` tells them.
        types: every contender with every type of model of whole words.
    """

    machine: dict[str, str]
    peak_gflops: float
    timings: tuple[Timing, ...]
    errands: tuple[Errand, ...] = ()
    peak_memory: dict[str, float] = field(default_factory=dict)
    overheads: tuple[Overhead, ...] = ()
    kept: dict[str, Memory] = field(default_factory=dict)
    types: tuple[WordTiming, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it: what was not measured is None."""
        return plain(asdict(self))


def plain(value: Any) -> Any:
    """Return nested values with None for NaN."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if value != value else value
