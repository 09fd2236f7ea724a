"""`differentiable`: a pass as a torch function, so that autograd calls the hand-written backward."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from backhand.bridge import Box, Transformed, Wired, guarded, shape_of, unpacked
from backhand.checking.running.private import transforming
from backhand.checking.running.tracing import named_values
from backhand.checking.sources.protocol import Pass, resolve
from backhand.pruning import prune
from backhand.unrolled import caller, quick
from backhand.wiring import CONTAINERS, Plan, outputs_of

# From 2.12 on the compiler follows `locals()`, in which a pass ends. Before, it breaks there and goes on with
# half of the names; so it is to call such a function, not to look into it.
FOLLOWS_LOCALS = TorchVersion(torch.__version__) >= "2.12"


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
            is not there or has not its tensor's shape, or a second derivative is asked for; compiled, PyTorch
            itself refuses that one, or drops it (see the engineers' tutorial).

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
        self._kinds = {p.name: p.kind for p in self.__signature__.parameters.values()}
        self._plans: dict[tuple[Any, ...], Plan] = {}
        # for tensors by position: by how many, and by which of them need a gradient
        self._callers: dict[int, Callable[..., Tensor | None]] = {}
        self._quick: dict[tuple[bool | None, ...], Callable[..., Tensor]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        chosen = self._pass
        return _again, (chosen.forward, chosen.backward, chosen.out, dict(chosen.names))

    def __repr__(self) -> str:
        return f"differentiable({getattr(self._pass.forward, '__qualname__', self._pass.forward)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output or the outputs."""
        if not torch.is_grad_enabled():
            return self._plainly(args, kwargs)
        if torch.compiler.is_compiling():
            wired: Any = self._wired if FOLLOWS_LOCALS else torch.compiler.disable(self._wired)
            return wired(args, kwargs)
        if kwargs:
            return self._wired(args, kwargs)
        call = self._callers.get(len(args))
        if call is None or transforming():
            return self._wired(args, kwargs)
        made = call(self._quick, *args)
        return self._wired(args, kwargs) if made is None else made

    def _plainly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the outputs as the forward computes them, without a backward of its own."""
        values = self._pass.forward(*args, **kwargs)
        outs = self._pass.outputs
        if type(values) is dict and len(outs) == 1 and isinstance(only := values.get(outs[0]), Tensor):
            return only
        outputs = outputs_of(self._pass, named_values(values, self._by_name(args, kwargs)))
        return outputs[0] if len(outputs) == 1 else outputs

    def _wired(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Find out which arguments need a gradient, and compute the outputs so that they get theirs."""
        given = self._by_name(args, kwargs)
        leaves = unpacked(given)
        needed = tuple(n for n, v in leaves.items() if isinstance(v, Tensor) and v.requires_grad)
        if not needed:  # what autograd itself follows, such as forward mode
            return self._plainly(args, kwargs)
        key = (*leaves, bool(kwargs), *needed)
        plan = self._plans.get(key)
        is_new = plan is None
        if plan is None:
            plan = self._planned(needed, tuple(leaves))
            if not torch.compiler.is_compiling():  # what the compiler traces changes nothing that lasts
                self._plans[key] = plan
        boxed = any(isinstance(v, CONTAINERS) for v in given.values())
        shape = shape_of(given) if boxed else None
        if transforming():
            made = Transformed.apply(plan, shape, Box(), *leaves.values())
            return made[0] if plan.count == 1 else made[: plan.count]
        made = Wired.apply(plan, shape, *leaves.values())
        if torch.compiler.is_compiling():
            return guarded(made)
        by_position = (
            not kwargs and leaves.keys() == given.keys() and all(isinstance(v, Tensor) for v in args)
        )
        if is_new and by_position:
            self._remember(plan, args, made)
        return made

    def _remember(self, plan: Plan, args: tuple[Tensor, ...], made: Any) -> None:
        """Keep the quick way for calls like the one that has made something, if there is one."""
        asked = getattr(getattr(made, "grad_fn", None), "asked", None)  # `Wired` left it there
        apply = None if asked is None else quick(plan, asked)
        if apply is not None:
            self._quick[tuple(v.requires_grad for v in args)] = apply
            self._callers[len(args)] = caller(len(args))

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by their names, as a call of the forward would bind them."""
        arguments = self.__signature__.bind(*args, **kwargs).arguments
        extra = [n for n in arguments if self._kinds[n] is inspect.Parameter.VAR_KEYWORD]
        for name in extra:
            arguments |= arguments.pop(name)
        return arguments

    def _run(self, given: dict[str, Any]) -> Any:
        """Run the forward with arguments by name."""
        extra = next((n for n, k in self._kinds.items() if k is inspect.Parameter.VAR_KEYWORD), None)
        own = {name: value for name, value in given.items() if name in self._kinds}
        if extra is not None:
            own[extra] = {name: value for name, value in given.items() if name not in self._kinds}
        bound = inspect.BoundArguments(self.__signature__, OrderedDict(own))
        return self._pass.forward(*bound.args, **bound.kwargs)

    def _planned(self, needed: tuple[str, ...], leaves: tuple[str, ...]) -> Plan:
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
        asked = wanted is None or f"d{chosen.outputs[0]}" in wanted
        return Plan(
            chosen=chosen,
            call=self._run,
            leaves=leaves,
            needed=tuple(leaves.index(name) for name in needed),
            candidates=candidates,
            backward=backward,
            wanted=wanted,
            count=len(chosen.outputs),
            is_loss=chosen.ends_in_loss or (len(chosen.outputs) == 1 and not asked),
        )


def _again(
    forward: Callable[..., Any], backward: Callable[..., Any], out: tuple[str, ...], names: Mapping[str, str]
) -> Differentiable:
    """Return the function once more, from a pickle."""
    return differentiable(forward, backward, out=out, names=names)
