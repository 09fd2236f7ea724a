"""The same code with inputs of other shapes: what is wrong with those, and was not with the first."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Mistake, Report
from backhand.checking.running.containers import flatten
from backhand.checking.sources.protocol import Inputs, drawn_once
from backhand.checking.using import mistake
from backhand.errors import CheckError


def in_shapes(inputs: Any, shapes: Sequence[Any]) -> tuple[Any, ...]:
    """Return inputs for each of several shapes, the first of which stands for all.

    Args:
        inputs: what draws them from a generator and sizes; or without shapes the inputs themselves, of which
            there may be several: a list of dictionaries, or of functions that draw them.
        shapes: the sizes, a tuple for each.

    Raises:
        CheckError: there are shapes, and nothing that draws inputs of them.
    """
    if shapes:
        if not callable(inputs):
            raise CheckError("shapes are for a function that draws the inputs: inputs(generator, *sizes).")
        sizes = [(shape,) if isinstance(shape, int) else tuple(shape) for shape in shapes]
        return tuple(partial(_drawn, inputs, each) for each in sizes)
    several = isinstance(inputs, Sequence) and len(inputs) > 1 and not isinstance(inputs, str)
    if several and (all(isinstance(i, dict) for i in inputs) or all(map(callable, inputs))):
        return tuple(inputs)
    return (inputs,)


def _drawn(inputs: Callable[..., Any], sizes: tuple[int, ...], generator: torch.Generator) -> Any:
    return inputs(generator, *sizes)


def in_another_shape(
    report: Report, inputs: Inputs, judged: Callable[[], Report], seed: int
) -> Iterator[Mistake]:
    """Yield what is wrong with inputs of another shape, and was not with the first.

    Args:
        report: on the first shape.
        inputs: those of the other one.
        judged: makes the report on them.
        seed: of their draws.
    """
    drawn = flatten({"": drawn_once(inputs, torch.Generator().manual_seed(seed))})
    shapes = [str(tuple(v.shape)) for v in drawn.values() if isinstance(v, Tensor)]
    where, facts = f"with inputs of {listed(shapes)}:", {"shapes": shapes}
    try:
        found = judged()
    except CheckError as error:
        yield mistake("shapes", f"{where} {error}", {**facts, "refuses": str(error)})
        return
    if found.raised is not None and report.raised is None:
        error = found.raised.error
        yield mistake("shapes", f"{where} the backward raises {error}.", {**facts, "refuses": error})
        return
    known = {row.name for row in report.culprits} | {failure.kind for failure in report.stress}
    rows = [row for row in found.culprits if row.name not in known and row.mistake is not None]
    for each in (*(row.mistake for row in rows), *(f for f in found.stress if f.kind not in known)):
        if each is not None:
            yield mistake("shapes", f"{where} {each.message}", {**facts, "kind": each.kind}, each.hint)
