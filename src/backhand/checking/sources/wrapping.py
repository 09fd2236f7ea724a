"""The custom Functions that a function or module calls: heard while it runs, and mended."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from backhand.checking.running.containers import flatten
from backhand.checking.running.private import custom_nodes, differentiated, function_of, nodes_of
from backhand.checking.running.trials import leaf_like
from backhand.checking.sources.calling import Call, Called, ClosedError, has_context, is_wanted


@dataclass(frozen=True)
class Seen:
    """The calls of custom Functions in one run of what calls them.

    Attributes:
        leaves: the inputs that need a gradient, by name.
        outputs: what the run gave.
        calls: each by its node, those nearest to the outputs first.
        arrived: the gradients that came to each.
    """

    leaves: Mapping[str, Tensor]
    outputs: tuple[Tensor, ...]
    calls: Mapping[Any, Call]
    arrived: Mapping[Any, tuple[Tensor | None, ...]]

    @property
    def functions(self) -> list[type[Function]]:
        """The Functions that are called."""
        return list(dict.fromkeys(call.fn for call in self.calls.values()))

    @staticmethod
    def of(run: Callable[[Mapping[str, Any]], Mapping[str, Tensor]], inputs: Mapping[str, Any]) -> "Seen":
        """Run something forward on inputs that are leaves, and backward on random upstream gradients."""
        leaves = {n: v for n, v in flatten(inputs).items() if is_wanted(v)}
        with torch.enable_grad():
            functions = list(map(function_of, custom_nodes(run(inputs).values())))
            with heard(dict.fromkeys(functions)) as calls:
                outputs = tuple(filter(is_wanted, run(inputs).values()))
        arrived: dict[Any, tuple[Tensor | None, ...]] = {}
        calls = {node: calls[node] for node in custom_nodes(outputs) if node in calls}
        for node in calls:
            node.register_prehook(partial(arrived.__setitem__, node))
        # drawn in float64, with other numbers than the inputs are under the same seed
        upstream = [torch.randn(out.shape, dtype=torch.float64).to(out) for out in outputs]
        with suppress(Exception):  # the user's code may raise anything; what came until then is seen
            differentiated(outputs, upstream, leaves.values())
        return Seen(leaves, outputs, calls, arrived)

    def alone(
        self,
        inputs: Mapping[str, Any],
        hold: Callable[[Mapping[str, Any]], None],
        held: frozenset[str] = frozenset(),
    ) -> Called | None:
        """Return the one Function that is called, where nothing is done besides; None where something is.

        Each input that needs a gradient is one of its arguments as it is, or a parameter that it finds in a
        module, and nothing else needs one.

        Args:
            inputs: what the run was given.
            hold: lets a module hold its parameters, where they are among the inputs.
            held: the names of these.
        """
        names = {id(v): n for n, v in inputs.items() if isinstance(v, Tensor)}
        if len(self.calls) != 1 or any(out.grad_fn not in self.calls for out in self.outputs):
            return None
        (call,) = self.calls.values()
        arguments = tuple((names.get(id(value), ""), value) for value in call.values)
        needing = {name for name, value in arguments if is_wanted(value)}
        is_all = needing <= self.leaves.keys() <= needing | held
        return Called(call.fn, arguments, hold, held) if is_all else None

    def made_of(self, fn: type[Function]) -> dict[str, set[str]]:
        """Return which inputs of the run each argument of a Function is made of, by names."""
        names = {id(leaf): name for name, leaf in self.leaves.items()}
        found: dict[str, set[str]] = {}
        for call in (call for call in self.calls.values() if call.fn is fn):
            for name, value in zip(call.named, call.values, strict=False):
                if is_wanted(value):
                    ends = [value, *(getattr(node, "variable", None) for node in nodes_of([value]))]
                    found.setdefault(name, set()).update(names[id(end)] for end in ends if id(end) in names)
        return found


@contextmanager
def heard(functions: Iterable[type[Function]]) -> Iterator[dict[Any, Call]]:
    """Give the calls of some Functions by their nodes, as they are made."""
    calls: dict[Any, Call] = {}
    with ExitStack() as stack:
        for fn in functions:
            for name, own in _listening(fn, calls).items():
                stack.enter_context(_instead(fn, name, own))
        yield calls


@contextmanager
def mended(functions: Sequence[type[Function]]) -> Iterator[list[ClosedError]]:
    """Have the true gradients of the forwards of some Functions in the place of their own.

    Gives what kept one from being known.
    """
    kept: list[ClosedError] = []
    with heard(functions) as calls, ExitStack() as stack:

        def backward(context: Any, *arriving: Tensor | None) -> Any:
            try:
                return calls[context].gradients(*arriving)
            except ClosedError as closed:
                kept.append(closed)
                raise

        for fn in functions:
            name = "backward" if fn.vjp is Function.vjp else "vjp"
            stack.enter_context(_instead(fn, name, backward))
        yield kept


def _listening(fn: type[Function], calls: dict[Any, Call]) -> dict[str, Callable[..., Any]]:
    """Return the parts of a Function that are called with what is to be heard, each doing what it does."""
    forward, setup = fn.forward, fn.setup_context
    waiting: list[Call] = []
    known: dict[bytes, dict[bytes, Any]] = {}

    def call(*values: Any) -> Call:
        before = tuple(leaf_like(v) if isinstance(v, Tensor) else v for v in values)
        return Call(fn, forward, values, before, torch.default_generator.get_state(), known)

    @functools.wraps(forward)
    def with_context(context: Any, *values: Any) -> Any:
        calls[context] = call(*values)
        return forward(context, *values)

    @functools.wraps(forward)
    def without(*values: Any) -> Any:
        waiting.append(call(*values))
        return forward(*values)

    @functools.wraps(setup)
    def then(context: Any, *given: Any) -> Any:
        calls[context] = waiting.pop()
        return setup(context, *given)

    return {"forward": with_context} if has_context(fn) else {"forward": without, "setup_context": then}


@contextmanager
def _instead(owner: type, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let a class have another function under a name."""
    own = vars(owner).get(name)
    setattr(owner, name, staticmethod(function))
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
