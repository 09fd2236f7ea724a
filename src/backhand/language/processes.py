"""Several processes that train one model, as `torchrun` starts them: who writes, and what they agree on.

All do the same: they draw the same minibatches and take the same steps, each with its part of the work (see
`engines.parallel`). The first holds the run folder and speaks; the others, the followers, keep what they
write in a folder that is thrown away.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from backhand.engines import Engine
from backhand.engines.parallel import processes, summed
from backhand.errors import BackhandError, ConfigError, JobError, NonFiniteError

from .config import TrainConfig
from .contexts import Contexts, Splits
from .saving import HISTORY, Run
from .starting import new_run, started, take_up
from .words import load_words

Started = tuple[Run, Splits[Contexts]]


def is_follower() -> bool:
    """Tell whether `torchrun` has started this process, and another one speaks."""
    return dist.is_available() and dist.is_torchelastic_launched() and os.environ.get("RANK") != "0"


@contextmanager
def together(config: TrainConfig, engine: Engine | None) -> Iterator[None]:
    """Let the processes that `torchrun` has started, if it has, be one job.

    Raises:
        ConfigError: the options are for one process.
        JobError: another process has ended.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    try:
        _refuse(config, engine)
    except ConfigError:
        if os.environ["LOCAL_RANK"] == "0":  # the first on a machine says it for those beside it
            raise
        sys.exit(0)  # see below
    on_gpus = config.device.startswith("cuda")
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo")
    previous = signal.signal(signal.SIGTERM, _ended)  # which torchrun sends when another process has ended
    try:
        yield
    except (JobError, NonFiniteError, KeyboardInterrupt):  # which come to all, and the first one tells
        if not is_follower():
            raise
        sys.exit(0)  # if it failed, torchrun would end the first one too, which may still be saving
    else:  # after an exception the group cannot be left in good order: others may wait in it
        dist.destroy_process_group()
    finally:
        signal.signal(signal.SIGTERM, previous)


def _refuse(config: TrainConfig, engine: Engine | None) -> None:
    """Raise where the options are not for as many processes as there are."""
    size, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if engine is not None or config.engine != "fused":
        what = "a backward of your own" if engine is not None else f"--engine {config.engine}"
        raise ConfigError(f"{what} trains in one process; with torchrun, choose --engine fused")
    if config.batch_size < 2 * size:
        raise ConfigError(
            f"--batch-size {config.batch_size} is too small for {size} processes; give 2 examples to each"
        )
    gpus = torch.cuda.device_count()
    if config.device.startswith("cuda") and here > gpus:
        instead = f"--nproc-per-node {gpus}" if gpus else "--device cpu"
        raise ConfigError(f"{here} processes need a GPU each, and there are {gpus}; give {instead}")


def _ended(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise JobError(
        "the job was ended; start it once more with --resume, which goes on from the last checkpoint"
    )


def started_together(
    config: TrainConfig, out: str | Path | None, *, resume: bool, overwrite: bool
) -> AbstractContextManager[Started]:
    """Give the run and its contexts as `started` does; a follower gets its own, after the first process.

    It reads the words, and the run to go on with, where the first process does.
    """
    if processes() == 1:
        return started(config, out, resume=resume, overwrite=overwrite)
    if is_follower():
        return _following(config, out, resume=resume)
    return _leading(started(config, out, resume=resume, overwrite=overwrite))


@contextmanager
def _leading(run: AbstractContextManager[Started]) -> Iterator[Started]:
    with ExitStack() as stack:
        try:
            found = stack.enter_context(run)
        except BackhandError:
            _is_well(False)
            raise
        _is_well(True)
        _is_well(True)  # they have read what they need
        yield found


@contextmanager
def _following(config: TrainConfig, out: str | Path | None, *, resume: bool) -> Iterator[Started]:
    if not _is_well(True):
        sys.exit(BackhandError.exit_status)  # the first process has said why
    with tempfile.TemporaryDirectory() as folder:
        own, path = Path(folder), Path(out or Path("runs") / Path(config.words).stem)
        if resume:
            run, splits = take_up(config, path)
            run.path = own
            if (path / HISTORY).exists():
                shutil.copy(path / HISTORY, own)
        else:
            run, splits = new_run(config, own, load_words(config.words, config.column, config.clean))
        _is_well(True)
        yield run, splits


def _is_well(well: bool) -> bool:
    """Wait for all; return whether all are well."""
    return int(summed(torch.tensor(0 if well else 1))) == 0


def agreed(steps: int, interrupted: bool) -> tuple[int, bool]:
    """Return how many steps to take before the next look around, and whether to stop.

    How many fit into a tenth of a second depends on the process, and Ctrl-C comes to each at another step.
    """
    if processes() == 1:
        return steps, interrupted
    is_first = dist.get_rank() == 0
    found = summed(torch.tensor([steps if is_first else 0, int(interrupted)]))
    return int(found[0]), bool(found[1])
