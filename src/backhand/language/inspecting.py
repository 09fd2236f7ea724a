"""Looking into one minibatch: every intermediate, the health of the hidden layer, the size of the updates."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backhand.engines import adamw
from backhand.engines.stepping import by_hand
from backhand.engines.textbooks import textbook
from backhand.engines.word_engines import trimmed
from backhand.passes import mlp_chunked

from .about import ABOUT
from .config import TrainConfig
from .files import write_atomically
from .model import Model
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
        saturated: the share of the hidden layer's values, or of the states', beyond 0.99; 0 of a model
            that has neither.
        dead: how many hidden units are saturated for every example of the minibatch.
        updates: one for each parameter, by the step that would be taken: gradient descent, or AdamW.
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
    tensors, gradients = gradients_of_next(run)
    parameters = run.latest.parameters
    made = {name: t for name, t in tensors.items() if isinstance(t, Tensor) and name not in parameters}
    upstream = {name: t for name, t in gradients.items() if name[1:] in tensors and name not in tensors}
    if png is not None:
        maps = {"h": made.get("h"), "dlogits": gradients["dlogits"]}
        drawn = {name: t.flatten(0, -2) for name, t in maps.items() if t is not None}
        write_atomically(Path(png), plot_heat_maps(drawn))
    large = hidden_units(made).abs() > SATURATED  # (rows, n_hidden)
    return Inspection(
        step=run.step,
        tensors=made | upstream,
        forward=[Summary.of(name, t) for name, t in made.items()],
        backward=[Summary.of(name, t) for name, t in upstream.items()],
        saturated=large.double().mean().item() if large.numel() else 0.0,
        dead=int(large.all(0).sum()),
        updates=list(relative_updates(run, gradients)),
    )


def gradients_of_next(run: Run) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the tensors of the chunked forward on a run's next minibatch, and its gradients."""
    contexts = run.contexts().train
    generator = torch.Generator()
    generator.set_state(run.generator.get_state())  # the run itself goes on undisturbed
    latest, n = run.latest, (run.config.batch_size,)
    if isinstance(latest, Model):
        rows = torch.randint(0, len(contexts), n, generator=generator)
        return by_hand(mlp_chunked)(latest.parameters, *contexts[rows])
    whole, book = contexts.whole, textbook(run.config.type)
    rows = torch.randint(0, len(whole.X), n, generator=generator)
    X, Y = whole.X[rows], whole.Y[rows]
    X, Y, given = trimmed(X, Y, book.given(latest.parameters, X, latest.settings(), run.step))
    tensors = book.forward(X, Y, latest.parameters, given)
    return tensors, book.backward(tensors)


def hidden_units(made: Mapping[str, Tensor]) -> Tensor:
    """Return what a tanh bounds: the hidden layer, or the states at which words still go on; else nothing."""
    if "h" not in made:
        return torch.empty(0, 0)
    h, goes_on = made["h"], made.get("counted")
    return h if goes_on is None else h[goes_on[:, :, 0]]


def relative_updates(run: Run, gradients: Mapping[str, Tensor]) -> Iterator[Update]:
    """Compare each parameter's gradient, and the step along it, with the parameter itself.

    Where all its numbers are still alike, as a bias is before training, there is nothing to compare with.
    """
    steps = next_step(run, gradients)
    for name, p in run.latest.parameters.items():
        size = p.double().std().item()
        if size > 0:
            gradient, step = gradients[f"d{name}"].double(), steps[name]
            yield Update(name, gradient.std().item() / size, step.std().item() / size)


def next_step(run: Run, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what training would add to each parameter, in float64: by gradient descent, or by AdamW."""
    latest, rate = run.latest, run.config.rate_at(run.step)
    if isinstance(latest, Model):
        return {name: -rate * gradients[f"d{name}"].double() for name in latest.parameters}
    after = latest.changed(Tensor.double)
    ask = {"rate": rate, "weight_decay": latest.config.weight_decay, "step": run.step + 1}
    doubled = {f"d{name}": gradients[f"d{name}"].double() for name in latest.parameters}
    adamw.update(after.parameters, doubled, *after.moments, **ask)
    return {name: after.parameters[name] - p for name, p in latest.parameters.items()}


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
