"""One draw of the inputs: the forward, autograd's gradients and the user's, in one dtype."""

import math
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from traceback import walk_tb
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from backhand.checking.running.complexes import in_dtype, is_differentiable
from backhand.checking.running.containers import as_gradient_of, each_tensor, flatten, identical, is_strided
from backhand.checking.running.graph import Trace, from_graph
from backhand.checking.running.names import gradient_names, root
from backhand.checking.running.program import Source
from backhand.checking.running.returning import returned_so_far
from backhand.checking.running.sandbox import running
from backhand.checking.running.tracing import forwarded, leaf_inputs, trace
from backhand.checking.sources.protocol import Halfway, Pass, arguments, drawn_once
from backhand.errors import CheckError, in_short

SEEDS = 2**63


class StatementError(Exception):
    """A statement of a script raised; holds what was assigned until then."""

    def __init__(self, error: Exception, namespace: dict[str, Any], line: int):
        super().__init__(in_short(error))
        self.error: Exception = error
        self.namespace: dict[str, Any] = namespace
        self.line: int = line

    @staticmethod
    def of(error: Exception, code: CodeType | None, source: Source | None) -> "StatementError | None":
        """Return what raised in a function, with what that would have returned so far; None if elsewhere."""
        frames = ((f, line) for f, line in walk_tb(error.__traceback__) if f.f_code is code)
        frame, line = next(frames, (None, 0))
        if frame is None:
            return None
        found = dict(frame.f_locals)
        if source is not None:
            found = returned_so_far(source.statements, found, frame.f_globals)
        return StatementError(error, found, line)


@dataclass(frozen=True)
class Draw:
    """What one run gave.

    Attributes:
        trace: the forward.
        given: everything that the backward returned, by flat name.
        matched: tensor name to gradient name.
        user: the user's gradients by tensor name, those that are tensors (or numbers).
        error, error_line: the exception in which the backward ended, and its line number.
        changed: arguments of the backward that it changed in place.
        ran: the forward as the code found it, where `trace` is the truth for it in a higher precision.
    """

    trace: Trace
    given: dict[str, Any]
    matched: dict[str, str]
    user: dict[str, Tensor]
    seed: int
    promote: bool = False
    error: Exception | None = None
    error_line: int | None = None
    changed: tuple[str, ...] = ()
    dtype: torch.dtype | None = None
    ran: Trace | None = None

    @property
    def seen(self) -> Trace:
        """The forward as the code found it."""
        return self.trace if self.ran is None else self.ran

    @property
    def is_unfinished(self) -> bool:
        """Whether the backward ended where it uses a `...` that is yet to be written."""
        return isinstance(self.error, TypeError) and "ellipsis" in str(self.error)

    def as_ran(self) -> "Draw":
        """Return it with what autograd itself gives in the dtype of the run, for the truth."""
        return replace(self, trace=self.seen, ran=None)

    def without(self, names: Collection[str]) -> "Draw":
        """Return it without the user's gradients of some tensors."""
        if not names:
            return self
        matched = {n: gradient for n, gradient in self.matched.items() if n not in names}
        return replace(self, matched=matched, user={n: g for n, g in self.user.items() if n not in names})


def draw(
    chosen: Pass,
    inputs: Mapping[str, Any],
    dtype: torch.dtype | None,
    seed: int,
    *,
    promote: bool = False,
    lent: bool = False,
) -> Draw:
    """Run the forward and the user's backward once.

    The backward gets copies of the forward's tensors. They may be lent to it instead, which is quicker, if it
    is not known to change any; should it change one after all, everything is run again with copies.
    """
    traced = trace(chosen, inputs, dtype, seed, promote=promote)
    given, error, line, changed = call_backward(chosen, traced, dtype, seed, promote=promote, lent=lent)
    if lent and changed:
        return draw(chosen, inputs, dtype, seed, promote=promote)
    return judged(chosen, traced, given, seed, promote, error, line, changed, dtype)


