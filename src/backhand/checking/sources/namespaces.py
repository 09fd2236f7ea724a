"""`check_namespace`: the gradients in a live namespace, such as a notebook's `globals()`."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from backhand.checking.judging import report_on
from backhand.checking.report import Report
from backhand.checking.running.containers import flatten
from backhand.checking.running.graph import from_graph
from backhand.checking.running.trials import judged
from backhand.checking.sources.protocol import Pass
from backhand.checking.trying import Trials
from backhand.checking.verdicts.localising import judge
from backhand.errors import CheckError


def check_namespace(
    namespace: Mapping[str, Any], loss: str = "loss", *, names: Mapping[str, str] | None = None
) -> Report:
    """Judge every `d<name>` in a namespace against the graph of its loss, in the dtype it was computed in.

    There is no source here, so that a culprit is told from its followers by autograd's hooks alone.

    Args:
        namespace: usually `globals()`.
        loss: the name of the scalar whose graph is still alive (`loss.backward(retain_graph=True)`).
        names: gradient name to tensor name, where they do not follow the rule.

    Raises:
        CheckError: there is no such loss, or its graph is gone.

    >>> x = torch.randn(4, requires_grad=True)
    >>> loss = x.square().sum()
    >>> dx = 3 * x
    >>> check_namespace(globals())["dx"].verdict
    'wrong'
    """
    value = namespace.get(loss)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise CheckError(f"{loss!r} is {type(value).__name__}; expected a scalar tensor with a graph.")
    values = {k: v for k, v in namespace.items() if not k.startswith("_") and _holds_tensors(v)}
    leaves = {k: v for k, v in values.items() if isinstance(v, Tensor) and v.requires_grad and v.is_leaf}
    with _retained_as_they_are(values):
        try:
            traced = from_graph(leaves, values, {loss: value}, {f"d{loss}": torch.ones_like(value)})
        except RuntimeError as error:
            raise CheckError(
                f"the graph of {loss!r} is gone: call {loss}.backward(retain_graph=True), or run the forward."
            ) from error
        function = _nothing
        out = () if loss == "loss" else (loss,)
        chosen = Pass(function, function, leaves, out, dict(names or {}), None, frozenset(), None, None)
        draw = judged(
            chosen, traced, {k: v for k, v in namespace.items() if k.startswith("d") or k in (names or {})}, 0
        )
        if not draw.matched:
            raise CheckError(
                "no name here is the gradient of a tensor on which the loss depends, such as dlogits."
            )
        report = report_on(chosen, "namespace", Trials((judge(chosen, draw),), 1, draw), stress=False)
        if report.sheet is not None:  # drawn now: these tensors are the user's own, and may change
            list(report.sheet.pictures.values())
        return report


@contextlib.contextmanager
def _retained_as_they_are(values: Mapping[str, Any]) -> Iterator[None]:
    """Put back each `.grad` that `retain_grad` asked for: autograd adds to it whenever the graph is used."""
    tensors = [t for t in flatten(values).values() if isinstance(t, Tensor) and t.retains_grad]
    before = [(t, t.grad) for t in tensors]
    try:
        yield
    finally:
        for t, gradient in before:
            t.grad = gradient


def _nothing(**_: Any) -> dict[str, Any]:
    return {}


def _holds_tensors(value: object) -> bool:
    if isinstance(value, Tensor):
        return True
    if not isinstance(value, list | tuple | dict) or len(value) > 100:
        return False
    return any(isinstance(v, Tensor) for v in flatten({"x": value}).values())
