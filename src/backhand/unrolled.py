"""The quick way through autograd: a Function written out for one plan, with nothing to loop over.

What Python does around a pass is all that `differentiable` costs, and most of that are loops over two or
three tensors. So the text of a Function is made, as `dataclasses` makes that of `__init__`, and compiled once
for all calls that are alike. What does not go as it did at the first of them goes the careful way of `Wired`.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from backhand.bridge import in_place_of, keep, refuse_twice, run_backward
from backhand.checking.running.private import quickest, unwrapped
from backhand.wiring import CONTAINERS, Plan, Slot

CALL = """
def call(known, {leaves}):
    apply = known.get(({needs}))
    return None if apply is None else apply({unwrapped})
"""

FUNCTION = """
class Quick(torch.autograd.Function):
    @staticmethod
    def forward(ctx, {leaves}):
        returned = forward({leaves})
        usual = type(returned) is dict and {upstream} not in returned
        if usual:
            try:
                {take}
                usual = {fits}
            except KeyError:
                usual = False
        if not usual:
            return carefully(ctx, plan, returned, ({leaves}))
        ctx.save_for_backward({saved})
        ctx.left = ({shapes}), ({others})
        return y

    @staticmethod
    def backward(ctx, dy):
        if enabled():
            refuse_twice()
        if type(ctx.left) is list:
            return carefully_back(ctx, plan, dy)
        ({saved}) = ctx.saved_tensors
        shapes, ({others}) = ctx.left
        returned = backward({asked})
        try:
            {find}
            right = ({found_shapes}) == shapes
        except (KeyError, TypeError, AttributeError):  # another name, a container, a number
            right = False
        if not right:
            ({found}) = plan.gradients(returned, shapes)
        return ({result})
"""


def quick(plan: Plan, asked: Mapping[str, Any]) -> Callable[..., Tensor] | None:
    """Return what `Wired` does as a function of the leaves alone; None where a plan is not simple enough.

    That is one output, which is no loss, and a backward that takes all by name and no containers.

    Args:
        plan: of calls whose arguments are tensors by position.
        asked: what the backward asked for at the first of them; see `Plan.asked`.
    """
    upstream = f"d{plan.chosen.outputs[0]}"
    parameters = inspect.signature(plan.backward).parameters.values()
    if (
        plan.is_loss
        or plan.count > 1
        or upstream in plan.leaves
        or any(p.kind is not p.POSITIONAL_OR_KEYWORD or p.default is not p.empty for p in parameters)
        or any(isinstance(value, CONTAINERS) for value in asked.values())
    ):
        return None
    seen: dict[str, Any] = {
        "torch": torch,
        "Tensor": Tensor,
        "plan": plan,
        "forward": plan.chosen.forward,
        "backward": plan.backward,
        "enabled": torch.is_grad_enabled,
        "refuse_twice": refuse_twice,
        "carefully": carefully,
        "carefully_back": carefully_back,
        "types": {name: type(value) for name, value in asked.items()},
    }
    exec(FUNCTION.format(**_gaps(plan, upstream, [p.name for p in parameters], asked)), seen)
    return quickest(seen["Quick"])


def carefully(ctx: Any, plan: Plan, returned: Any, leaves: Sequence[Any]) -> Tensor:
    """Save what the backward asks for, wherever and whatever it is; return the output."""
    ctx.left = plan.shapes(leaves)  # a list, by which the way back is known
    return keep(ctx, plan, returned, dict(zip(plan.leaves, leaves, strict=True)))


def carefully_back(ctx: Any, plan: Plan, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients after such a forward."""
    return in_place_of(plan, run_backward(plan, ctx.asked, (dy,), ctx.saved_tensors, ctx.left), 0)


@cache
def caller(count: int) -> Callable[..., Tensor | None]:
    """Return how a Function is found and called for so many arguments.

    It is given what is known by which of them need a gradient (None for what is no tensor), and returns None
    where nothing is.
    """
    leaves = [f"a{i}" for i in range(count)]
    seen: dict[str, Any] = {"unwrapped": unwrapped}
    needs = _listed(f'getattr({leaf}, "requires_grad", None)' for leaf in leaves)
    given = _listed(f"unwrapped({leaf})" for leaf in leaves)
    exec(CALL.format(leaves=_listed(leaves), needs=needs, unwrapped=given), seen)
    return seen["call"]


def _gaps(plan: Plan, upstream: str, parameters: Sequence[str], asked: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands in the gaps of the Function's text."""
    leaf = {name: f"a{i}" for i, name in enumerate(plan.leaves)}
    value = {name: f"s{i}" for i, name in enumerate(parameters) if name != upstream}
    saved = [variable for name, variable in value.items() if type(asked[name]) is Slot]
    others = {variable: name for name, variable in value.items() if variable not in saved}
    firsts = [first for first, *_ in plan.candidates.values()]
    found = {i: f"g{i}" for i in plan.needed}

    def taken(name: str) -> str:  # of its own names the forward may return none, or give one another value
        return f"returned.get({name!r}, {leaf[name]})" if name in leaf else f"returned[{name!r}]"

    names = {"y": plan.chosen.outputs[0]} | {variable: name for name, variable in value.items()}
    return {
        "leaves": _listed(leaf.values()),
        "upstream": repr(upstream),
        "take": "; ".join(f"{variable} = {taken(name)}" for variable, name in names.items()),
        "fits": " and ".join(
            [f"isinstance({variable}, Tensor)" for variable in ("y", *saved)]
            + [f"type({variable}) is types[{name!r}]" for variable, name in others.items()]
        ),
        "saved": _listed(saved),
        "others": _listed(others),
        "shapes": _listed(f"a{i}.shape" for i in plan.needed),
        "asked": _listed("dy" if name == upstream else value[name] for name in parameters),
        "find": "; ".join(
            f"{g} = returned[{first!r}]" for g, first in zip(found.values(), firsts, strict=True)
        ),
        "found": _listed(found.values()),
        "found_shapes": _listed(f"{g}.shape" for g in found.values()),
        "result": _listed(found.get(i, "None") for i in range(len(leaf))),
    }


def _listed(items: Iterable[str]) -> str:
    return "".join(f"{item}, " for item in items)
