"""What a Function's forward keeps for its backward and then changes in place: PyTorch does not notice."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backhand.checking.report import Line
from backhand.checking.running.containers import as_gradient, each_tensor, identical
from backhand.checking.running.instrumenting import Watcher, run_function
from backhand.checking.running.program import source_of
from backhand.checking.running.returning import returns
from backhand.checking.running.sandbox import running
from backhand.checking.running.tracing import apart_from, copied, trace
from backhand.checking.running.trials import backward_arguments, sets_of
from backhand.checking.sources.calling import Context, has_context
from backhand.checking.sources.opened import Opened
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close


@dataclass(frozen=True)
class Spoilt:
    """A tensor that is kept and then changed.

    Attributes:
        name: what the forward calls it.
        line: where it is changed.
    """

    name: str
    line: Line


def spoilt(chosen: Pass, seed: int) -> Spoilt | None:
    """Return what a forward changes after it kept it, if with what it held before all gradients are right.

    Args:
        chosen: the pass of an opened Function.
        seed: of the run.
    """
    runner = chosen.runner
    assert isinstance(runner, Opened)
    source = source_of(runner.fn.forward)
    if source is None or not has_context(runner.fn):
        return None
    try:
        inputs = next(sets_of(chosen.inputs, dict, 1, seed))
        traced = trace(chosen, inputs, torch.float64, seed, promote=True)
        given = backward_arguments(chosen, traced)
        with running(torch.float64, seed, promote=True), torch.no_grad():
            held = apart_from(given["inputs"], runner.apart)
            values = list(map(copied, runner.called.with_inputs(held)))
            context = _Keeping([isinstance(v, Tensor) and v.requires_grad for v in values])
            seen = _Seen(context)
            run = run_function(runner.fn.forward, source, {}, seen, [context, *values])
            changed = context.changed()
            if not changed or run.errors:
                return None
            found = runner.backward_with(context.as_kept(), given).result
    except Exception:  # the user's code may raise anything
        return None
    gradients = {n: as_gradient((found or {}).get(f"d{n}")) for n in traced.wanted}
    if not all(_is_right(gradients[n], traced.gradients.get(n)) for n in traced.wanted):
        return None
    at = seen.changing.get(changed[0]) or _only(returns(source.statements))
    return None if at is None else Spoilt(seen.names.get(changed[0], changed[0]), source.line(at.lineno))


def _is_right(gradient: Tensor | None, expected: Tensor | None) -> bool:
    if gradient is None or expected is None:
        return expected is None
    return gradient.shape == expected.shape and close(gradient, expected)


def _only(statements: Sequence[ast.stmt]) -> ast.stmt | None:
    return statements[0] if len(statements) == 1 else None


class _Keeping(Context):
    """Keeps a copy of each tensor that is kept on it."""

    kept: dict[str, tuple[Tensor, Tensor]]

    def __init__(self, needed: Sequence[bool]):
        vars(self)["kept"] = {}
        super().__init__(needed)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.kept[f"ctx.{name}"] = value, value.clone()
        vars(self)[name] = value

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors as a node does."""
        super().save_for_backward(*tensors)
        saved = {f"saved {i}": tensor for i, tensor in enumerate(tensors) if tensor is not None}
        self.kept.update({place: (tensor, tensor.clone()) for place, tensor in saved.items()})

    def changed(self) -> list[str]:
        """Return the places whose tensors are not what they were."""
        return [place for place, (now, then) in self.kept.items() if not identical(now, then)]

    def as_kept(self) -> "_Keeping":
        """Return one with what the tensors held when they were kept."""
        copies = {id(now): then for now, then in self.kept.values()}
        other = _Keeping(self.needs_input_grad)
        for name, value in vars(self).items():
            if name != "kept":
                vars(other)[name] = each_tensor(value, lambda tensor: copies.get(id(tensor), tensor))
        return other


class _Seen(Watcher):
    """Notes what the kept tensors are called, and after which statements they are not what they were."""

    def __init__(self, context: _Keeping):
        self.context = context
        self.names: dict[str, str] = {}
        self.changing: dict[str, ast.stmt] = {}

    def ran(self, step: int, statement: ast.stmt, variables: Mapping[str, Any]) -> None:
        """Look at them."""
        called = {id(value): name for name, value in variables.items()}
        for place, (now, _) in self.context.kept.items():
            self.names.setdefault(place, called.get(id(now)) or place)
        for place in self.context.changed():
            self.changing.setdefault(place, statement)
