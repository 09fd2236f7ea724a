"""Timing steps of training: checked first, then warmed up, then interleaved."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from backhand.engines import ENGINES, Engine
from backhand.errors import ConfigError
from backhand.language.config import TrainConfig
from backhand.language.contexts import Contexts, split_words
from backhand.language.files import write_atomically
from backhand.language.model import draw_parameters
from backhand.language.vocabulary import Vocabulary
from backhand.language.words import load_words
from backhand.threads import one_thread

from .bridging import measure_overheads, measure_passes
from .errands import measure_errands
from .machine import describe_machine, sgemm_gflops
from .memory import measure_memory
from .peers import PEERS
from .plotting import plot_bench
from .racing import checked, raced, steps_in, summarised
from .report import BenchReport, Timing
from .word_timing import TYPES, measure_types

SIZES = ((10, 200), (30, 300))
BATCHES = (32, 128, 1024, 8192)
HIDDEN = (50, 100, 400, 800)
"""More hidden sizes, to show what a larger model costs: with the first embedding and batch size."""

BASELINE = "lecture's loop"
GROWING = (BASELINE, "JAX jit + scan", "native")
"""The contenders for these, as far as they are taken at all."""

CONTENDERS: Mapping[str, Engine] = {**PEERS, **ENGINES}

CHECKED_STEPS = 30
CLOSE_ENOUGH = 5e-6
"""How far a loss may be from that of a float64 run; float32 rounding leaves up to 1e-6."""

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """A model, and minibatches to train it on."""

    config: TrainConfig
    vocabulary: int
    parameters: dict[str, Tensor]
    Xs: Tensor
    Ys: Tensor

    def run(self, engine: Engine, steps: int) -> tuple[Tensor, float]:
        """Take steps from the initial parameters; return the losses, and seconds a step."""
        parameters = {name: p.clone() for name, p in self.parameters.items()}
        which = torch.arange(steps) % len(self.Xs)
        Xs, Ys, rates = self.Xs[which], self.Ys[which], [self.config.rate] * steps
        began = time.perf_counter()
        losses = engine(parameters, Xs, Ys, rates)
        return losses, (time.perf_counter() - began) / steps

    def flops(self) -> int:
        """Return the floating point operations of a step's dense products: two each way, and back again."""
        c = self.config
        return 6 * c.batch_size * (c.block_size * c.n_embd + self.vocabulary) * c.hidden


