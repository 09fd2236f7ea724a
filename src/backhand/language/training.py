"""Training a model on a list of words, into a run folder that survives interruption."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from backhand.engines import ENGINES, Engine, Running, parallel
from backhand.engines.nonfinite import first_nonfinite
from backhand.engines.word_engines import WORD_ENGINES
from backhand.errors import ConfigError, NonFiniteError
from backhand.showing import plain
from backhand.threads import one_thread

from .averaging import add_to_average, averaged, steps_to_next
from .config import TrainConfig
from .contexts import Contexts, Splits
from .drawing import LECTURE_SEED, draw_words
from .files import write_atomically
from .history import History
from .model import Model, calibrate
from .model_types import AnyModel
from .plotting import plot_history
from .processes import agreed, started_together, together
from .saving import HISTORY, PLOT, SAMPLES, TENSORBOARD, Run
from .tensorboard import TensorBoardLog
from .word_models import WordModel

Watch = Callable[[int, int, float], None]
WatchDev = Callable[[int, float], None]

MEASUREMENTS = 50
"""How often the development loss is measured in a run, at most."""

ENOUGH = 1 << 15
"""Contexts on which it is measured at most: its error is below 0.01 then, for lists of any size."""

AT_ONCE = 1 << 23
"""Symbols of contexts that are gathered at once: 64 MB, for up to a million contexts of 8 symbols."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training; the step was finished and saved. The message says how to go on."""


def train(
    config: TrainConfig,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    engine: Engine | None = None,
    watch: Watch = lambda step, steps, loss: None,
    watch_dev: WatchDev = lambda step, dev: None,
) -> Run:
    """Train a model, by default the lecture's, on words with a hand-written backward, into a run folder.

    Args:
        config: everything that decides the result.
        out: the run folder; by default `runs/` and the name of the list.
        resume: go on with the run in the folder, to the same end, bit for bit, as without the interruption.
            Its own configuration holds; an option that contradicts it is refused.
        overwrite: replace the run in the folder.
        engine: takes the steps in place of the configuration's, such as one with a learner's own backward.
        watch: called some ten times a second with the steps done, the steps in all, and the mean loss since
            the last call.
        watch_dev: called up to fifty times in a run with the steps done and the development loss, of at most
            32,768 contexts.

    Returns:
        The run, with the loss of each split in `results`. Its folder holds model.safetensors, run.json,
        history.csv, loss.png and samples.txt.

    Raises:
        BackhandError: the words, the options or the folder cannot be used; nothing has been written then.
        NonFiniteError: a tensor became NaN or infinite; the last checkpoint is kept.
        TrainingInterrupted: Ctrl-C; the step was finished and saved.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "run"
    >>> run = train(TrainConfig(words="municipios", n_hidden=8, steps=20), out=folder)
    >>> run.step, sorted(file.name for file in folder.iterdir())
    (20, ['history.csv', 'loss.png', 'model.safetensors', 'run.json', 'samples.txt'])
    """
    if engine is not None and config.type != "mlp":
        raise ConfigError(f"a backward of your own trains the mlp, not the {config.type}; leave out --type.")
    with (
        together(config, engine),
        started_together(config, out, resume=resume, overwrite=overwrite) as (run, splits),
        cores_for(run.config),
    ):
        history = History(run.path / HISTORY)
        history.cut(run.step, run.history)
        if run.history is None:  # nothing has been saved yet, or by an older version
            checkpoint(run, splits.train, history)
        with (
            interrupts() as interrupted,
            TensorBoardLog(run.path / TENSORBOARD, run.config.tensorboard) as log,
        ):
            while run.step < steps_of(run):
                advance(run, splits, history, log, interrupted, watch, watch_dev, engine)
        finish(run, splits, history)
    return run


def cores_for(config: TrainConfig) -> AbstractContextManager[None]:
    """Let PyTorch use one core beside machine code, which is on one itself: what it is left with is small."""
    return one_thread() if config.engine == "native" and config.device == "cpu" else nullcontext()


