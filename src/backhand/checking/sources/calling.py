"""One call of a custom Function: what goes into it, and its true gradients, those of its forward."""

import inspect
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.autograd import Function

from backhand.checking.running.arrays import as_tensors
from backhand.checking.running.complexes import in_dtype, is_differentiable
from backhand.checking.running.private import differentiated
from backhand.checking.running.sandbox import running
from backhand.checking.running.trials import leaf_like
from backhand.checking.sources import numpy_truths
from backhand.checking.sources.numpy_truths import Call as NumpyCall
from backhand.checking.sources.numpy_truths import plainly

# Of the upstream gradients and the direction in which autograd is held to a difference.
SEED = 0
# Seconds that a difference for each element may take, and how many forwards one needs.
LONG, FORWARDS = 6.0, 6


class ClosedError(Exception):
    """A Function has no statements that can be run one by one; the message says why."""


class Context:
    """What a custom Function's forward is given for its `ctx` where it is run by itself."""

    def __init__(self, needed: Sequence[bool]):
        self.needs_input_grad: tuple[bool, ...] = tuple(needed)

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors as a node does."""
        self.saved_tensors: tuple[Tensor | None, ...] = tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Take note of nothing: autograd itself sees what is changed in place."""

    mark_non_differentiable = mark_dirty
    save_for_forward = mark_dirty

    def set_materialize_grads(self, value: bool) -> None:
        """Take note of nothing: no backward is run with this context."""