def bench(
    *,
    words: str = "names",
    sizes: Sequence[tuple[int, int]] = SIZES,
    batches: Sequence[int] = BATCHES,
    hidden: Sequence[int] = HIDDEN,
    types: Sequence[str] = TYPES,
    contenders: Sequence[str] = tuple(CONTENDERS),
    rounds: int = 7,
    seconds: float = 0.2,
    errands: bool = True,
    png: str | Path | None = None,
    watch: Watch = lambda text: None,
) -> BenchReport:
    """Time training steps of every engine beside what one would use instead, on one core.

    A contender's losses are compared with those of a float64 run before any of its times is taken. Then all
    are warmed up, and timed in turn, `rounds` times, so that a busy machine slows all of them alike. So is
    `differentiable` beside a bare Function; and the bytes that some passes keep are counted.

    Args:
        words: the list of words, as `train` takes it.
        sizes: embedding and hidden sizes.
        batches: minibatch sizes.
        hidden: more hidden sizes, with the first of the embedding and batch sizes, for the contenders in
            GROWING.
        types: models of whole words to time as well, of makemore's size, from TYPES.
        contenders: names, from CONTENDERS; the lecture's loop is always among them.
        rounds: how often each is timed.
        seconds: about how long each time.
        errands: also time what is done beside training steps, and measure peak memory.
        png: also draw the timings into this file.
        watch: called with a line of text before each thing that takes a while.

    Raises:
        ConfigError: an unknown contender or type, or no rounds.
        RunError: the file cannot be written.

    >>> small = dict(sizes=[(2, 8)], batches=[16], hidden=[], types=[], contenders=["fused"], errands=False)
    >>> [timing.name for timing in bench(rounds=1, seconds=0.001, **small).timings]
    ["lecture's loop", 'fused']
    """
    unknown = [name for name in contenders if name not in CONTENDERS]
    if unknown:
        raise ConfigError(f"there is no contender {unknown[0]!r}; choose from {', '.join(CONTENDERS)}")
    strange = [kind for kind in types if kind not in TYPES]
    if strange:
        raise ConfigError(f"there is no type {strange[0]!r} to time; choose from {', '.join(TYPES)}")
    if png is not None and not sizes:
        raise ConfigError("--png draws the timings of the lecture's model; leave it or --type out")
    if rounds < 1 or seconds <= 0:
        raise ConfigError(f"--rounds is {rounds} and --seconds {seconds}; both must be above 0")
    names = [BASELINE, *(name for name in contenders if name != BASELINE)]
    timings: list[Timing] = []
    with one_thread():
        peak = sgemm_gflops()
        cases = [(*size, batch_size, names) for size in sizes for batch_size in batches]
        growing = [name for name in names if name in GROWING]
        cases += [(sizes[0][0], n_hidden, batches[0], growing) for n_hidden in hidden]
        for n_embd, n_hidden, batch_size, taken in cases:
            watch(f"model ({n_embd}, {n_hidden}), batch {batch_size:,}")
            case = make_case(words, n_embd, n_hidden, batch_size)
            timings += time_case(case, taken, rounds, seconds, peak)
        typed = tuple(measure_types(types, words, names, rounds, seconds, peak, watch))
        watch("differentiable beside a bare Function")
        overheads, kept = measure_overheads(max(3, rounds)), measure_passes()
        found = measure_errands(words, watch) if errands else ()
    memory = measure_memory(names, max(batches), watch) if errands else {}
    report = BenchReport(describe_machine(), peak, tuple(timings), found, memory, overheads, kept, typed)
    if png is not None:
        write_atomically(Path(png), plot_bench(report))
    return report


def make_case(words: str, n_embd: int, n_hidden: int, batch_size: int) -> Case:
    """Return the lecture's model, and some of its minibatches."""
    config = TrainConfig(words=words, n_embd=n_embd, n_hidden=n_hidden, batch_size=batch_size)
    listed = load_words(words)
    vocabulary = Vocabulary.of(listed)
    contexts = Contexts(split_words(listed).train, vocabulary, config.block_size)
    generator = torch.Generator().manual_seed(config.seed)
    parameters = draw_parameters(config, len(vocabulary), generator)
    steps = max(CHECKED_STEPS, min(1000, (1 << 17) // batch_size))
    Xs, Ys = contexts[torch.randint(0, len(contexts), (steps, batch_size), generator=generator)]
    return Case(config, len(vocabulary), parameters, Xs, Ys)


def time_case(
    case: Case, names: Sequence[str], rounds: int, seconds: float, peak_gflops: float
) -> list[Timing]:
    """Check the contenders on one case, warm them up, and time them in turn."""
    double = replace(case, parameters={key: p.double() for key, p in case.parameters.items()})
    expected, _ = double.run(ENGINES["fused"], CHECKED_STEPS)
    c = case.config

    def losses_of(name: str) -> Tensor:
        return case.run(CONTENDERS[name], CHECKED_STEPS)[0]

    def pace(name: str, steps: int) -> float:
        return case.run(CONTENDERS[name], steps)[1]

    def warm_up(name: str) -> int:
        steps = steps_in(seconds, pace(name, CHECKED_STEPS))
        pace(name, steps)  # JAX compiles anew for another number of steps
        return steps

    blank = Timing(name="", n_embd=c.n_embd, n_hidden=c.hidden, batch_size=c.batch_size)
    blanks = [replace(blank, name=name) for name in names]
    timings = [checked(blank, losses_of, expected, CLOSE_ENOUGH) for blank in blanks]
    times = raced(pace, {t.name: warm_up(t.name) for t in timings if t.failure is None}, rounds)
    at_peak = case.flops() / peak_gflops / 1e3  # microseconds
    found = [summarised(timing, times, BASELINE) for timing in timings]
    return [replace(t, share_of_peak=at_peak / t.microseconds) for t in found]
