"""The courses in which a layer, not the loss, takes the mean over the batch: `dW = dZ @ A.T / m`.

Of a layer alone such gradients are the truth divided by m, and that is no mistake: the course's loss leaves
the division to the layers. Only the whole model shows whether it is made once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report, Row
from backhand.checking.verdicts.comparing import close, right_but_for_shape


@dataclass(frozen=True)
class Averaged:
    """Which gradients a layer divides by the size of the batch.

    Attributes:
        parameters: the tensors whose gradients are divided.
        data: the input that holds the batch.
        axis: of the batch, in it.
        whole: those of which the gradients are right as they stand. Then the layer takes the mean of some and
            not of others: which of them is wrong, the loss knows.
    """

    parameters: tuple[str, ...]
    data: str
    axis: int
    whole: tuple[str, ...] = ()

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

    def with_both(self, report: Report) -> Report:
        """Return a report that shows beside a gradient that is divided the line of one that is not."""
        others = [row for row in report.rows if row.name in self.whole]
        lines = [line for row in others for line in row.lines[:1]]
        is_not = f"{listed([row.gradient for row in others])} {'are' if len(others) > 1 else 'is'} not"
        hint = (
            f"It is divided by {self.data}.shape[{self.axis}], and {is_not}. One of the two is wrong: either "
            "the layer takes the mean over the batch, or the loss does."
        )

        def told(row: Row) -> Row:
            if row.name not in self.parameters or row.mistake is None or row.mistake.kind != "scale":
                return row
            shown = tuple(dict.fromkeys((*row.lines[:1], *lines, *row.lines[1:])))
            return replace(row, lines=shown, mistake=replace(row.mistake, hint=hint))

        return replace(report, rows=tuple(map(told, report.rows)))


def averaged(
    inputs: Mapping[str, Any],
    outputs: Sequence[Tensor],
    expected: Mapping[str, Tensor],
    given: Mapping[str, Any],
) -> Averaged | None:
    """Return how a layer divides the gradients of its parameters, all of them or some.

    The gradient of the data, the first input, is not divided by the same number, where it is given: otherwise
    the upstream gradient was. One parameter alone that is divided is a `mean` written for a `sum`. Of two,
    none is right as it stands, but for those of inputs that hold the batch themselves, as a state does.

    Args:
        inputs: of the layer, in floating point.
        outputs: of the layer; the batch is an axis of each, the same as of the data.
        expected: the true gradients by the names of the inputs.
        given: the layer's.
    """
    data = next(iter(inputs), None)
    if data is None or not expected:
        return None
    right = {n for n, g in expected.items() if _fits(given.get(n), g, 1)}
    for axis, size in enumerate(inputs[data].shape):
        is_batch = all(out.shape[axis : axis + 1] == (size,) for out in outputs)
        if size < 2 or not is_batch or (data in expected and _fits(given.get(data), expected[data], size)):
            continue
        divided = {n for n, g in expected.items() if n != data and _fits(given.get(n), g, size)}
        parameters = [n for n, g in expected.items() if n != data and (n in divided or size not in g.shape)]
        # not by the size of the features, unless all are
        of_it = any(size not in expected[n].shape for n in divided) or divided == {*expected} - {data}
        whole = tuple(n for n in parameters if n in right)
        if of_it and len(parameters) > 1 and not (whole and len(divided) + len(whole) < len(parameters)):
            return Averaged(tuple(n for n in parameters if n not in right), data, axis, whole)
    return None


def supposed(
    inputs: Mapping[str, Any],
    outputs: Sequence[Tensor],
    expected: Mapping[str, Tensor],
    wrong: Collection[str],
) -> Averaged | None:
    """Return what a layer of which each parameter's gradient is wrong may divide: these, by the batch.

    A wrong line above all of them hides whether it does, and so does a wrong number that they divide by.

    Args:
        inputs, outputs, expected: as those of `averaged`.
        wrong: the tensors whose gradients are.
    """
    data = next(iter(inputs), "")
    for axis, size in enumerate(inputs[data].shape if data else ()):
        is_batch = size > 1 and all(out.shape[axis : axis + 1] == (size,) for out in outputs)
        parameters = tuple(n for n, g in expected.items() if n != data and size not in g.shape)
        if is_batch and len(parameters) > 1 and {*parameters} <= {*wrong}:
            return Averaged(parameters, data, axis)
    return None


def _fits(given: Any, expected: Tensor, size: int) -> bool:
    if not isinstance(given, Tensor):
        return False
    whole = expected / size
    return close(given, whole) or right_but_for_shape(given, whole)


def _divided(value: Tensor, size: int) -> Tensor:
    return Division.apply(value, size)  # type: ignore[no-any-return]


class Division(torch.autograd.Function):
    """Hands a gradient on divided; what autograd calls it is told as where that comes from."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, size: int) -> Tensor:
        """Return the value itself."""
        ctx.size = size
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:  # type: ignore[override]
        """Return its gradient divided."""
        return upstream / ctx.size, None
