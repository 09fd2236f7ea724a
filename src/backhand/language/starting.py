"""Beginning a run, or taking one up again: what is to be refused is refused before anything is written."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from backhand.datasets import DATASETS, LECTURE_LISTS
from backhand.errors import ConfigError, RunError, WordsError
from backhand.writing import TEMPORARY, sync_folder

from .about import ABOUT, About
from .checkpoint import MODEL
from .config import TrainConfig, flag
from .contexts import Contexts, Splits
from .locking import LOCK, locked, refuse_held
from .model_types import draw_model
from .recipes import WordConfig
from .saving import HISTORY, PLOT, SAMPLES, TENSORBOARD, Run, make_contexts
from .sizing import refuse_size
from .tensorboard import writer_class
from .vocabulary import Vocabulary
from .words import hash_words, load_words

FILES = (ABOUT, MODEL, HISTORY, PLOT, SAMPLES)


@contextmanager
def started(
    config: TrainConfig, out: str | Path | None, *, resume: bool, overwrite: bool
) -> Iterator[tuple[Run, Splits[Contexts]]]:
    """Give a run, new or as its folder left it, with the contexts of its words, both on its device.

    The run's folder is locked as long as it is in use.

    Raises:
        BackhandError: the options, the words or the folder cannot be used; nothing has been written then.
    """
    path = Path(out or Path("runs") / Path(config.words).stem)
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other; leave one out")
    refuse_held(path)
    if resume:
        About.read(path)  # so that no folder is made, nor a lock in somebody else's
        with locked(path):
            yield take_up(config, path)
        return
    refuse_occupied(path, overwrite)
    refuse_device(config)
    words = load_words(config.words, config.column, config.clean)
    run, splits = new_run(config, path, words)
    with locked(path):
        refuse_occupied(path, overwrite)  # another process may have been faster
        clear(path)
        run.about.write(path)
        yield run, splits


def take_up(config: TrainConfig, path: Path) -> tuple[Run, Splits[Contexts]]:
    """Return the run in a folder; one that was stopped before its first checkpoint begins once more."""
    about = About.read(path)
    if about.step or (path / MODEL).exists():
        run = Run.load(path)
        words = run.words()
    else:
        words = load_words(about.config.words, about.config.column, about.config.clean)
        run, _ = new_run(about.config, path, words)
        if run.about.identity != about.identity:
            raise WordsError(
                f"{about.config.words} has changed since the run in {path} was begun; restore it"
            )
    refuse_contradiction(config, run)
    refuse_device(run.config)
    remove_leftovers(path)
    same = run.latest is run.model
    run.model = run.model.to(run.config.device)
    run.latest = run.model if same else run.latest.to(run.config.device)
    return run, make_contexts(words, run.vocabulary, run.config, run.config.device)


def new_run(config: TrainConfig, path: Path, words: list[str]) -> tuple[Run, Splits[Contexts]]:
    """Return a run at step 0, with its parameters drawn, and its contexts, on its device.

    Its configuration tells how the words were read, and what was chosen for options that were left open.
    """
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
    if isinstance(config, WordConfig):
        config = dataclasses.replace(config, block_size=max(len(vocabulary.encode(word)) for word in words))
    refuse_size(config, len(vocabulary))
    splits = make_contexts(words, vocabulary, config, config.device)
    words_sha256 = hash_words(words)
    lecture = dataset is not None or words_sha256 in LECTURE_LISTS
    config = dataclasses.replace(
        config,
        steps=config.steps or config.fitting_steps(len(splits.train)),
        n_hidden=config.n_hidden or (config.hidden if lecture else config.fitting_hidden(len(splits.train))),
        keep=config.keep or ("last" if lecture else "best"),
    )
    generator = torch.Generator().manual_seed(config.seed)
    model = draw_model(config, vocabulary, generator).to(config.device)
    return Run(path, config, vocabulary, words_sha256, 0, model, model, generator), splits


def absolute(words: str) -> str:
    """Return an embedded list's name as it is, and a path so that it can be found from any folder.

    Raises:
        WordsError: the path is not UTF-8, so that run.json could not tell it.
    """
    if words in DATASETS:
        return words
    path = str(Path(words).resolve())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise WordsError(f"{path!r} is no UTF-8 name; rename the file or its folder") from None
    return path


def refuse_contradiction(config: TrainConfig, run: Run) -> None:
    """Raise unless every option is as the run has it, or left at its default."""
    for field in dataclasses.fields(config):
        given, there = getattr(config, field.name), getattr(run.config, field.name, None)
        if field.name == "words":
            given = absolute(given)
        if given not in (there, field.default):
            raise ConfigError(
                f"{flag(field.name)} is {given!r}, but the run in {run.path} has {there!r}; "
                "leave it out to go on with that run, or choose another --out"
            )


def refuse_occupied(path: Path, overwrite: bool) -> None:
    """Raise if a folder holds a run that may not be replaced, or something else.

    A folder in which a run was only just begun, or half cleared away, when its process was killed is free.
    """
    try:
        if not path.exists():
            return
        if not path.is_dir():
            raise RunError(f"--out {path} is a file; choose a folder")
        there = {file.name for file in path.iterdir()}
    except OSError as error:
        raise RunError(f"cannot use --out {path}: {error.strerror}") from None
    except ValueError:  # a NUL, which no name can hold
        raise RunError(f"--out {str(path)!r} is no name that a folder can have") from None
    if ABOUT in there:
        if not overwrite and (MODEL in there or About.read(path).step):
            raise RunError(
                f"{path} holds a run already: --resume goes on with it, --overwrite replaces it, "
                "another --out leaves it alone"
            )
        return
    if LOCK not in there and not there <= {name + TEMPORARY for name in FILES}:
        raise RunError(f"{path} holds other things than a run; choose another --out")


def refuse_device(config: TrainConfig) -> None:
    """Raise if PyTorch cannot compute on a device here, or a package that was asked for is not installed."""
    try:
        torch.zeros(1, device=config.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--device {config.device!r} cannot be used here ({reason}); use --device cpu"
        ) from None
    if config.tensorboard:
        writer_class()


def clear(path: Path) -> None:
    """Remove the files of an old run from a folder; what else is in it stays.

    run.json goes first: a folder without it, in which a process was killed, can be used again.
    """
    try:
        (path / ABOUT).unlink(missing_ok=True)
        sync_folder(path)
        remove_leftovers(path)
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        if (path / TENSORBOARD).exists():
            shutil.rmtree(path / TENSORBOARD)
    except OSError as error:
        raise RunError(f"cannot write in {path}: {error.strerror}") from None


def remove_leftovers(path: Path) -> None:
    """Remove what a process that was killed had not finished writing."""
    try:
        for name in FILES:
            (path / (name + TEMPORARY)).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write in {path}: {error.strerror}") from None
