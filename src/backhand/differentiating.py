"""`differentiable`: a pass as a torch function, so that autograd calls the hand-written backward."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from backhand.bridge import CONTAINERS, Box, Slot, Transformed, Wired, packed, shape_of, unpacked
from backhand.checking.running.names import as_gradient, flatten, nearest
from backhand.checking.running.private import transforming
from backhand.checking.running.tracing import named_values
from backhand.checking.sources.protocol import Pass, resolve
from backhand.errors import CheckError
from backhand.pruning import prune


def differentiable(
    forward: Any,
    backward: Callable[..., Any] | None = None,
    *,
    out: str | Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> "Differentiable":
    """Turn a pass into a function that autograd can use: its gradients are the hand-written ones.

    What the backward's signature asks for is saved between the two, and nothing else; where some inputs need
    no gradient, only what the others' gradients are made of, as far as the backward's source tells. It does
    not check the gradients' values, which is what `check` is for.

    Args:
        forward, backward, out, names: the pass, as `check` takes it.

    Returns:
        A function with the forward's parameters. It returns the output, or the outputs as a tuple, in the
        order of `out`. Tensors may stand in lists, tuples and dictionaries. It can be pickled as far as
        forward and backward can; `torch.func.grad`, `vmap`, `torch.compile` and checkpointing can be used.

    Raises:
        CheckError: the parts do not fit together; or, when the gradients are asked for, one that is needed
            is not there or has not its tensor's shape, or a second derivative is asked for.

    >>> import torch
    >>> from backhand.passes import rms_norm
    >>> norm = differentiable(rms_norm)
    >>> x, gain = torch.randn(8, 5, requires_grad=True), torch.ones(5, requires_grad=True)
    >>> norm(x, gain).square().sum().backward()
    >>> gain.grad.shape
    torch.Size([5])
    """
    return Differentiable(resolve(forward, backward, {}, out, names))


class Differentiable:
    """A pass as a function; made by `differentiable`."""

    def __init__(self, chosen: Pass) -> None:
        update_wrapper(self, chosen.forward, updated=())
        self.__signature__: inspect.Signature = inspect.signature(chosen.forward)
        self._pass = chosen
        self._outs = chosen.outputs
        self._upstream = {f"d{name}": Slot(i) for i, name in enumerate(chosen.outputs)}
        parameters = self.__signature__.parameters.values()
        self._names = tuple(p.name for p in parameters)
        self._kinds = {p.name: p.kind for p in parameters}
        self._required = sum(p.default is p.empty for p in parameters)
        self._plain = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        self._plans: dict[tuple[str | None, ...], _Plan] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        chosen = self._pass
        return _again, (chosen.forward, chosen.backward, chosen.out, dict(chosen.names))

    def __repr__(self) -> str:
        return f"differentiable({getattr(self._pass.forward, '__qualname__', self._pass.forward)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output or the outputs."""
        given = leaves = self._by_name(args, kwargs)
        shape = None
        tracked = torch.is_grad_enabled()
        needed = []
        for name, value in given.items():
            if isinstance(value, Tensor):
                if tracked and value.requires_grad:
                    needed.append(name)
            elif isinstance(value, CONTAINERS):
                leaves, shape = unpacked(given), shape_of(given)
                needed = [
                    n for n, v in leaves.items() if tracked and isinstance(v, Tensor) and v.requires_grad
                ]
                break
        if not needed:  # inference, and what autograd itself follows, such as forward mode
            outputs = self._outputs(self._run(given))
            return outputs[0] if len(outputs) == 1 else outputs
        key = (*leaves, None, *needed)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._planned(tuple(needed), tuple(leaves))
        if transforming():
            made = Transformed.apply(plan, shape, Box(), *leaves.values())
            return made[0] if plan.count == 1 else made[: plan.count]
        return Wired.apply(plan, shape, *leaves.values())

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by their names, as a call of the forward would bind them."""
        if self._plain and not kwargs and self._required <= len(args) <= len(self._names):
            return dict(zip(self._names, args, strict=False))
        arguments = inspect.Signature.bind(self.__signature__, *args, **kwargs).arguments
        extra = [n for n in arguments if self._kinds[n] is inspect.Parameter.VAR_KEYWORD]
        for name in extra:
            arguments |= arguments.pop(name)
        return arguments

    def _run(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the forward's names."""
        chosen = self._pass
        if self._plain:
            returned = chosen.forward(**given)
        else:
            args, kwargs = [], {}
            for name, value in given.items():
                kind = self._kinds.get(name)
                if kind is inspect.Parameter.VAR_POSITIONAL:
                    args += value
                elif kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
                    args.append(value)
                else:
                    kwargs[name] = value
            returned = chosen.forward(*args, **kwargs)
        if type(returned) is dict and given.keys() <= returned.keys():
            return returned
        return named_values(returned, given)

    def _outputs(self, values: Mapping[str, Any]) -> tuple[Tensor, ...]:
        outputs = tuple(value for name in self._outs if isinstance(value := values.get(name), Tensor))
        if len(outputs) == len(self._outs):
            return outputs
        flat = flatten(values)
        for name in self._outs:
            if not isinstance(flat.get(name), Tensor):
                raise CheckError(f"forward returns no tensor {name!r}{nearest(name, flat)}")
        return tuple(flat[name] for name in self._outs)

    def _planned(self, needed: tuple[str, ...], leaves: tuple[str, ...]) -> "_Plan":
        """Choose what of the backward is run where these leaves need a gradient."""
        chosen = self._pass
        mapped = {tensor: gradient for gradient, tensor in chosen.names.items()}
        candidates = {n: tuple(filter(None, (f"d{n}", f"d_{n}", mapped.get(n)))) for n in needed}
        backward, wanted = chosen.backward, chosen.wanted
        if wanted is not None and len(needed) < len(leaves) and not torch.compiler.is_compiling():
            for prefix in ("d", "d_"):
                roots = {f"{prefix}{name.split('[', 1)[0]}" for name in needed}
                backward = prune(chosen.backward, roots)
                if backward is not chosen.backward:
                    wanted = tuple(inspect.signature(backward).parameters)
                    break
        places = tuple(leaves.index(name) for name in needed)
        asked = wanted is None or f"d{chosen.outputs[0]}" in wanted
        is_loss = chosen.ends_in_loss or (len(chosen.outputs) == 1 and not asked)
        return _Plan(self, backward, wanted, leaves, places, candidates, len(chosen.outputs), is_loss)