def draw_large(chosen: Pass, inputs: Mapping[str, Any], seed: int, *, lent: bool) -> Draw:
    """Run the forward and the user's backward once in the dtype of the inputs, in little memory.

    Nothing is copied where it is lent, so the backward must be known to change none of its arguments then.
    Autograd's gradients are made last, so that they do not lie beside what the user's code makes on its way;
    nor does what the forward makes, where the backward asks for none of it: then it is made once more for
    them.
    """
    leaves, values, outputs, upstream = forwarded(chosen, leaf_inputs(inputs, None, lent=lent), None, seed)
    again = chosen.wanted is not None and not any(n in values and n not in leaves for n in chosen.wanted)
    if again:
        values, outputs = leaves, {}
    undifferentiated = Trace(leaves, values, {}, {}, outputs, upstream, {}, ())
    given, error, line, changed = call_backward(chosen, undifferentiated, None, seed, lent=lent)
    if again:
        leaves, values, outputs, upstream = forwarded(chosen, leaves, None, seed, upstream=upstream)
    traced = from_graph(leaves, values, outputs, upstream, lenient=chosen.contract == "returned")
    return judged(chosen, traced, given, seed, error=error, line=line, changed=changed)


def judged(
    chosen: Pass,
    traced: Trace,
    given: Mapping[str, Any],
    seed: int,
    promote: bool = False,
    error: Exception | None = None,
    line: int | None = None,
    changed: tuple[str, ...] = (),
    dtype: torch.dtype | None = None,
) -> Draw:
    """Return the draw in which what the backward gave is matched with the forward's tensors by name."""
    flat = flatten(given)
    judgeable = [n for n in (*traced.tensors, *traced.unreached) if n not in traced.outputs]
    matched = gradient_names(judgeable, flat, chosen.names)
    user = {}
    for name, gradient in matched.items():
        tensor = traced.tensors.get(name)
        value = as_gradient_of(tensor, flat[gradient])
        if value is not None:
            user[name] = value if tensor is None else value.to(tensor.device)
    return Draw(traced, flat, matched, user, seed, promote, error, line, changed, dtype)


def backward_arguments(
    chosen: Pass, traced: Trace, used: Container[str] | None = None, *, lent: bool = False
) -> dict[str, Any]:
    """Return copies of what the backward asks for (and uses), so that it cannot spoil the graph."""
    wanted = arguments(chosen, traced)
    copy = Tensor.detach if lent else Tensor.clone
    if chosen.contract == "returned":  # which differentiates what it is given, and so asks for leaves
        copy = _leaf_lent if lent else leaf_like
    with torch.no_grad():
        copies = {n: each_tensor(v, copy) for n, v in wanted.items() if used is None or n in used}
    if chosen.scope is not None:  # a script may use what autograd left in `probs.grad`
        for name, value in copies.items():
            if isinstance(value, Tensor) and name in traced.gradients:
                value.grad = traced.gradients[name].clone()
    return copies


def leaf_like(value: Tensor) -> Tensor:
    """Return a copy of a tensor as a leaf, which needs a gradient if that does."""
    return value.detach().clone().requires_grad_(value.requires_grad)


def _leaf_lent(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.requires_grad)


def call_backward(
    chosen: Pass,
    traced: Trace,
    dtype: torch.dtype | None,
    seed: int,
    *,
    promote: bool = False,
    lent: bool = False,
) -> tuple[dict[str, Any], Exception | None, int | None, tuple[str, ...]]:
    """Call the user's backward; where it raises, return what it had assigned until then."""
    offered = backward_arguments(chosen, traced, lent=lent)
    asked = offered if chosen.contract == "named" else offered["inputs"] | offered["upstream"]
    before = {k: (v, v._version) for k, v in flatten(asked).items() if isinstance(v, Tensor)}
    error, line = None, None
    try:
        with running(dtype, chosen.seed_of_backward(seed), promote), torch.no_grad():
            returned = chosen.backward(**offered)
    except CheckError:  # a door's own: there is nothing to compare
        raise
    except Exception as raised:  # the user's code may raise anything
        error = raised.error if isinstance(raised, StatementError | Halfway) else raised
        returned, line = _assigned_until(raised, chosen)
    if not isinstance(returned, Mapping):
        raise CheckError(
            f"backward returned {type(returned).__name__}; expected its gradients by name: "
            "end it in `return locals()`, or return {'dx': dx}."
        )
    if lent:
        changed = [k for k, (v, version) in before.items() if v._version != version]
    else:  # looked at itself: the version does not tell of what a compiled kernel writes, or `.data`
        flat = flatten(traced.values) | traced.upstream
        held = {k: v for k, (v, _) in before.items() if k in flat and is_strided(v)}
        changed = [k for k, v in held.items() if not identical(v, flat[k].detach())]
    return dict(returned), error, line, tuple(changed)


