"""The ways in which a training job uses a function besides running its backward once, with what comes out.

Each is told of by the kind of mistake that it shows. Where the reference can be used in the same way, that
gives what is expected, so that a formula of its own (a jvp, a vmap rule) is judged like a gradient.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from backhand.checking.running.containers import each_tensor, flatten
from backhand.checking.running.precision import unit
from backhand.checking.running.private import differentiated, saved_of_functions
from backhand.errors import in_short

Tensors = Mapping[str, Tensor]
Outputs = Callable[[Mapping[str, Any]], dict[str, Tensor]]
Used = Callable[[Mapping[str, Any], Tensors, Tensors], Mapping[str, Any]]
# How many samples a batch for vmap has: one more than two, so that it has no axis' size by chance so easily.
SAMPLES = 3


class UntriedError(Exception):
    """There is nothing to look at in a way of using a function; the message says why, or is empty."""


@dataclass(frozen=True)
class Usage:
    """A way in which a function is used.

    Attributes:
        kind: of the mistake that it shows.
        when: how that is told: what comes out is wrong "in a second backward on one graph".
        run: takes what the backward of a `Pass` takes, and returns tensors by what they are called; raises
            `UntriedError` where there is nothing to look at.
        right: gives what is expected; None where that is what the backward gives.
        what: is looked at, for the line of what was and what was not; empty where it always is.
        builds_on_gradients: what comes out is wrong wherever the gradients are, and says no more.
    """

    kind: str
    when: str
    run: Used
    right: Used | None = None
    what: str = ""
    builds_on_gradients: bool = False


def usages(
    fn: object, own: Outputs, right: Outputs, no_gradient: frozenset[str], parameters: frozenset[str]
) -> tuple[Usage, ...]:
    """Return the ways in which a function is to be used.

    Args:
        fn: the function as it was given.
        own, right: the function and its reference, from inputs to outputs by name.
        no_gradient: the inputs that have none on purpose.
        parameters: the inputs that are a module's own, and the same in all its calls.
    """
    return (
        Usage("modifies_input", "in a second backward on one graph", partial(again, own)),
        Usage(
            "shared_state",
            "if the function is called once more before its backward",
            partial(interleaved, own, parameters),
        ),
        Usage(
            "second_order",
            "where the backward is differentiated again",
            _once_it_runs(partial(twice, own, no_gradient, True)),
            partial(twice, right, no_gradient, False),
            "second derivatives",
            builds_on_gradients=True,
        ),
        Usage(
            "forward_mode",
            "in forward mode",
            _if_defined(fn, "jvp", partial(forward, own, no_gradient)),
            partial(forward, right, no_gradient),
            "forward mode",
        ),
        Usage(
            "vmap",
            "under vmap",
            _if_defined(fn, "vmap", partial(batched, own)),
            partial(looped, right),
            "vmap",
        ),
    )


def _if_defined(fn: object, rule: str, run: Used) -> Used:
    """Return a way of use that is tried only where a Function defines its rule, and must work there.

    Of what is no Function it is not known: PyTorch has slow ways of its own, or none and does not say so.
    """
    if not isinstance(fn, type) or not issubclass(fn, Function):
        return _undefined
    generated = rule == "vmap" and bool(fn.generate_vmap_rule)
    return run if generated or getattr(fn, rule) is not getattr(Function, rule) else _undefined


def _undefined(*_: Any) -> Mapping[str, Any]:
    raise UntriedError


def _once_it_runs(run: Used) -> Used:
    """Return a way of use that is left untried where it is refused, which harms nobody."""

    def used(*given: Any) -> Mapping[str, Any]:
        try:
            return run(*given)
        except UntriedError:
            raise
        except Exception as error:  # the user's code, and PyTorch, may raise anything
            raise UntriedError(in_short(error)) from error

    return used


def again(own: Outputs, inputs: Mapping[str, Any], _: Tensors, upstream: Tensors) -> dict[str, Any]:
    """Return the gradients of a second backward on one graph, as `retain_graph=True` allows it."""
    ends, leaves, arriving = _graph(own, inputs, upstream)
    differentiated(ends, arriving, leaves.values())
    return _by_name(leaves, differentiated(ends, arriving, leaves.values()))


def interleaved(
    own: Outputs, parameters: frozenset[str], inputs: Mapping[str, Any], _: Tensors, upstream: Tensors
) -> dict[str, Any]:
    """Return the gradients of a call after which there was another, as of a layer that is used twice."""
    ends, leaves, arriving = _graph(own, inputs, upstream)
    others = {n: (-v).detach().requires_grad_() for n, v in leaves.items()}
    _graph(own, {**inputs, **{n: v for n, v in others.items() if n in inputs.keys() - parameters}}, upstream)
    return _by_name(leaves, differentiated(ends, arriving, leaves.values()))


def twice(
    call: Outputs,
    no_gradient: frozenset[str],
    is_own: bool,
    inputs: Mapping[str, Any],
    _: Tensors,
    upstream: Tensors,
) -> dict[str, Any]:
    """Return the derivatives of the gradients, each in a random direction.

    Raises:
        UntriedError: no gradient can be differentiated, or PyTorch's own documentation says that it may not
            be: something is saved that is neither input nor output, which most kernels do.
    """
    arriving = {n: u.detach().requires_grad_() for n, u in upstream.items()}
    ends, leaves, above = _graph(call, inputs, arriving)
    if any(unit(v.dtype) > unit(torch.float32) for v in leaves.values()):
        raise UntriedError("16 bits are too few for them")
    if is_own and _hides_something(ends, inputs):
        raise UntriedError("save_for_backward holds what is neither input nor output")
    firsts = dict(zip(leaves, differentiated(ends, above, leaves.values(), again=True), strict=True))
    constant = {n for n, first in firsts.items() if first is None} | no_gradient  # a table of cosines, a mask
    to = {n: v for n, v in (leaves | arriving).items() if n not in constant}
    directions, found = _directions(), {}
    for name, first in firsts.items():
        direction = directions(leaves[name])
        if first is None or not first.requires_grad:
            continue
        seconds = differentiated([first], [direction], to.values())
        if all(second is None for second in seconds):  # as with @once_differentiable
            continue
        for n, second in zip(to, seconds, strict=True):
            by = f"d({n})" if n in arriving else f"d{n}"
            found[f"d(d{name})/{by}"] = torch.zeros_like(to[n]) if second is None else second
    if is_own and not found:
        raise UntriedError("its backward cannot be differentiated")
    return found


def forward(
    call: Outputs, no_gradient: frozenset[str], inputs: Mapping[str, Any], _: Tensors, upstream: Tensors
) -> dict[str, Any]:
    """Return the tangents of the outputs, for random ones of the inputs."""
    directions = _directions()

    def dual(value: Tensor) -> Tensor:
        held = value.detach()
        return forward_ad.make_dual(held, directions(held)) if value.requires_grad else value

    with forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of PyTorch's own formulas, some of them scripts
        given = {n: v if n in no_gradient else each_tensor(v, dual) for n, v in inputs.items()}
        pairs = {n: forward_ad.unpack_dual(v) for n, v in call(given).items() if f"d{n}" in upstream}
        return {
            f"the tangent of {n}": torch.zeros_like(value) if tangent is None else tangent.clone()
            for n, (value, tangent) in pairs.items()
        }


def batched(own: Outputs, inputs: Mapping[str, Any], _: Tensors, upstream: Tensors) -> dict[str, Any]:
    """Return the outputs of batches of inputs under vmap, for every choice of what is batched."""
    state = torch.default_generator.get_state()
    own(inputs)
    if not torch.equal(state, torch.default_generator.get_state()):
        raise UntriedError("it draws numbers")
    found = {}
    for axes in _choices(inputs):
        given = {n: _batch(v, axes[n]) for n, v in inputs.items()}
        outputs = torch.func.vmap(
            lambda *values: own(dict(zip(inputs, values, strict=True))), tuple(axes.values())
        )(*given.values())
        found |= {_told(n, axes): v for n, v in outputs.items() if f"d{n}" in upstream}
    return found


def looped(right: Outputs, inputs: Mapping[str, Any], _: Tensors, upstream: Tensors) -> dict[str, Any]:
    """Return what `batched` is to give: the outputs sample by sample."""
    found = {}
    for axes in _choices(inputs):
        samples = [
            right({n: v if axes[n] is None else _sample(v, i) for n, v in inputs.items()})
            for i in range(SAMPLES)
        ]
        names = [n for n in samples[0] if f"d{n}" in upstream]
        found |= {_told(n, axes): torch.stack([s[n] for s in samples]) for n in names}
    return found


def _choices(inputs: Mapping[str, Any]) -> Iterator[dict[str, int | None]]:
    """Yield along which axis each input is batched: all along the first, all along the last, one alone."""
    tensors = [n for n, v in inputs.items() if isinstance(v, Tensor)]
    for axis in (0, -1):
        yield {n: axis if n in tensors else None for n in inputs}
    for only in tensors if len(tensors) > 1 else ():
        yield {n: 0 if n == only else None for n in inputs}


def _sample(value: Any, index: int) -> Any:
    """Return one of the samples: signs and zeros stay, for a mask or a positive number to remain one."""
    return value * (1 + 0.25 * index) if value.is_floating_point() else value


def _batch(value: Any, axis: int | None) -> Any:
    return value if axis is None else torch.stack([_sample(value, i) for i in range(SAMPLES)], dim=axis)


def _told(output: str, axes: Mapping[str, int | None]) -> str:
    return f"{output} for in_dims ({', '.join(map(str, axes.values()))})"


def _graph(
    call: Outputs, inputs: Mapping[str, Any], upstream: Tensors
) -> tuple[list[Tensor], dict[str, Tensor], list[Tensor]]:
    """Call a function; return its outputs, the inputs that need a gradient, and what arrives."""
    leaves = {k: v for k, v in flatten(inputs).items() if isinstance(v, Tensor) and v.requires_grad}
    with torch.enable_grad():
        own = {n: v for n, v in call(inputs).items() if v.requires_grad}
    names = [n for n in own if f"d{n}" in upstream]
    return [own[n] for n in names], leaves, [upstream[f"d{n}"] for n in names]


def _by_name(leaves: Tensors, found: Iterable[Tensor | None]) -> dict[str, Any]:
    return {f"d{name}": gradient for name, gradient in zip(leaves, found, strict=True)}


def _directions() -> Callable[[Tensor], Tensor]:
    """Return what draws a random tensor like another; the same ones for all that are compared."""
    generator = torch.Generator().manual_seed(0)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _hides_something(ends: Iterable[Tensor], inputs: Mapping[str, Any]) -> bool:
    """Tell whether a custom Function has saved what autograd takes for a constant, though it may be none."""
    known = {v.data_ptr() for v in flatten(inputs).values() if isinstance(v, Tensor)}
    saved = saved_of_functions(ends)
    numbers = (v for v in saved if v.is_floating_point() or v.is_complex())
    return any(not v.requires_grad and v.data_ptr() not in known for v in numbers)