def _again(
    forward: Callable[..., Any], backward: Callable[..., Any], out: tuple[str, ...], names: Mapping[str, str]
) -> Differentiable:
    """Return the function once more, from a pickle."""
    return differentiable(forward, backward, out=out, names=names)


@dataclass(frozen=True)
class _Plan:
    """How a call is wired: which backward, what it asks for, and how the gradients may be called.

    Attributes:
        wanted: the names that the backward asks for; None for all.
        leaves: the arguments, those in containers one by one.
        needed: which of them need a gradient.
        candidates: the names that the gradient of each of these can have, in order.
        count: how many outputs there are.
        is_loss: whether the pass ends in its loss, and is written for an upstream gradient of 1.
    """

    function: Differentiable
    backward: Callable[..., Any]
    wanted: tuple[str, ...] | None
    leaves: tuple[str, ...]
    needed: tuple[int, ...]
    candidates: dict[str, tuple[str, ...]]
    count: int
    is_loss: bool

    @cached_property
    def nested(self) -> bool:
        """Whether a gradient may have to be looked for in a container."""
        return any("[" in name for name in self.candidates)

    @cached_property
    def slots(self) -> dict[str, Slot]:
        """Where the backward's arguments are if each is a tensor: after the upstream gradients, in order."""
        upstream, wanted = self.function._upstream, self.wanted or ()
        saved = (name for name in wanted if name not in upstream)
        arrived = {name: slot for name, slot in upstream.items() if name in wanted}
        return arrived | {name: Slot(self.count + i) for i, name in enumerate(saved)}

    @cached_property
    def take(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]] | None:
        """Take the output and what is saved from the forward's names, where there is no more than that."""
        saved = [name for name in self.slots if name not in self.function._upstream]
        simple = self.wanted is not None and saved and self.count == 1
        return itemgetter(*self.function._outs, *saved) if simple else None

    def tensors(self, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Return the output and all that the backward asks for, if these are tensors each, or else None."""
        if self.take is None or not self.function._upstream.keys().isdisjoint(values):
            return None
        try:
            found = self.take(values)
        except KeyError:
            return None
        for value in found:
            if not isinstance(value, Tensor):
                return None
        return found

    def values(self, shape: Any, given: Sequence[Any]) -> dict[str, Any]:
        """Run the forward; return its names."""
        inputs = dict(zip(self.leaves, given, strict=True)) if shape is None else packed(shape, iter(given))
        return self.function._run(inputs)

    def asked(self, values: dict[str, Any]) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """Return the outputs, and what the backward asks for, upstream gradients as slots."""
        function = self.function
        outputs, upstream = function._outputs(values), function._upstream
        if self.wanted is None:
            return outputs, upstream | values
        asked = {}
        for name in self.wanted:
            if name in values:
                asked[name] = values[name]
            elif name in upstream:
                asked[name] = upstream[name]
            elif name not in function._pass.optional:
                offered = {**values, **upstream}
                raise CheckError(
                    f"backward asks for {name!r}, which forward does not return{nearest(name, offered)} "
                    f"It may ask for: {', '.join(sorted(offered))}."
                )
        return outputs, asked

    def gradients(self, asked: dict[str, Any], kinds: Sequence[Any]) -> list[Tensor]:
        """Run the backward; return the gradient of each leaf that needs one.

        Args:
            asked: what the backward asks for.
            kinds: shape and dtype of each of these leaves.
        """
        returned = self.backward(**asked)
        if type(returned) is not dict and not isinstance(returned, Mapping):
            raise CheckError(
                f"backward returned {type(returned).__name__}; expected its gradients: end it in "
                "`return locals()`."
            )
        flat = flatten(returned) if self.nested else returned
        found = []
        for (leaf, names), (shape, dtype) in zip(self.candidates.items(), kinds, strict=True):
            gradient = flat.get(names[0])
            if type(gradient) is not Tensor or gradient.dtype is not dtype or gradient.shape != shape:
                gradient = self._gradient(leaf, names, flat, shape, dtype)
            found.append(gradient)
        return found

    def _gradient(
        self,
        leaf: str,
        names: tuple[str, ...],
        flat: Mapping[str, Any],
        shape: torch.Size,
        dtype: torch.dtype,
    ) -> Tensor:
        name = next((name for name in names if name in flat), leaf)
        gradient = flat.get(name) if name != leaf else None
        if not isinstance(gradient, Tensor) or gradient.dtype != dtype:
            gradient = as_gradient(gradient)
        if gradient is None:
            raise CheckError(f"backward returns no 'd{leaf}', though {leaf!r} needs a gradient.")
        if gradient.shape != shape:
            found, expected = tuple(gradient.shape), tuple(shape)
            raise CheckError(f"backward returns {name!r} in shape {found}; {leaf!r} has {expected}.")
        return gradient