def _assigned_until(raised: Exception, chosen: Pass) -> tuple[dict[str, Any], int | None]:
    if isinstance(raised, StatementError):
        return raised.namespace, raised.line
    if isinstance(raised, Halfway):
        return dict(raised.gradients), None
    found = StatementError.of(raised, getattr(chosen.backward, "__code__", None), chosen.backward_source)
    return ({}, None) if found is None else (found.namespace, found.line)


def sets_of(
    inputs: Any, named: Callable[[Any], dict[str, Any]], draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield independent sets of inputs: a function draws each of them, given ones are varied.

    Args:
        inputs: a function of a `torch.Generator`, or one set.
        named: gives the names to one set.
        draws: how many.
        seed: of the generator.

    Raises:
        CheckError: the inputs cannot be drawn or named, or none are asked for.
    """
    if draws < 1:
        raise CheckError(f"draws is {draws!r}; expected at least 1.")
    if not -SEEDS <= seed < SEEDS - draws:  # what a torch.Generator takes
        raise CheckError(f"seed is {seed!r}; expected a number of 63 bits.")
    generator = torch.Generator().manual_seed(seed)
    first = named(drawn_once(inputs, generator))
    yield first
    for _ in range(draws - 1):
        yield named(drawn_once(inputs, generator)) if callable(inputs) else vary(first, generator)


def vary(inputs: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
    """Return another draw in the neighbourhood of given inputs: each element scaled by its own factor.

    Signs, zeros and infinities stay, so that masks and positive quantities remain what they are; a tensor
    that is all zeros (a fresh bias) gets small values, because zeros hide mistakes.
    Those in containers are varied as well.
    """
    tensors = [v for v in flatten(inputs).values() if isinstance(v, Tensor)]
    chosen_by_user = any(t.requires_grad for t in tensors)

    def near(value: Tensor) -> Tensor:
        is_leaf = is_differentiable(value) and (value.requires_grad or not chosen_by_user)
        return _varied(value, generator) if is_leaf else value

    return {name: each_tensor(value, near) for name, value in inputs.items()}


def _varied(value: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value.device)
    varied = value.detach().to(in_dtype(value, torch.float64))
    varied = 0.1 * (noise - 0.5) if not bool(varied.any()) else varied * (0.8 + 0.4 * noise)
    return varied.to(value.dtype).requires_grad_(value.requires_grad)


def is_finite(draw: Draw) -> bool:
    """Tell whether the forward and autograd's gradients are finite, so that there is something to compare."""
    outputs = [float(t.detach().sum().abs()) for t in draw.trace.outputs.values()]
    return all(map(math.isfinite, (*outputs, *draw.trace.largest.values())))


def unmatched(draw: Draw) -> tuple[str, ...]:
    """Return names of the backward that look like gradients of tensors that are not there."""
    known = set(draw.matched.values())
    tensors = [n for n, v in draw.given.items() if isinstance(v, Tensor)]
    rest = [n for n in tensors if n.startswith("d") and n not in known]
    if not rest:
        return ()
    values = draw.trace.values
    taken = {root(n) for n in values} | {f"d{n}" for n in values} | set(draw.trace.upstream)
    return tuple(n for n in rest if root(n) not in taken and n not in flatten(values))


def instead(draw: Draw, name: str, names: Mapping[str, str] | None) -> str:
    """Say what stands under the name of a tensor's gradient that is no tensor; empty if nothing does."""
    gradient = gradient_names([name], map(root, draw.given), names).get(name, "")
    value = draw.given.get(gradient)
    if value is not None and value is not ... and not isinstance(value, Tensor):
        return f"no tensor but of type {type(value).__name__}"
    if gradient and gradient not in draw.given:
        return "a container of tensors, not one: torch.stack or torch.cat makes one of them"
    return ""
