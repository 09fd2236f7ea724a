"""Looking into one minibatch: every intermediate, the health of the hidden layer, the size of the updates."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backhand.engines.stepping import by_hand
from backhand.errors import ConfigError
from backhand.passes import mlp_chunked

from .about import ABOUT
from .config import TrainConfig
from .files import write_atomically
from .plotting import plot_heat_maps
from .saving import Run
from .starting import new_run, refuse_contradiction
from .words import load_words

SATURATED = 0.99
"""Size from which a tanh unit counts as saturated, as in the lecture."""


@dataclass(frozen=True)
class Summary:
    """One tensor in a few numbers; the deviation has divisor n - 1, and is 0 for a single number."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    min: float
    max: float

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "Summary":
        """Summarise a tensor."""
        x = tensor.double()
        std = x.std().item() if x.numel() > 1 else 0.0
        return cls(name, tuple(x.shape), x.mean().item(), std, x.min().item(), x.max().item())


@dataclass(frozen=True)
class Update:
    """How far a step moves a parameter: deviation of gradient and update over that of the parameter."""

    name: str
    gradient: float
    update: float


@dataclass(frozen=True)
class Inspection:
    """One minibatch, seen from inside.

    Attributes:
        step: how many steps the model had been trained for.
        tensors: every tensor of the chunked forward, and every gradient, by name.
        forward, backward: their summaries, in the order in which they are computed.
        saturated: the share of the hidden layer's values beyond 0.99 in size.
        dead: how many hidden units are saturated for every example of the minibatch.
        updates: one for each parameter, at the learning rate of that step.
    """

    step: int
    tensors: dict[str, Tensor]
    forward: list[Summary]
    backward: list[Summary]
    saturated: float
    dead: int
    updates: list[Update]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the tensors themselves, as JSON can hold it."""
        return {
            "step": self.step,
            "forward": [vars(summary) for summary in self.forward],
            "backward": [vars(summary) for summary in self.backward],
            "saturated": self.saturated,
            "dead": self.dead,
            "updates": [vars(update) for update in self.updates],
        }


@torch.no_grad()
def inspect(what: Run | TrainConfig | str | Path, *, png: str | Path | None = None) -> Inspection:
    """Look into the next minibatch of a run, or into the first of a run that has not been started.

    Args:
        what: a run or its folder; or a word list, or a configuration, whose `words` may be a run folder.
        png: also draw heat maps of h and dlogits into this file.

    Raises:
        BackhandError: the run or the words cannot be read, or an option contradicts the run's.

    >>> inspect(TrainConfig(words="municipios", n_hidden=8)).tensors["h"].shape
    torch.Size([32, 8])
    """
    run = find_run(what)
    if run.config.type != "mlp":
        raise ConfigError(f"{run.path} is of the type {run.config.type}; inspect looks into the mlp alone")
    contexts = run.contexts().train
    generator = torch.Generator()
    generator.set_state(run.generator.get_state())  # the run itself goes on undisturbed
    rows = torch.randint(0, len(contexts), (run.config.batch_size,), generator=generator)
    parameters = run.latest.parameters
    tensors, gradients = by_hand(mlp_chunked)(parameters, *contexts[rows])
    made = {name: t for name, t in tensors.items() if isinstance(t, Tensor) and name not in parameters}
    upstream = {name: t for name, t in gradients.items() if name[1:] in tensors and name not in tensors}
    if png is not None:
        maps = {"h": tensors["h"], "dlogits": gradients["dlogits"]}
        write_atomically(Path(png), plot_heat_maps(maps))
    large = tensors["h"].abs() > SATURATED  # (n, n_hidden)
    rate = run.config.rate_at(run.step)
    return Inspection(
        step=run.step,
        tensors=made | upstream,
        forward=[Summary.of(name, t) for name, t in made.items()],
        backward=[Summary.of(name, t) for name, t in upstream.items()],
        saturated=large.double().mean().item(),
        dead=int(large.all(0).sum()),
        updates=[relative_update(name, p, gradients[f"d{name}"], rate) for name, p in parameters.items()],
    )


def relative_update(name: str, parameter: Tensor, gradient: Tensor, rate: float) -> Update:
    """Compare a parameter's gradient, and the step along it, with the parameter itself."""
    ratio = (gradient.double().std() / parameter.double().std()).item()
    return Update(name, ratio, rate * ratio)


def find_run(what: Run | TrainConfig | str | Path) -> Run:
    """Return the run that is meant, or a new one that is not saved anywhere."""
    if isinstance(what, Run):
        return what
    config = what if isinstance(what, TrainConfig) else TrainConfig(words=str(what))
    folder = Path(config.words)
    try:
        is_run = (folder / ABOUT).exists()
    except OSError:  # no name that a folder could have; reading it tells
        is_run = False
    if not is_run:
        return new_run(config, folder, load_words(config.words, config.column, config.clean))[0]
    run = Run.load(folder)
    refuse_contradiction(dataclasses.replace(config, words=run.config.words), run)
    return run
