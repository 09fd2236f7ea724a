"""A run folder: what training leaves behind, written so that a killed process never spoils it."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from backhand.errors import ConfigError, RunError, WordsError
from backhand.writing import write_whole

from .config import TrainConfig
from .contexts import Contexts, Splits, split_words
from .model import Model, draw_parameters
from .vocabulary import Vocabulary
from .words import hash_words, load_words

MODEL, ABOUT = "model.safetensors", "run.json"
HISTORY, PLOT, SAMPLES, TENSORBOARD = "history.csv", "loss.png", "samples.txt", "tensorboard"


@dataclass
class Run:
    """A run: a usable model, and all that is needed to go on training it.

    Attributes:
        path: its folder.
        config: what it was started with; `words` is an embedded list's name or an absolute path.
        vocabulary: the symbols.
        words_sha256: see `hash_words`.
        step: how many steps the model has been trained for.
        model: parameters and batch norm statistics as of that step.
        generator: the generator that draws minibatches, as of that step.
        results: once training is complete, the loss of each split in nats a symbol.
    """

    path: Path
    config: TrainConfig
    vocabulary: Vocabulary
    words_sha256: str
    step: int
    model: Model
    generator: torch.Generator
    results: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Read a run folder.

        Raises:
            RunError: it is not a run folder, or a file in it is damaged or belongs to something else.
        """
        path = Path(path)
        about = read_about(path)
        try:
            config = TrainConfig.from_dict(about["configuration"])
            vocabulary = Vocabulary("".join(about["vocabulary"]))
            words_sha256, results = str(about["words_sha256"]), dict(about["results"])
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise RunError(f"{path / ABOUT} is damaged, or not from backhand: {error!r}") from None
        step, tensors = read_model(path / MODEL)
        generator = torch.Generator()
        parameters = draw_parameters(config, len(vocabulary), generator)
        shapes = {name: p.shape for name, p in parameters.items()}
        shapes |= {
            "bnmean": shapes["bngain"],
            "bnstd": shapes["bngain"],
            "generator": generator.get_state().shape,
        }
        for name, shape in shapes.items():
            dtype = torch.uint8 if name == "generator" else torch.float32
            if name not in tensors or tensors[name].shape != shape or tensors[name].dtype != dtype:
                raise RunError(
                    f"{path / MODEL} does not fit {ABOUT}: {name} is missing, or not {dtype} {tuple(shape)}"
                )
        generator.set_state(tensors["generator"])
        parameters = {name: tensors[name] for name in parameters}
        model = Model(vocabulary, parameters, tensors["bnmean"], tensors["bnstd"])
        return cls(path, config, vocabulary, words_sha256, step, model, generator, results)

    def save(self) -> None:
        """Write the checkpoint, then run.json; a reader finds the old file or the new one, never half of one.

        Replacing the checkpoint is the moment at which a new step counts: `history.csv` may be ahead of it
        (resuming cuts it back) and run.json behind it.
        """
        tensors = self.model.parameters | {"bnmean": self.model.bnmean, "bnstd": self.model.bnstd}
        tensors = {name: t.cpu().contiguous() for name, t in tensors.items()}
        tensors["generator"] = self.generator.get_state()
        write_atomically(self.path / MODEL, save(tensors, metadata={"step": str(self.step)}))
        self.save_about()

    def save_about(self) -> None:
        """Write run.json alone, which makes a folder a run folder."""
        about = {
            "configuration": self.config.to_dict(),
            "vocabulary": self.vocabulary.letters,
            "seeds": {
                "parameters and minibatches": self.config.seed,
                "gain and bias of batch norm": self.config.seed + 1,
                "split": self.config.split_seed,
            },
            "words_sha256": self.words_sha256,
            "step": self.step,
            "results": self.results,
            "versions": {
                "backhand": version("backhand"),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
        }
        write_atomically(self.path / ABOUT, (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())

    def words(self) -> list[str]:
        """Read the words that the run was trained on again.

        Raises:
            WordsError: they are no longer there, or are no longer the same.
        """
        words = load_words(self.config.words, self.config.column, self.config.clean)
        if hash_words(words) != self.words_sha256:
            raise WordsError(
                f"{self.config.words} has changed since {self.path} was trained on it; restore it"
            )
        return words

    def contexts(self) -> Splits[Contexts]:
        """Return the contexts of each split of the words that the run was trained on."""
        return make_contexts(self.words(), self.vocabulary, self.config)


def make_contexts(
    words: Sequence[str], vocabulary: Vocabulary, config: TrainConfig, device: str = "cpu"
) -> Splits[Contexts]:
    """Split words as a configuration says, and return the contexts of each split."""
    splits = split_words(words, config.split_seed)
    train, dev, test = (Contexts(split, vocabulary, config.block_size, device) for split in splits)
    return Splits(train, dev, test)


def read_about(path: Path) -> dict[str, Any]:
    """Return what run.json holds."""
    try:
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{str(path)!r} is not a run folder: there is no {ABOUT} in it") from None
    except OSError as error:
        raise RunError(f"cannot read {path / ABOUT}: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{path / ABOUT} is damaged: {error}") from None
    if not isinstance(about, dict):
        raise RunError(f"{path / ABOUT} is damaged, or not from backhand: it holds no JSON object")
    return about


def read_model(path: Path) -> tuple[int, dict[str, Tensor]]:
    """Return the step and the tensors of a checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.metadata()["step"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise RunError(f"there is no {MODEL} in {str(path.parent)!r}; train again with --overwrite") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} is damaged, or not from backhand: {error}; train again with --overwrite"
        ) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one go; when that fails, the old file is still there."""
    try:
        write_whole(path, data)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror}; what was saved before is still there"
        ) from None
