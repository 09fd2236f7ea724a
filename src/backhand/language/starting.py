"""Beginning a run, or taking one up again: what is to be refused is refused before anything is written."""

import dataclasses
import shutil
from pathlib import Path

import torch

from backhand.datasets import DATASETS
from backhand.errors import ConfigError, RunError, WordsError

from .config import TrainConfig, flag
from .contexts import Contexts, Splits
from .model import Model, draw_parameters
from .saving import ABOUT, HISTORY, MODEL, PLOT, SAMPLES, TENSORBOARD, Run, make_contexts
from .tensorboard import writer_class
from .vocabulary import Vocabulary
from .words import hash_words, load_words


def start(
    config: TrainConfig, out: str | Path | None, *, resume: bool, overwrite: bool
) -> tuple[Run, Splits[Contexts]]:
    """Return a run, new or as its folder left it, with the contexts of its words, both on its device.

    Raises:
        BackhandError: the options, the words or the folder cannot be used; nothing has been written then.
    """
    path = Path(out or Path("runs") / Path(config.words).stem)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other; leave one out")
    if resume:
        run = Run.load(path)
        refuse_contradiction(config, run)
        words = run.words()
    else:
        refuse_occupied(path, overwrite)
        words = load_words(config.words, config.column, config.clean)
        run = new_run(config, path, words)
    refuse_device(run.config.device)
    if run.config.tensorboard:
        writer_class()
    run.model = run.model.to(run.config.device)
    splits = make_contexts(words, run.vocabulary, run.config, run.config.device)
    if not resume:
        clear(path)
        run.save_about()
    return run, splits


def new_run(config: TrainConfig, path: Path, words: list[str]) -> Run:
    """Return a run at step 0, with its parameters drawn; its configuration tells how the words were read."""
    dataset = DATASETS.get(config.words)
    if dataset is not None:
        config = dataclasses.replace(
            config, column=config.column or dataset.column, clean=config.clean or dataset.clean
        )
    else:
        config = dataclasses.replace(config, words=absolute(config.words))
    vocabulary = Vocabulary.of(words)
    if len(vocabulary) < 3:
        raise WordsError(
            f"{config.words}: all words are made of one letter, {vocabulary.letters!r}; nothing to learn"
        )
    generator = torch.Generator().manual_seed(config.seed)
    parameters = draw_parameters(config, len(vocabulary), generator)
    bnmean, bnstd = torch.zeros(1, config.n_hidden), torch.ones(1, config.n_hidden)
    return Run(
        path,
        config,
        vocabulary,
        hash_words(words),
        0,
        Model(vocabulary, parameters, bnmean, bnstd),
        generator,
    )


def absolute(words: str) -> str:
    """Return an embedded list's name as it is, and a path so that it can be found from any folder."""
    return words if words in DATASETS else str(Path(words).resolve())


def refuse_contradiction(config: TrainConfig, run: Run) -> None:
    """Raise unless every option is as the run has it, or left at its default."""
    for field in dataclasses.fields(TrainConfig):
        given, there = getattr(config, field.name), getattr(run.config, field.name)
        if field.name == "words":
            given = absolute(given)
        if given not in (there, field.default):
            raise ConfigError(
                f"{flag(field.name)} is {given!r}, but the run in {run.path} has {there!r}; "
                "leave it out to go on with that run, or choose another --out"
            )


def refuse_occupied(path: Path, overwrite: bool) -> None:
    """Raise if a folder holds a run that may not be replaced, or something else."""
    if not path.exists():
        return
    if not path.is_dir():
        raise RunError(f"--out {path} is a file; choose a folder")
    if (path / ABOUT).exists():
        if not overwrite:
            raise RunError(
                f"{path} holds a run already: --resume goes on with it, --overwrite replaces it, "
                "another --out leaves it alone"
            )
        return
    if any(path.iterdir()):
        raise RunError(f"{path} holds other things than a run; choose another --out")


def refuse_device(device: str) -> None:
    """Raise if PyTorch cannot compute on a device here."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device!r} cannot be used here ({reason}); use --device cpu") from None


def clear(path: Path) -> None:
    """Make the folder, or remove the files of an old run from it; what else is in it stays."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in (ABOUT, MODEL, HISTORY, PLOT, SAMPLES):
            (path / name).unlink(missing_ok=True)
        if (path / TENSORBOARD).exists():
            shutil.rmtree(path / TENSORBOARD)
    except OSError as error:
        raise RunError(f"cannot write in {path}: {error.strerror}") from None