@dataclass(frozen=True)
class Called:
    """A custom Function, and what it is called with.

    Attributes:
        fn: the Function.
        arguments: of each the name of the input that it is, or an empty one, and its value.
        hold: lets the module whose parameters are among the inputs hold them: it may be an argument, or
            what the Function calls.
        held: the names of these parameters. A backward that runs the module again and differentiates it
            there adds to their `.grad`, whether they are arguments or not.
    """

    fn: type[Function]
    arguments: tuple[tuple[str, Any], ...]
    hold: Callable[[Mapping[str, Any]], None] = lambda inputs: None
    held: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """The names of the arguments, where one is no input another that no input has."""
        return [name or f"constant {i}" for i, (name, _) in enumerate(self.arguments)]

    def with_inputs(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Return the arguments for other inputs; what is none of them is in their precision if it was so."""
        self.hold(inputs)
        before = next((_precision(v) for name, v in self.arguments if name and is_differentiable(v)), None)
        now = next(
            (_precision(v) for n, _ in self.arguments if n and is_differentiable(v := inputs[n])), before
        )
        return [
            inputs[name] if name else _in(value, now) if now and _precision(value) == before else value
            for name, value in self.arguments
        ]

    @staticmethod
    def directly(fn: type[Function], names: Sequence[str]) -> "Called":
        """Return that a Function is called with all inputs in order."""
        return Called(fn, tuple((name, None) for name in names))


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a custom Function, as `numpy_truths.Forward`: where its true gradients come from.

    Attributes:
        fn: the Function.
        run: its forward.
        values: what it was called with.
        before: copies of the same, for it may change them in place.
        random: where PyTorch's random numbers stood.
        known: what differences have told of the Function already.
    """

    fn: type[Function]
    run: Callable[..., Any]
    values: tuple[Any, ...]
    before: tuple[Any, ...]
    random: Tensor
    known: dict[bytes, dict[bytes, Any]]

    over_torch: bool = True
    outputs: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What the Function is called."""
        return self.fn.__name__

    @property
    def named(self) -> dict[str, Any]:
        """What went into it by the names that the Function's forward has for its arguments."""
        parameters = list(inspect.signature(self.run).parameters.values())[has_context(self.fn) :]
        names = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
        names += [f"input{i}" for i in range(len(names), len(self.before))]
        return dict(zip(names, self.before, strict=False))

    def functions(self) -> Sequence[Callable[..., Any]]:
        """Return the user's function."""
        return (self.run,)

    def forward(self, inputs: Mapping[str, Any], call: NumpyCall = plainly) -> numpy_truths.Called:
        """Run its forward on other inputs that need a gradient; the rest is in their precision."""
        given = as_tensors(dict(inputs))
        dtype = next(iter(given.values())).dtype
        values = [given.get(n, _in(v, dtype) if isinstance(v, Tensor) else v) for n, v in self.named.items()]
        before = torch.get_default_dtype()
        torch.set_default_dtype(
            dtype
        )  # what it makes of its own, as `torch.zeros(n)`, is like what it is given
        try:
            return numpy_truths.Called(tuple(filter(is_differentiable, self.made(values))), None)
        finally:
            torch.set_default_dtype(before)

    def made(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Return what the forward gives, without `@torch.no_grad()` around it where a gradient is wanted."""
        result, random = (), torch.default_generator.get_state()
        for forward in dict.fromkeys((self.run, inspect.unwrap(self.run))):
            torch.default_generator.set_state(random)
            given = tuple(v.clone() if isinstance(v, Tensor) else v for v in values)
            context = [Context([is_wanted(v) for v in values])] if has_context(self.fn) else []
            result = forward(*context, *given)
            result = result if isinstance(result, tuple) else (result,)
            if not torch.is_grad_enabled() or any(map(is_wanted, result)):
                break
        return result

    @cached_property
    def truth(self) -> numpy_truths.Truth:
        """Where the gradients come from: autograd on the forward, or differences where it does not follow.

        Raises:
            ClosedError: it cannot be told.
        """
        wanted = {n: v.detach().double().numpy() for n, v in self.named.items() if is_wanted(v)}
        try:
            with running(torch.float64, SEED, promote=False), torch.enable_grad():
                truth = numpy_truths.choose(self, wanted, list(wanted), SEED).truth
                began = time.process_time()
                self.forward(wanted)
                once = time.process_time() - began
        except Exception as error:  # the user's code may raise anything
            raise ClosedError(f"what the forward of {self.title} computes cannot be told") from error
        if truth.slack == 1:
            return truth
        if FORWARDS * once * sum(v.size for v in wanted.values()) > LONG:
            raise ClosedError(
                f"the forward of {self.title} hides from autograd, and takes too long for differences"
            )
        return numpy_truths.Differing(self, self.known)

    def plain(self, reached: Collection[int] | None, *values: Any) -> tuple[Any, ...]:
        """Return what the forward gives for such values, derived as is true of it.

        Args:
            reached: which of its outputs have a gradient; all that may where it is None.
            values: its arguments.
        """
        named = dict(zip(self.named, values, strict=True))
        is_followed, random = self.truth.slack == 1, torch.default_generator.get_state()
        with nullcontext() if is_followed else torch.no_grad():
            found: Iterable[Any] = self.made(values)
        if not is_followed:
            torch.default_generator.set_state(random)
            derived = iter(self.truth({n: v for n, v in named.items() if is_wanted(v)}))
            found = [next(derived).to(out.dtype) if is_differentiable(out) else out for out in found]
        return tuple(
            out if reached is None or i in reached or not is_differentiable(out) else out.detach()
            for i, out in enumerate(found)
        )

    def gradients(self, *arriving: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the true gradients of its arguments, given what arrives at its outputs."""
        leaves = tuple(leaf_like(v) if isinstance(v, Tensor) else v for v in self.before)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(self.random)
            made = self.plain(None, *leaves)
        ends = [(out, g) for out, g in zip(made, arriving, strict=False) if g is not None and is_wanted(out)]
        wanted = [v for v in leaves if is_wanted(v)]
        if not ends or not wanted:
            return (None,) * len(leaves)
        outputs, upstream = zip(*ends, strict=True)
        found = iter(differentiated(outputs, upstream, wanted))
        return tuple(next(found) if is_wanted(v) else None for v in leaves)


def has_context(fn: type[Function]) -> bool:
    """Tell whether a Function's forward has the context for its first argument."""
    return fn.setup_context is Function.setup_context


def is_wanted(value: object) -> TypeGuard[Tensor]:
    """Tell whether something is a tensor that needs a gradient."""
    return isinstance(value, Tensor) and value.requires_grad


def _precision(value: object) -> torch.dtype | None:
    """Return the dtype of a tensor's numbers, of complex ones that of their parts; None of anything else."""
    return value.dtype.to_real() if is_differentiable(value) else None


def _in(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(in_dtype(value, dtype)) if is_differentiable(value) else value
