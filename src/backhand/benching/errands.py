"""Timing what is done beside training steps, and measuring memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from backhand.engines import ENGINES
from backhand.language.config import TrainConfig
from backhand.language.contexts import Contexts, Splits, split_words
from backhand.language.drawing import draw_words
from backhand.language.model import Model, calibrate, draw_parameters
from backhand.language.vocabulary import Vocabulary
from backhand.language.words import load_words

from .report import Errand

REPEATS = 5
LESSONS = 5000
"""Steps of training before words are drawn."""

MEMORY = """
import sys
from backhand.benching import timing
from backhand.benching.machine import peak_megabytes
name, batch_size = sys.argv[1], int(sys.argv[2])
with timing.one_thread():
    timing.make_case("names", 10, 200, batch_size).run(timing.CONTENDERS[name], timing.CHECKED_STEPS)
print(peak_megabytes())
"""


def measure_errands(words: str, watch: Callable[[str], None]) -> tuple[Errand, ...]:
    """Time data set, calibration, evaluation, sampling and starting."""
    config = TrainConfig(words=words)
    listed = load_words(words)
    vocabulary = Vocabulary.of(listed)
    generator = torch.Generator().manual_seed(config.seed)
    parameters = draw_parameters(config, len(vocabulary), generator)

    def contexts() -> Splits[Contexts]:
        return Splits(*(Contexts(split, vocabulary, config.block_size) for split in split_words(listed)))

    train = contexts().train  # an untrained model draws far longer words
    Xs, Ys = train[torch.randint(0, len(train), (LESSONS, config.batch_size), generator=generator)]
    ENGINES["native"](parameters, Xs, Ys, [config.rate] * LESSONS)

    def measured() -> float:
        splits = contexts()  # anew: the distinct contexts are kept once they have been found
        began = time.perf_counter()
        bnmean, bnstd = calibrate(parameters, splits.train)
        model = Model(vocabulary, parameters, bnmean, bnstd)
        losses = [model.loss(split) for split in splits]
        assert all(loss > 0 for loss in losses)
        return time.perf_counter() - began

    model = Model(vocabulary, parameters, *calibrate(parameters, train))
    found = []
    for name, errand in {
        f"{len(listed):,} words to contexts": lambda: contexts(),
        "calibration, and evaluation of all splits": measured,
        "100,000 sampled words": lambda: drawn(model, 100_000),
        "backhand --help": lambda: command("--help"),
        "backhand train --steps 1000": lambda: train_briefly(words),
    }.items():
        watch(name)
        found.append(timed(name, errand))
    return tuple(found)


def timed(name: str, errand: Callable[[], object]) -> Errand:
    """Run something once, then time it; if it returns seconds, they count instead of all that it took."""
    errand()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        itself = errand()
        times.append(itself if isinstance(itself, float) else time.perf_counter() - began)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Errand(name, median, low, high)


def drawn(model: Model, count: int) -> int:
    """Draw words, and count them."""
    return len(list(islice(draw_words(model, torch.Generator().manual_seed(0)), count)))


def command(*arguments: str) -> str:
    """Run `backhand` in a process of its own; return what it printed."""
    script = "import sys; from backhand.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    return done.stdout


def train_briefly(words: str) -> str:
    """Train for 1,000 steps into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return command("train", words, "--steps", "1000", "--out", str(Path(folder) / "run"))


def measure_memory(names: Sequence[str], batch_size: int, watch: Callable[[str], None]) -> dict[str, float]:
    """Return megabytes of memory, at most, of a process of its own that trains with each contender."""
    found = {}
    for name in names:
        watch(f"peak memory: {name}, batch {batch_size:,}")
        arguments = [sys.executable, "-c", MEMORY, name, str(batch_size)]
        done = subprocess.run(arguments, capture_output=True, text=True)
        if done.returncode == 0:
            found[name] = float(done.stdout.split()[-1])
    return found
