"""Run a pass as it is, without the checker: what its tensors are, what its backward makes and returns."""

import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Played:
    """One run in float64.

    Attributes:
        values: the forward's inputs and what it returned, by name.
        upstream: the upstream gradients, of random numbers.
        arguments: what the backward asked for.
        returned: what the backward returned.
        variables: its variables when it returned.
        gradients: the names of its gradients.
    """

    values: dict[str, Any]
    upstream: dict[str, Tensor]
    arguments: dict[str, Any]
    returned: dict[str, Any]
    variables: dict[str, Any]
    gradients: tuple[str, ...]


def play(module: types.ModuleType, generator: torch.Generator) -> Played:
    """Run the forward and the backward of a pass once; what these raise is raised."""
    default = torch.get_default_dtype()
    torch.set_deterministic_debug_mode("warn")  # so that `torch.empty` gives NaN, not what lies in memory
    drawn = {k: _as_float64(v) for k, v in module.inputs(generator).items()}
    try:
        torch.set_default_dtype(torch.float64)
        with torch.no_grad():
            values = {**drawn, **module.forward(**drawn)}
            out = getattr(module, "out", ())
            outputs = (out,) if isinstance(out, str) else out
            upstream = {
                f"d{k}": torch.randn(values[k].shape, generator=generator, dtype=torch.float64)
                for k in outputs
            }
            offered = {**values, **upstream}
            names = inspect.signature(module.backward).parameters
            arguments = {n: _copied(offered[n]) for n in names if n in offered}
            returned, variables = _with_variables(module.backward, arguments)
    finally:
        torch.set_default_dtype(default)
        torch.set_deterministic_debug_mode("default")
    gradients = tuple(f"d{k}" for k in values if f"d{k}" in returned and f"d{k}" not in upstream)
    return Played(values, upstream, arguments, returned, variables, gradients)


def gradients_of(module: types.ModuleType, draws: int = 3) -> list[dict[str, Tensor]] | None:
    """Return a pass's gradients on some draws, flat; None where it raises."""
    generator = torch.Generator().manual_seed(1)
    try:
        runs = [play(module, generator) for _ in range(draws)]
    except Exception:  # a changed backward may raise anything
        return None
    return [dict(_flat({g: run.returned[g] for g in run.gradients})) for run in runs]


def are_equal(a: list[dict[str, Tensor]] | None, b: list[dict[str, Tensor]] | None) -> bool:
    """Tell whether two passes give the same gradients, bit by bit."""
    if a is None or b is None:
        return False
    return all(x.keys() == y.keys() and all(_same(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


def are_close(a: list[dict[str, Tensor]] | None, b: list[dict[str, Tensor]] | None) -> bool:
    """Tell whether two passes give the same gradients but for float64's rounding."""
    if a is None or b is None:
        return False
    return all(
        x.keys() == y.keys()
        and all(x[k].shape == y[k].shape and torch.allclose(x[k], y[k], 1e-9, 1e-12) for k in x)
        for x, y in zip(a, b, strict=True)
    )


def signature(value: object) -> tuple[Any, ...] | None:
    """Return what a variable holds, a tensor or a list of them, and of which shape; None of anything else."""
    if isinstance(value, Tensor):
        usable = value.is_floating_point() and bool(value.isfinite().all())
        return ("tensor", *value.shape) if usable else None
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return ("list", *value[0].shape)
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _as_float64(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_float64(v) for v in value]
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(_copied(v) for v in value)
    return value


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in values.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, list | tuple):
            yield from _flat({f"{name}[{i}]": v for i, v in enumerate(value)})


def _with_variables(function: Any, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Call a function; return what it returns and the variables that it had then."""
    kept: dict[str, Any] = {}

    def watch(frame: types.FrameType, event: str, argument: object) -> None:
        if event == "return" and frame.f_code is function.__code__:
            kept.update(frame.f_locals)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        returned = function(**arguments)
    finally:
        sys.setprofile(before)
    return returned, kept
