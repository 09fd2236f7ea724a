"""The file run.json of a run folder: read with every value looked at, and written with a checksum.

A file of the first format, which had neither a number nor a checksum, is still read.
"""

import hashlib
import json
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backhand.errors import ConfigError, RunError

from .config import TrainConfig
from .files import refuse_no_file, write_atomically
from .recipes import config_of
from .vocabulary import END, Vocabulary

ABOUT = "run.json"
FORMAT = 2
LARGEST = 1 << 26
"""Bytes; a run.json that is larger is not one."""

FIRST = {"configuration", "vocabulary", "seeds", "words_sha256", "step", "results", "versions"}
KEYS = FIRST | {"format", "clusters", "sha256"}


@dataclass(frozen=True)
class About:
    """What run.json tells of a run: see `Run`. It may be a checkpoint behind model.safetensors."""

    config: TrainConfig
    vocabulary: Vocabulary
    words_sha256: str
    step: int
    results: dict[str, float]
    format: int = FORMAT

    @property
    def identity(self) -> str:
        """A name for the run, made of what stays the same all along; the checkpoint carries it too."""
        fixed = [self.config.to_dict(), self.vocabulary.letters, self.vocabulary.clusters, self.words_sha256]
        return digest(fixed)

    def write(self, folder: Path) -> None:
        """Write run.json, which makes a folder a run folder."""
        config = self.config
        about = {
            "format": FORMAT,
            "configuration": config.to_dict(),
            "vocabulary": self.vocabulary.letters,
            "clusters": list(self.vocabulary.clusters),
            "seeds": {
                "parameters and minibatches": config.seed,
                "gain and bias of batch norm": config.seed + 1,
                "split": config.split_seed,
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
        about["sha256"] = digest(about)
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / ABOUT, text.encode())

    @classmethod
    def read(cls, folder: Path) -> "About":
        """Read run.json.

        Raises:
            RunError: it is not there, or is damaged, or belongs to something else.
        """
        about = read_json(folder)
        path = folder / ABOUT
        try:
            if about.keys() == FIRST:
                about |= {"format": 1, "clusters": []}
                about["configuration"] = dict(about["configuration"]) | {"keep": "last"}
            elif about.keys() != KEYS or about["format"] != FORMAT:
                odd = sorted(map(str, about.keys() ^ KEYS)) or [f"format {about['format']!r}"]
                raise ValueError(f"unknown or missing: {', '.join(odd)[:200]}")
            elif about["sha256"] != digest({k: v for k, v in about.items() if k != "sha256"}):
                raise ValueError("its checksum is another one: something in it has changed")
            return cls(
                read_config(about["configuration"]),
                read_vocabulary(about["vocabulary"], about["clusters"]),
                read_hash(about["words_sha256"]),
                read_step(about["step"], int(about["configuration"]["steps"])),
                read_results(about["results"]),
                about["format"],
            )
        except (KeyError, TypeError, ValueError, OverflowError, ConfigError) as error:
            raise RunError(f"{path} is damaged, or not from backhand: {error}".replace("\n", " ")) from None


def digest(value: Any) -> str:
    """Return the SHA-256 of a value as JSON tells it, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(folder: Path) -> dict[str, Any]:
    """Return what run.json holds, an object whose text could be written again."""
    path = folder / ABOUT
    refuse_no_file(path)
    try:
        if path.stat().st_size > LARGEST:
            raise RunError(f"{path} is damaged, or not from backhand: it is far too large")
        about = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(about, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{str(folder)!r} is not a run folder: there is no {ABOUT} in it") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    if not isinstance(about, dict):
        raise RunError(f"{path} is damaged, or not from backhand: it holds no JSON object")
    return about


def read_config(values: Any) -> TrainConfig:
    """Return the configuration; of a run that has begun, nothing is left open."""
    kind = values.get("type", "mlp") if isinstance(values, dict) else "mlp"
    config = config_of(kind).from_dict(values)
    if config.steps is None or config.keep is None or "\0" in config.words:
        raise ValueError("steps, keep or words are not those of a run")
    return config


def read_vocabulary(letters: Any, clusters: Any) -> Vocabulary:
    """Return the vocabulary, its symbols sorted and different from each other."""
    if not isinstance(letters, str) or not isinstance(clusters, list):
        raise TypeError("the vocabulary is no text")
    if letters != "".join(sorted(set(letters) - {END})) or len(letters) + len(clusters) < 2:
        raise ValueError("the vocabulary's letters are not sorted, or fewer than two")
    if clusters != sorted(set(clusters)) or not all(isinstance(c, str) and len(c) > 1 for c in clusters):
        raise ValueError("the vocabulary's clusters are not sorted, or are none")
    return Vocabulary(letters, tuple(clusters))


def read_hash(value: Any) -> str:
    """Return a SHA-256 in hexadecimal digits."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("words_sha256 is no SHA-256")
    return value


def read_step(value: Any, steps: int) -> int:
    """Return a number of steps done."""
    if type(value) is not int or not 0 <= value <= steps:
        raise ValueError(f"step is {value!r:.50}, which is not from 0 to {steps}")
    return value


def read_results(values: Any) -> dict[str, float]:
    """Return the loss of each split, or of none where training is not complete."""
    if not isinstance(values, dict) or values.keys() not in ({"train", "dev", "test"}, set()):
        raise ValueError("results are not those of train, dev and test")
    if not all(type(loss) is float and isfinite(loss) for loss in values.values()):
        raise ValueError("results are no finite numbers")
    return values
