"""The ways in which a training job uses a function besides running its backward once, with what comes out.

Each is told of by the kind of mistake that it shows. Where the reference can be used in the same way, that
gives what is expected, so that a formula of its own (a jvp, a vmap rule) is judged like a gradient.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.graph import GradientEdge

from backhand.checking.running.containers import each_tensor, flatten
from backhand.checking.running.precision import unit
from backhand.checking.running.private import differentiated, saved_of_functions
from backhand.errors import in_short

Tensors = Mapping[str, Tensor]
Outputs = Callable[[Mapping[str, Any]], dict[str, Tensor]]
Used = Callable[[Mapping[str, Any], Tensors, Tensors], Mapping[str, Any]]
# How many samples a batch for vmap has: one more than two, so that it has no axis' size by chance so easily.
SAMPLES = 3
# How far a step to either side goes for a difference in float64: about the cube root of its rounding.
STEPS = (1e-6, -1e-6)


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
        by_itself: gives pairs of numbers that are the same where what comes out is right though the reference
            gives something else: one with a `detach`, as for a straight-through estimator, has a gradient
            that is meant, and second derivatives that are not.
    """

    kind: str
    when: str
    run: Used
    right: Used | None = None
    what: str = ""
    builds_on_gradients: bool = False
    by_itself: Used | None = None


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
            by_itself=partial(rates, own, no_gradient),
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
    with_added(ends, arriving, leaves.values())
    return _by_name(leaves, with_added(ends, arriving, leaves.values()))


def interleaved(
    own: Outputs, parameters: frozenset[str], inputs: Mapping[str, Any], _: Tensors, upstream: Tensors
) -> dict[str, Any]:
    """Return the gradients of a call after which there was another, as of a layer that is used twice."""
    ends, leaves, arriving = _graph(own, inputs, upstream)
    refused: Exception | None = None
    for changed in (_here_and_there, partial(_sample, index=1), torch.clone):
        others = {n: changed(v.detach()).requires_grad_() for n, v in leaves.items()}
        others = {n: v for n, v in others.items() if n in inputs.keys() - parameters}
        try:
            _graph(own, {**inputs, **others}, upstream)
        except Exception as error:  # what was changed may be no input any more; the same inputs are
            refused = error
            continue
        return _by_name(leaves, with_added(ends, arriving, leaves.values()))
    assert refused is not None
    raise refused


def _here_and_there(value: Tensor) -> Tensor:
    """Return a tensor with its elements made smaller, every other one more: what is normed differs, too.

    Signs, zeros and bounds stay, as of a step that is asserted to be positive.
    """
    odd = torch.arange(value.numel(), device=value.device).view(value.shape) % 2
    return value * (0.75 - 0.25 * odd).to(value.dtype)


def with_added(
    ends: Iterable[Tensor | GradientEdge], upstream: Iterable[Tensor], leaves: Collection[Tensor]
) -> list[Tensor | None]:
    """Return the gradients of leaves, with what the backward adds to their `.grad` by itself.

    One that runs its layers again and differentiates them there, as of a reversible network, returns nothing
    for their parameters.
    """
    found = []
    for leaf, returned in zip(leaves, differentiated(ends, upstream, leaves), strict=True):
        added = leaf.grad if leaf.is_leaf else None
        if added is not None:
            leaf.grad = None
        found.append(added if returned is None else returned if added is None else returned + added)
    return found


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


def rates(
    own: Outputs, no_gradient: frozenset[str], inputs: Mapping[str, Any], _: Tensors, upstream: Tensors
) -> dict[str, Tensor]:
    """Return of what `twice` gives how much it is along one direction, and how much by differences."""
    found = twice(own, no_gradient, False, inputs, _, upstream)
    given = {**inputs, **{n: u.detach() for n, u in upstream.items()}}
    leaves = {n for n, v in inputs.items() if isinstance(v, Tensor) and v.requires_grad}
    along, pairs = _directions(), {}
    moved = {n: given[n] for n in given if n in {*leaves, *upstream} - no_gradient}
    for n in (n for n, v in moved.items() if v.dtype == torch.float64):  # in which differences are worth it
        direction = along(given[n])
        ends = [_grown(own, {**given, n: given[n].detach() + s * direction}, leaves, upstream) for s in STEPS]
        for name, end in ends[0].items():
            key = f"d(d{name})/" + (f"d({n})" if n in upstream else f"d{n}")
            rate = (end - ends[1][name]) / (STEPS[0] - STEPS[1])
            if key in found:
                pairs[key] = torch.stack([(found[key] * direction).sum(), rate])
    return pairs


def _grown(
    own: Outputs, given: Mapping[str, Any], leaves: Collection[str], upstream: Collection[str]
) -> dict[str, Tensor]:
    """Return each gradient in the random direction in which `twice` has it."""
    rest = {n: v for n, v in given.items() if n not in upstream}
    inputs = {n: v.detach().requires_grad_() if n in leaves else v for n, v in rest.items()}
    ends, held, arriving = _graph(own, inputs, {n: given[n] for n in upstream})
    directions = _directions()
    firsts = zip(held, differentiated(ends, arriving, held.values()), strict=True)
    pairs = [(n, first, directions(held[n])) for n, first in firsts]
    return {n: (first * direction).sum() for n, first, direction in pairs if first is not None}


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
