"""The file model.safetensors of a run folder: the model to use, and all that going on with training needs.

Where the best model is kept, the one that training goes on from stands beside it, its names after "latest.".
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from backhand.errors import RunError

from .about import About
from .config import TrainConfig
from .files import refuse_no_file, write_atomically
from .model_types import AnyModel, model_of, state_shapes
from .vocabulary import Vocabulary

MODEL = "model.safetensors"
FACTS = "backhand"
LATEST = "latest."
GENERATOR = "generator"
HINT = "; train again with --overwrite"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a step.

    Attributes:
        step: how many steps have been taken.
        model: the model to use.
        latest: the model after `step`; the same one, unless a better one is kept.
        generator: draws minibatches, as of that step.
        kept: after how many steps the model to use was measured.
        dev: its development loss then; infinite where none has been measured.
        history: the SHA-256 of history.csv up to that step; None in a file of the first format.
    """

    step: int
    model: AnyModel
    latest: AnyModel
    generator: torch.Generator
    kept: int
    dev: float
    history: str | None

    def write(self, folder: Path, identity: str) -> None:
        """Write the file; replacing it is the moment at which a new step counts."""
        tensors = tensors_of(self.model)
        if self.latest is not self.model:
            tensors |= {LATEST + name: t for name, t in tensors_of(self.latest).items()}
        tensors[GENERATOR] = self.generator.get_state()
        facts = {"step": self.step, "kept": self.kept, "dev": repr(self.dev), "history": self.history or ""}
        facts["run"] = identity
        facts["sha256"] = digest(facts, tensors)
        # in one entry: those of safetensors come in any order, and equal runs have equal files
        metadata = {FACTS: json.dumps(facts, sort_keys=True)}
        write_atomically(folder / MODEL, save(tensors, metadata=metadata))

    @classmethod
    def read(cls, folder: Path, about: About) -> "Checkpoint":
        """Read the file of the run that run.json tells of.

        Raises:
            RunError: it is not there, is damaged, or belongs to something else.
        """
        path = folder / MODEL
        metadata, tensors = read_safetensors(path)
        try:
            facts = json.loads(metadata[FACTS]) if FACTS in metadata or about.format > 1 else dict(metadata)
            state = read_state(facts, about.config.steps or 0)
            if FACTS in metadata or about.format > 1:
                if facts.pop("sha256") != digest(facts, tensors):
                    raise ValueError("its checksum is another one: something in it has changed")
                if facts["run"] != about.identity:
                    raise ValueError("it belongs to another run than run.json")
            generator = torch.Generator()
            refuse_other_tensors(tensors, about.config, about.vocabulary, generator)
            generator.set_state(tensors[GENERATOR])
        except KeyError as error:
            raise RunError(f"{path} is damaged: it has no {error}{HINT}") from None
        except (RuntimeError, ValueError, TypeError, AttributeError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"{path} is damaged, or does not fit run.json: {reason}{HINT}") from None
        vocabulary = about.vocabulary
        model = model_of(about.config, tensors, vocabulary)
        ahead = {name.removeprefix(LATEST): t for name, t in tensors.items() if name.startswith(LATEST)}
        latest = model_of(about.config, ahead, vocabulary) if ahead else model
        return cls(state[0], model, latest, generator, *state[1:])


def tensors_of(model: AnyModel) -> dict[str, Tensor]:
    """Return all that a checkpoint holds of a model by name, on the CPU."""
    return {name: t.cpu().contiguous() for name, t in model.tensors.items()}


def digest(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all that a file holds."""
    found = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, t in sorted(tensors.items()):
        found.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        found.update(t.reshape(-1).view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
    return found.hexdigest()


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a file."""
    refuse_no_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise RunError(f"there is no {MODEL} in {str(path.parent)!r}{HINT}") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path} is damaged, or not from backhand: {reason}{HINT}") from None


def read_state(facts: Mapping[str, Any], steps: int) -> tuple[int, int, float, str | None]:
    """Return step, kept, dev and history of what a file tells; the first format told `step` alone."""
    if facts.keys() == {"step"}:
        facts = {"step": facts["step"], "kept": facts["step"], "dev": "inf", "history": ""}
    elif facts.keys() != {"step", "kept", "dev", "history", "run", "sha256"}:
        raise ValueError("it does not tell what a checkpoint tells")
    step, kept, dev = int(facts["step"]), int(facts["kept"]), float(facts["dev"])
    if not 0 <= kept <= step <= steps:
        raise ValueError(f"it is at step {step} of {steps}")
    return step, kept, dev, facts["history"] or None


def refuse_other_tensors(
    tensors: Mapping[str, Tensor], config: TrainConfig, vocabulary: Vocabulary, generator: torch.Generator
) -> None:
    """Raise unless the tensors are those of a run's model, or of two, and all are finite."""
    shapes = state_shapes(config, len(vocabulary))
    ahead = {LATEST + name: shape for name, shape in shapes.items()}
    shapes |= ahead if ahead.keys() & tensors.keys() else {}
    shapes[GENERATOR] = tuple(generator.get_state().shape)
    for name, shape in shapes.items():
        dtype = torch.uint8 if name == GENERATOR else torch.float32
        if name not in tensors or tensors[name].shape != shape or tensors[name].dtype != dtype:
            raise ValueError(f"{name} is missing, or not {dtype} {shape}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{name} is not finite")
    if tensors.keys() != shapes.keys():
        raise ValueError(f"{min(tensors.keys() - shapes.keys())!r:.50} is not of the model")
