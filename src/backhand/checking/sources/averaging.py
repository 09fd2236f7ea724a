"""The courses in which a layer, not the loss, takes the mean over the batch: `dW = dZ @ A.T / m`.

Of a layer alone such gradients are the truth divided by m, and that is no mistake: the course's loss leaves
the division to the layers. Only the whole model shows whether it is made once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.mistakes.finding import listed
from backhand.checking.verdicts.comparing import close, right_but_for_shape


@dataclass(frozen=True)
class Averaged:
    """Which gradients a layer divides by the size of the batch.

    Attributes:
        parameters: the tensors whose gradients are divided.
        data: the input that holds the batch.
        axis: of the batch, in it.
    """

    parameters: tuple[str, ...]
    data: str
    axis: int

    def applied(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return inputs whose parameters receive their gradients divided."""
        size = inputs[self.data].shape[self.axis]
        return {k: _divided(v, size) if k in self.parameters else v for k, v in inputs.items()}

    def note(self, gradients: list[str]) -> str:
        """Return what is told of it."""
        are = "are" if len(gradients) > 1 else "is"
        return (
            f"{listed(gradients)} {are} judged divided by {self.data}.shape[{self.axis}]: the layer takes "
            "the mean over the batch, as in courses whose loss leaves it to the layers. Whether it is taken "
            "once, the whole model shows."
        )


def averaged(
    outputs: Sequence[Tensor], expected: Mapping[str, Tensor], given: Mapping[str, Any]
) -> Averaged | None:
    """Return how a layer divides the gradients of its parameters, if it is that and nothing else.

    The gradient of the data, the first input, is not divided by the same number: otherwise the upstream
    gradient was. One parameter alone that is divided is a `mean` written for a `sum`; where there are two,
    none is right as it stands, but for those of inputs that hold the batch themselves, such as a state.

    Args:
        outputs: of the layer; the batch is an axis of each, the same as of the data.
        expected: the true gradients by the names of the inputs.
        given: the layer's.
    """
    data = next(iter(expected), None)
    if data is None:
        return None
    right = {n for n, g in expected.items() if _fits(given.get(n), g, 1)}
    for axis, size in enumerate(expected[data].shape):
        is_batch = all(out.shape[axis : axis + 1] == (size,) for out in outputs)
        if size < 2 or not is_batch or _fits(given.get(data), expected[data], size):
            continue
        divided = {n for n, g in expected.items() if n != data and _fits(given.get(n), g, size)}
        parameters = [n for n, g in expected.items() if n != data and (n in divided or size not in g.shape)]
        of_it = any(size not in expected[n].shape for n in divided)  # not that of the features
        if of_it and len(parameters) > 1 and not right & set(parameters):
            return Averaged(tuple(parameters), data, axis)
    return None


def _fits(given: Any, expected: Tensor, size: int) -> bool:
    if not isinstance(given, Tensor):
        return False
    whole = expected / size
    return close(given, whole) or right_but_for_shape(given, whole)


def _divided(value: Tensor, size: int) -> Tensor:
    return _Divided.apply(value, size)  # type: ignore[no-any-return]


class _Divided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, size: int) -> Tensor:
        ctx.size = size
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:  # type: ignore[override]
        return upstream / ctx.size, None
