"""The autograd Functions behind `differentiable`: one for autograd itself, one for those of `torch.func`.

The first is what every training step calls, and does as little as it can. The second returns what the
backward will need as further outputs, which is how the transforms want it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.private import transforming
from backhand.checking.running.tracing import named_values
from backhand.errors import CheckError
from backhand.wiring import Plan, Slot

TWICE = (
    "the gradients of a hand-written backward cannot be differentiated again: it is written for the first "
    "derivative only, and a second one would be wrong; take that through the plain forward"
)


class Box:
    """Holds something that `torch.func`, which looks into lists and dictionaries, leaves alone."""

    def __init__(self, held: Any = None) -> None:
        self.held = held


class Wired(torch.autograd.Function):
    """The forward, what the backward saves of it, and the backward."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, shape: Box | None, *leaves: Any) -> Any:
        """Run the forward; save what the backward asks for."""
        given = arguments_of(plan, shape, leaves)
        ctx.plan, ctx.shapes = plan, plan.shapes(leaves)
        return keep(ctx, plan, plan.call(given), given)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the hand-written backward and hand its gradients to autograd, each in its tensor's place."""
        plan, saved = ctx.plan, ctx.saved_tensors
        if not torch.compiler.is_compiling():
            refuse_twice()
        found = run_backward(plan, ctx.asked, upstream, saved, ctx.shapes)
        return in_place_of(plan, found, 2)


def keep(ctx: Any, plan: Plan, returned: Any, given: dict[str, Any]) -> Any:
    """Save what the backward asks for of what the forward has returned; return the outputs."""
    outputs, asked = plan.asked(named_values(returned, given))
    saved: list[Tensor] = []
    first = len(outputs)

    def set_aside(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        saved.append(value)
        return Slot(first + len(saved) - 1)

    ctx.asked = {name: each(value, set_aside) for name, value in asked.items()}
    ctx.save_for_backward(*saved)
    return outputs if first > 1 else outputs[0]


def refuse_twice() -> None:
    """Raise where `create_graph=True` asks for a graph of the gradients: it would lack most of it."""
    if torch.is_grad_enabled():
        raise CheckError(TWICE)


class Transformed(torch.autograd.Function):
    """The same under `torch.func.grad`, `vmap` and the like, whose levels nest."""

    generate_vmap_rule = True

    @staticmethod
    def forward(plan: Plan, shape: Any, box: Box, *leaves: Any) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the forward; return outputs and what else the backward asks for; leave slots in the box."""
        given = arguments_of(plan, shape, leaves)
        outputs, asked = plan.asked(named_values(plan.call(given), given))
        tensors = [*outputs]
        places = {id(leaf): Slot(-1 - i) for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}

        def set_aside(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) not in places:
                tensors.append(value)
                places[id(value)] = Slot(2 * len(outputs) + len(tensors) - len(outputs) - 1)
            return places[id(value)]

        box.held = each(asked, set_aside)
        return tuple(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save what the forward left for the backward."""
        plan, _, box, *leaves = inputs
        ctx.plan, ctx.asked = plan, box.held
        ctx.shapes = plan.shapes(leaves)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        ctx.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        ctx.outputs = len(output)
        ctx.save_for_backward(*output, *tensors)
        ctx.mark_non_differentiable(*output[plan.count :])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the hand-written backward; its gradients raise where they are differentiated again."""
        plan, upstream = ctx.plan, upstream[: ctx.plan.count]
        outputs, tensors = ctx.saved_tensors[: ctx.outputs], ctx.saved_tensors[ctx.outputs :]
        leaves = dict(zip(ctx.places, tensors, strict=True))
        last = [leaves.get(i) for i in range(len(plan.leaves))][::-1]  # slot -1 - i is leaf i
        found = run_backward(plan, ctx.asked, upstream, [*outputs, *last], ctx.shapes)
        once = [Once.apply(g, *upstream, *(leaves[i] for i in plan.needed)) for g in found]
        return in_place_of(plan, once, 3)


class Once(torch.autograd.Function):
    """A gradient that cannot be differentiated: it hangs on the inputs, lest one take it for constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *others: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradient as it is."""
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Refuse."""
        raise CheckError(TWICE)


class Guard(torch.autograd.Function):
    """The output of a pass as it is, through which no second derivative goes: see `guarded`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the output as it is."""
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Hand on what arrives, unless it is to be differentiated again."""
        if not transforming():
            refuse_twice()
        return dy


_LIBRARY = torch.library.Library("backhand", "DEF")
_LIBRARY.define("guarded(Tensor(a) y) -> Tensor(a)")
_LIBRARY.impl("guarded", Guard.apply, "CompositeImplicitAutograd")


def guarded(outputs: Any) -> Any:
    """Return the outputs of a pass that `torch.compile` traces, so that second derivatives raise here too.

    The compiler takes a backward's operations, and leaves out what it does when its gradients are to have a
    graph. An operation of our own it leaves alone, unless it goes on to make all of simpler ones.
    """
    guard = torch.ops.backhand.guarded
    return tuple(map(guard, outputs)) if isinstance(outputs, tuple) else guard(outputs)


def run_backward(
    plan: Plan,
    asked: Mapping[str, Any],
    upstream: Sequence[Tensor],
    saved: Sequence[Any],
    shapes: Sequence[Any],
) -> list[Tensor]:
    """Put tensors into the slots, and return the gradients."""
    # a pass that ends in the loss is written for an upstream gradient of 1
    scalar = plan.is_loss and upstream[0].numel() == 1
    arrived = [torch.ones_like(g) for g in upstream] if scalar else upstream
    slots = (*arrived, *saved)

    def filled(value: Any) -> Any:
        return slots[value] if type(value) is Slot else value

    returned = plan.backward(**{name: each(value, filled) for name, value in asked.items()})
    found = plan.gradients(returned, shapes)
    return [gradient * upstream[0] for gradient in found] if scalar else found


def in_place_of(plan: Plan, found: Sequence[Tensor], before: int) -> tuple[Tensor | None, ...]:
    """Return the gradients in the places of their leaves, after those of other arguments, which have none."""
    if len(found) == len(plan.leaves):
        return (*(None,) * before, *found)
    result: list[Tensor | None] = [None] * (before + len(plan.leaves))
    for i, gradient in zip(plan.needed, found, strict=True):
        result[before + i] = gradient
    return tuple(result)


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a container with every item that is no container changed."""
    if isinstance(value, dict | Mapping):
        return {k: each(v, change) for k, v in value.items()}
    if isinstance(value, list | tuple):
        items = [each(v, change) for v in value]
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return change(value)


def shape_of(given: Mapping[str, Any]) -> Box:
    """Return the containers that arguments come in, without what is in them."""
    return Box(each(given, lambda _: None))


def arguments_of(plan: Plan, shape: Box | None, leaves: Sequence[Any]) -> dict[str, Any]:
    """Return the forward's arguments by name."""
    return dict(zip(plan.leaves, leaves, strict=True)) if shape is None else packed(shape, iter(leaves))


def packed(shape: Box, leaves: Iterator[Any]) -> dict[str, Any]:
    """Return arguments in containers from their leaves, which come in the order of `unpacked`."""
    return each(shape.held, lambda _: next(leaves))


def unpacked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every item of arguments in containers by its path: `hs[0]`, `cache["h"]`."""
    flat: dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f'{path}["{key}"]' if isinstance(key, str) else f"{path}[{key!r}]", item)
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                add(f"{path}[{i}]", item)
        else:
            flat[path] = value

    for name, value in given.items():
        add(name, value)
    return flat
