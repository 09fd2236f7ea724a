"""Timing what is done beside training steps."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import backhand
from backhand.engines import ENGINES
from backhand.language.config import TrainConfig
from backhand.language.contexts import Contexts, Splits, split_words
from backhand.language.drawing import draw_words
from backhand.language.model import Model, calibrate, draw_parameters
from backhand.language.vocabulary import Vocabulary
from backhand.language.words import load_words
from backhand.passes import mlp_chunked

from .gradchecks import gradcheck, lecture_cell, with_a_wrong_line
from .report import Errand

REPEATS = 5
LESSONS = 5000
"""Steps of training before words are drawn: an untrained model draws far longer ones."""

LISTS = (1_000, 10_000, 100_000, 300_000)
"""How many words to draw for lists of other sizes."""

Job = Callable[[], object]


def measure_errands(words: str, watch: Callable[[str], None]) -> tuple[Errand, ...]:
    """Time data set, calibration, evaluation, sampling, checking and starting."""
    listed = load_words(words)
    model = taught(listed)
    drawn = draw(model, max(LISTS))
    found = []
    for count, some in sorted([(len(listed), listed), *((count, drawn[:count]) for count in LISTS)]):
        watch(f"lists of words: {count:,}")
        found += [timed(name, job, count) for name, job in of_a_list(some)]
    for name, job in [("100,000 sampled words", lambda: draw(model, 100_000)), *checks(), *starts(words)]:
        watch(name)
        found.append(timed(name, job))
    return tuple(found)


def taught(words: Sequence[str]) -> Model:
    """Return the lecture's model after some steps of training."""
    config, vocabulary = TrainConfig(), Vocabulary.of(words)
    generator = torch.Generator().manual_seed(config.seed)
    parameters = draw_parameters(config, len(vocabulary), generator)
    train = Contexts(split_words(words).train, vocabulary, config.block_size)
    Xs, Ys = train[torch.randint(0, len(train), (LESSONS, config.batch_size), generator=generator)]
    ENGINES["native"](parameters, Xs, Ys, [config.rate] * LESSONS)
    return Model(vocabulary, parameters, *calibrate(parameters, train))


def draw(model: Model, count: int) -> list[str]:
    """Draw words."""
    return list(islice(draw_words(model, torch.Generator().manual_seed(0)), count))


def of_a_list(words: Sequence[str]) -> Iterator[tuple[str, Job]]:
    """Yield what takes longer the more words there are: all but the steps of training, which come last."""
    config, vocabulary = TrainConfig(), Vocabulary.of(words)

    def contexts() -> Splits[Contexts]:
        return Splits(*(Contexts(split, vocabulary, config.block_size) for split in split_words(words)))

    splits, generator = contexts(), torch.Generator().manual_seed(config.seed)
    parameters = draw_parameters(config, len(vocabulary), generator)

    def measured() -> float:
        splits = contexts()  # anew: the distinct contexts are kept once they have been found
        began = time.perf_counter()
        model = Model(vocabulary, parameters, *calibrate(parameters, splits.train))
        assert all(model.loss(split) > 0 for split in splits)
        return time.perf_counter() - began

    def trained() -> None:
        rows = torch.randint(0, len(splits.train), (1000, config.batch_size), generator=generator)
        ENGINES["native"](parameters, *splits.train[rows], [0.0] * 1000)

    yield "words to contexts", contexts
    yield "calibration and evaluation", measured
    yield "1,000 native steps", trained


def checks() -> Iterator[tuple[str, Job]]:
    """Yield the checker beside torch's gradcheck, on the lecture's 26 gradients with a hidden layer of 64."""
    drawn, wrong = mlp_chunked.inputs(torch.Generator().manual_seed(0)), with_a_wrong_line()
    assert [row.name for row in backhand.check(wrong).culprits] == ["bndiff2"]
    yield "forward and backward, 26 kept", lecture_cell(drawn)
    yield "check", lambda: backhand.check(mlp_chunked)
    yield "check, one line wrong", lambda: backhand.check(wrong)
    yield "gradcheck, fast mode", lambda: gradcheck(drawn, fast=True)
    yield "gradcheck", lambda: gradcheck(drawn, fast=False)


def starts(words: str) -> Iterator[tuple[str, Job]]:
    """Yield what starts a process of its own."""
    yield "backhand --help", lambda: command("--help")
    yield "backhand train --steps 1000", lambda: train_briefly(words)


def timed(name: str, job: Job, words: int | None = None) -> Errand:
    """Do something once, then time it; if it returns seconds, they count instead of all that it took."""
    job()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        itself = job()
        times.append(itself if isinstance(itself, float) else time.perf_counter() - began)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Errand(name, median, low, high, words)


def command(*arguments: str) -> str:
    """Run `backhand` in a process of its own; return what it printed."""
    script = "import sys; from backhand.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    return done.stdout


def train_briefly(words: str) -> str:
    """Train for 1,000 steps into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return command("train", words, "--steps", "1000", "--out", str(Path(folder) / "run"))