def steps_of(run: Run) -> int:
    """Return how many steps a run is to take; they were chosen when it began."""
    assert run.config.steps is not None
    return run.config.steps


def advance(
    run: Run,
    splits: Splits[Contexts],
    history: History,
    log: TensorBoardLog,
    interrupted: threading.Event,
    watch: Watch,
    watch_dev: WatchDev,
    engine: Engine | None,
) -> None:
    """Train up to the next checkpoint, measuring the development loss on the way, and save."""
    config, steps, saved = run.config, steps_of(run), run.step
    losses: list[float] = []
    devs: dict[int, float] = {}
    every = measured_every(config, splits)
    checkpoint_at = min(steps, (run.step // config.checkpoint_every + 1) * config.checkpoint_every)
    stopped = False
    while run.step < checkpoint_at and not stopped:
        stop = min(checkpoint_at, (run.step // every + 1) * every)
        for block in blocks(run, splits.train, stop, interrupted, engine):
            losses += block
            watch(run.step, steps, sum(block) / len(block))
        stopped = run.step < stop
        if run.step % every == 0 or run.step == steps:
            devs[run.step] = measure(run, splits)
            watch_dev(run.step, devs[run.step])
    rates = [config.rate_at(step) for step in range(saved, run.step)]
    history.append(saved, losses, rates, devs)
    log.add(saved, losses, rates, devs)
    checkpoint(run, splits.train, history)
    if stopped:
        raise TrainingInterrupted(
            f"stopped after {run.step:,} steps, which are saved; "
            f"go on with: backhand train --out {run.path} --resume"
        )


def measured_every(config: TrainConfig, splits: Splits[Contexts]) -> int:
    """Return after how many steps the development loss is measured again.

    Seldom enough for no more contexts to be measured than are trained on. It depends on nothing that differs
    from one time to the next, so that a run that is resumed measures it at the same steps.
    """
    contexts = min(ENOUGH, len(splits.train)) + min(ENOUGH, len(splits.dev))
    return max(1, (config.steps or 0) // MEASUREMENTS, contexts // config.batch_size)


def measure(run: Run, splits: Splits[Contexts]) -> float:
    """Return the development loss, of at most ENOUGH contexts; keep the model if it is the best so far.

    Batch norm is calibrated on no more contexts of the training split. The splits are shuffled, so that their
    first words are a sample of them all.
    """
    latest = usable(run, splits.train.first(ENOUGH))
    dev = latest.loss(splits.dev.first(ENOUGH))
    if run.config.keep == "best" and dev < run.dev:
        run.dev, run.kept = dev, run.step
        run.model = latest.copy()
    return dev


def usable(run: Run, contexts: Contexts) -> AnyModel:
    """Return the latest model as it is to be used: calibrated on some contexts, or of averaged weights."""
    latest = run.latest
    if isinstance(latest, WordModel):
        return averaged(latest, run.step)
    if run.config.batch_norm == "calibrate":
        return Model(run.vocabulary, latest.parameters, *calibrate(latest.parameters, contexts))
    return latest


def blocks(
    run: Run, contexts: Contexts, stop: int, interrupted: threading.Event, engine: Engine | None
) -> Iterator[list[float]]:
    """Train up to a step, or until interrupted, and yield the losses of about a tenth of a second at a time.

    How many steps that is depends on the machine; the result does not: the indices of k minibatches drawn at
    once are those of k draws, and the generator is left in the same state.
    """
    config, latest = run.config, run.latest
    whole = contexts.whole if isinstance(latest, WordModel) else None
    examples = len(contexts) if whole is None else len(whole.X)
    most = max(1, AT_ONCE // (config.batch_size * max(8, config.block_size)))
    steps = 1
    while run.step < stop:
        steps = min(steps, stop - run.step)
        if isinstance(latest, WordModel):
            steps = min(steps, steps_to_next(latest.config, run.step))
        steps, stops = agreed(steps, interrupted.is_set())
        if stops:
            return
        began = time.perf_counter()
        rows = torch.randint(0, examples, (steps, config.batch_size), generator=run.generator)
        rows = rows.to(contexts.flat.device)
        # (steps, n, block_size) and (steps, n), or both (steps, n, T)
        Xs, Ys = contexts[rows] if whole is None else (whole.X[rows], whole.Y[rows])
        rates = [config.rate_at(step) for step in range(run.step, run.step + steps)]
        before = {name: p.clone() for name, p in latest.parameters.items()}
        losses = take_steps(run, Xs, Ys, rates, engine)
        if not all(tensor.isfinite().all() for tensor in (losses, *latest.parameters.values())):
            origin = first_nonfinite(config.engine, before, Xs, Ys, rates) if whole is None else None
            raise NonFiniteError(explain_nonfinite(run, origin))
        run.step += steps
        if isinstance(latest, WordModel):
            add_to_average(latest, run.step)
        yield losses.tolist()
        pace = steps / (time.perf_counter() - began)
        steps = max(1, min(2 * steps, round(0.1 * pace), most))


def take_steps(run: Run, Xs: Tensor, Ys: Tensor, rates: list[float], engine: Engine | None = None) -> Tensor:
    """Train the latest model on some minibatches, by the configuration's engine unless another is given.

    Returns:
        Their losses.
    """
    config, latest, alone = run.config, run.latest, parallel.processes() == 1
    if isinstance(latest, WordModel):
        take_words = WORD_ENGINES[config.engine] if alone else parallel.words
        state = latest.parameters, Xs, Ys, rates, latest.moments, latest.settings(run.step)
        return take_words(config.type, *state)
    take = (engine or ENGINES[config.engine]) if alone else parallel.mlp
    running = Running(latest.bnmean, latest.bnstd) if config.batch_norm == "running" else None
    return take(latest.parameters, Xs, Ys, rates, running)


def explain_nonfinite(run: Run, origin: tuple[int, str] | None) -> str:
    """Return the message for a run that went wrong in the block of steps after `run.step`."""
    where = f"after step {run.step:,}, a tensor is not finite"
    if origin is not None:
        where = f"step {run.step + origin[0]:,}: {origin[1]} is the first tensor that is not finite"
    rate = run.config.rate_at(run.step)
    return f"{where}; the last checkpoint in {run.path} is kept. Try a --rate below {rate:g}"


def checkpoint(run: Run, contexts: Contexts, history: History) -> None:
    """Save the run with a usable model: calibrated, unless it keeps running statistics."""
    if run.config.keep == "last" or run.dev == inf or run.step == steps_of(run) == run.kept:
        run.model, run.kept = run.latest, run.step
    if isinstance(run.latest, WordModel) and run.model is run.latest:
        run.model = averaged(run.latest, run.step)
    elif isinstance(run.model, Model) and run.config.batch_norm == "calibrate":
        same = run.model is run.latest
        bnmean, bnstd = calibrate(run.model.parameters, contexts)
        run.model = Model(run.vocabulary, run.model.parameters, bnmean, bnstd)
        run.latest = run.model if same else run.latest
    if run.step == steps_of(run):
        run.latest = run.model  # nobody goes on from it
    run.history = history.sha256
    run.save()


def finish(run: Run, splits: Splits[Contexts], history: History) -> None:
    """Measure the loss of each split, and write samples, plot and results."""
    run.results = {name: run.model.loss(contexts) for name, contexts in splits._asdict().items()}
    run.model = run.latest = run.model.to("cpu")
    words = islice(draw_words(run.model, torch.Generator().manual_seed(LECTURE_SEED)), 20)
    write_atomically(run.path / SAMPLES, "".join(f"{plain(word)}\n" for word in words).encode())
    kept = run.kept if run.config.keep == "best" else None
    write_atomically(run.path / PLOT, plot_history(history.read(), run.config, kept))
    run.about.write(run.path)


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that a step is never torn; a second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread receives signals
        return

    def note(signum: int, frame: object) -> None:
        event.set()
        if parallel.processes() == 1:  # torchrun hands on the Ctrl-C that the terminal has sent to all
            signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
