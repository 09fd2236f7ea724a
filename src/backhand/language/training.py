"""Training a model on a list of words, into a run folder that survives interruption."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch

from backhand.engines import ENGINES, Running
from backhand.engines.nonfinite import first_nonfinite
from backhand.errors import NonFiniteError

from .config import TrainConfig
from .contexts import Contexts, Splits
from .drawing import draw_words
from .history import History
from .model import Model, calibrate
from .plotting import plot_history
from .sampling import LECTURE_SEED
from .saving import HISTORY, PLOT, SAMPLES, TENSORBOARD, Run, write_atomically
from .starting import start
from .tensorboard import TensorBoardLog

Watch = Callable[[int, int, float], None]


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training; the step was finished and saved. The message says how to go on."""


def train(
    config: TrainConfig,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = lambda step, steps, loss: None,
) -> Run:
    """Train the lecture's model on a list of words with a hand-written backward pass, into a run folder.

    Args:
        config: everything that decides the result.
        out: the run folder; by default `runs/` and the name of the list.
        resume: go on with the run in the folder, to the same end, bit for bit, as without the interruption.
            Its own configuration holds; an option that contradicts it is refused.
        overwrite: replace the run in the folder.
        watch: called some ten times a second with the steps done, the steps in all, and the mean loss since
            the last call.

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
    run, splits = start(config, out, resume=resume, overwrite=overwrite)
    history = History(run.path / HISTORY)
    history.cut(run.step)
    if run.step == 0:
        checkpoint(run, splits.train)
    with interrupts() as interrupted, TensorBoardLog(run.path / TENSORBOARD, run.config.tensorboard) as log:
        while run.step < run.config.steps:
            saved, losses = run.step, []
            for block in blocks(run, splits.train):
                losses += block
                watch(run.step, run.config.steps, sum(block) / len(block))
                if interrupted.is_set():
                    break
            rates = [run.config.rate_at(step) for step in range(saved, run.step)]
            history.append(saved, losses, rates)
            log.add(saved, losses, rates)
            checkpoint(run, splits.train)
            if interrupted.is_set() and run.step < run.config.steps:
                raise TrainingInterrupted(
                    f"stopped after {run.step:,} steps, which are saved; "
                    f"go on with: backhand train --out {run.path} --resume"
                )
    finish(run, splits, history)
    return run


def blocks(run: Run, contexts: Contexts) -> Iterator[list[float]]:
    """Train up to the next checkpoint, and yield the losses of about a tenth of a second at a time.

    How many steps that is depends on the machine; the result does not: the indices of k minibatches drawn at
    once are those of k draws, and the generator is left in the same state.
    """
    config, parameters = run.config, run.model.parameters
    engine = ENGINES[config.engine]
    running = Running(run.model.bnmean, run.model.bnstd) if config.batch_norm == "running" else None
    stop = min(config.steps, (run.step // config.checkpoint_every + 1) * config.checkpoint_every)
    steps = 1
    while run.step < stop:
        steps = min(steps, stop - run.step)
        began = time.perf_counter()
        rows = torch.randint(0, len(contexts), (steps, config.batch_size), generator=run.generator)
        Xs, Ys = contexts[rows.to(contexts.flat.device)]  # (steps, n, block_size), (steps, n)
        rates = [config.rate_at(step) for step in range(run.step, run.step + steps)]
        before = {name: p.clone() for name, p in parameters.items()}
        losses = engine(parameters, Xs, Ys, rates, running)
        if not all(tensor.isfinite().all() for tensor in (losses, *parameters.values())):
            origin = first_nonfinite(config.engine, before, Xs, Ys, rates)
            raise NonFiniteError(explain_nonfinite(run, origin))
        run.step += steps
        yield losses.tolist()
        pace = steps / (time.perf_counter() - began)
        steps = max(1, min(2 * steps, round(0.1 * pace), (1 << 20) // config.batch_size))


def explain_nonfinite(run: Run, origin: tuple[int, str] | None) -> str:
    """Return the message for a run that went wrong in the block of steps after `run.step`."""
    where = f"after step {run.step:,}, a tensor is not finite"
    if origin is not None:
        where = f"step {run.step + origin[0]:,}: {origin[1]} is the first tensor that is not finite"
    rate = run.config.rate_at(run.step)
    return f"{where}; the last checkpoint in {run.path} is kept. Try a --rate below {rate:g}"


def checkpoint(run: Run, contexts: Contexts) -> None:
    """Save the run as a usable model: calibrated, unless it keeps running statistics."""
    if run.config.batch_norm == "calibrate":
        bnmean, bnstd = calibrate(run.model.parameters, contexts)
        run.model = Model(run.vocabulary, run.model.parameters, bnmean, bnstd)
    run.save()


def finish(run: Run, splits: Splits[Contexts], history: History) -> None:
    """Measure the loss of each split, and write samples, plot and results."""
    run.results = {name: run.model.loss(contexts) for name, contexts in splits._asdict().items()}
    run.model = run.model.to("cpu")
    words = islice(draw_words(run.model, torch.Generator().manual_seed(LECTURE_SEED)), 20)
    write_atomically(run.path / SAMPLES, "".join(f"{word}\n" for word in words).encode())
    write_atomically(run.path / PLOT, plot_history(*history.read(), run.config))
    run.save_about()


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that a step is never torn; a second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread receives signals
        return

    def note(signum: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
