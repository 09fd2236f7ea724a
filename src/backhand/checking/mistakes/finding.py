"""A mistake that was found: its kind and its facts, before it is put into words."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from backhand.checking.mistakes.neighbourhood import Scene
from backhand.checking.running.names import flatten
from backhand.checking.verdicts.comparing import close


@dataclass
class Finding:
    """A kind of mistake with its detail, a clause that says it in the user's names, perhaps its own hint."""

    kind: str
    detail: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    also: str = ""
    hint: str = ""


Finder = Callable[[Scene], Finding | None]


def same(user: Tensor, predicted: Tensor | None, scene: Scene) -> bool:
    """Tell whether a mistake reproduces the user's tensor."""
    if predicted is None or user.shape != predicted.shape:
        return False
    size = float(scene.expected.abs().max()) if scene.expected.numel() else 0.0
    return close(user, predicted, max(10 * size, scene.summands))


def named_values(scene: Scene) -> Iterator[tuple[str, Tensor]]:
    """Yield the forward's floating-point tensors by name."""
    for name, value in flatten(scene.trace.values).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            yield name, value.detach()


def listed(names: list[str]) -> str:
    """Return names as a phrase: `a`, `a and b`, `a, b and c`.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1] if names else ""]))
