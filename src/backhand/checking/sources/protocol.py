"""What a pass is: a forward and a backward that are wired together by the names of their tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from backhand.checking.running.endings import what_raised
from backhand.checking.running.graph import Trace
from backhand.checking.running.instrumenting import Run, Watcher
from backhand.checking.running.names import nearest
from backhand.checking.running.precision import MEASURED, Asked
from backhand.checking.running.program import Namespace, Source, parameters_of, source_of
from backhand.checking.sources.usages import Usage
from backhand.errors import CheckError, in_short

Inputs = Mapping[str, Any] | Callable[[torch.Generator], Mapping[str, Any]]
Contract = Literal["named", "returned"]


class Runner(Protocol):
    """Runs what a door stands for, with each statement of the user's seen by a watcher of tensors.

    It is for code that is not called as the pass is: a custom Function, whose backward has a `ctx`, or a pair
    over NumPy, whose statements see arrays.
    """

    @property
    def over_numpy(self) -> bool:
        """Whether the statements are over NumPy's arrays."""
        ...

    def forward(self, leaves: Mapping[str, Any], watcher: Watcher) -> object:
        """Run the forward on the inputs, and return what `Pass.forward` returns."""
        ...

    def backward(self, given: Mapping[str, Any], watcher: Watcher) -> Run:
        """Run the backward on what `Pass.backward` is given."""
        ...

    def hold(self, inputs: Mapping[str, Any]) -> None:
        """Let what the statements read of elsewhere, as of a module, be of these inputs."""
        ...

    def around(self) -> Namespace:
        """Return what the statements of the backward see besides their own variables."""
        ...


class ForwardError(CheckError):
    """A forward raised; in another dtype it may not."""

    def __init__(self, what: str, error: Exception, besides: str = ""):
        super().__init__(f"{what} {what_raised(error)}{besides}")


class ForwardsDifferError(CheckError):
    """The code's forward is not its reference's; in a lower precision it may be."""


class Halfway(Exception):  # noqa: N818  (what was returned counts, not the exception)
    """A backward ended in an exception, though some of its gradients are known."""

    def __init__(self, gradients: Mapping[str, Any], error: Exception):
        super().__init__(in_short(error))
        self.gradients = gradients
        self.error = error


@dataclass(frozen=True)
class Pass:
    """A forward, a backward and their inputs, resolved from whatever the user handed in.

    This is all that a check knows of where its code came from. A door that judges what a backward *returns*
    (a Function, a pair of functions over NumPy) gives a forward that returns the true outputs by name, and a
    `backward(inputs, outputs, upstream)` of dictionaries. It gets the inputs as leaves and the true outputs,
    to be compared with its own (none where it is only probed), and returns the gradients by name, or None.

    Attributes:
        out: the names of the outputs; empty where the forward ends in the scalar `loss`; None where each
            differentiable tensor that it returns is one.
        names: the user's mapping of gradient to tensor, for names that do not follow the rule.
        wanted: the parameter names of the backward, or None where it takes everything (`**f`).
        scope: makes the variables that a script's statements see; None for functions.
        contract: what is judged: every gradient that has a name, or the returned ones, input by input, in
            the order of the inputs.
        promotes: code that asks for a lower dtype may be run in float64 all the same; not so where that
            dtype is what it is to be judged in, as a kernel's.
        asked: what the caller says of the code's precision.
        no_gradient: the inputs that have none on purpose, though autograd would give them one.
        usages: other ways in which a training job uses the function.
        elsewhere: inputs of other shapes, with which it is to be right as well.
        allow: the kinds of failure under stress that are let pass where the code refuses with an exception.
        runner: runs the two sources, where that is more than to call `forward` and `backward`.
        slack: how many times less precise the true gradients are than autograd's: those found by differences.
        arriving: upstream gradients that are given, by the seed of the run that has them; others are drawn.
        arrives_as_ones: whether each upstream gradient is ones instead.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    inputs: Inputs
    out: tuple[str, ...] | None
    names: Mapping[str, str]
    wanted: tuple[str, ...] | None
    optional: frozenset[str]
    forward_source: Source | None
    backward_source: Source | None
    scope: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    contract: Contract = "named"
    promotes: bool = True
    asked: Asked = MEASURED
    no_gradient: frozenset[str] = frozenset()
    usages: tuple[Usage, ...] = ()
    elsewhere: tuple[Inputs, ...] = ()
    allow: frozenset[str] = frozenset()
    runner: Runner | None = None
    slack: float = 1.0
    arriving: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    arrives_as_ones: bool = False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the tensors in which the forward ends, where they are known before it has run."""
        return self.out or ("loss",)

    @property
    def ends_in_loss(self) -> bool:
        """Whether the forward ends in the scalar `loss`, or a script in one of any name."""
        return self.out == () or self.scope is not None

    def is_last(self, outputs: Mapping[str, Tensor]) -> bool:
        """Tell whether nothing comes after the outputs: one scalar, for which the upstream gradient is 1.

        That is the loss, and any other single scalar whose upstream gradient the backward does not ask for.
        """
        if self.ends_in_loss:
            return True
        name, value = next(iter(outputs.items()))
        asked = self.contract == "returned" or self.wanted is None or f"d{name}" in self.wanted
        return len(outputs) == 1 and value.numel() == 1 and not asked

    def seed_of_backward(self, seed: int) -> int:
        """Return where the backward's own random numbers start, given where the forward's do.

        One that runs the forward again must draw the same ones, or no dropout would agree with itself.
        """
        return seed if self.contract == "returned" else seed + 1


def drawn_once(inputs: Any, generator: torch.Generator) -> Any:
    """Return inputs as they are given, or what the function that draws them gives.

    Raises:
        CheckError: that function raises.
    """
    if not callable(inputs):
        return inputs
    try:
        return inputs(generator)
    except Exception as error:  # the user's code may raise anything
        raise CheckError(f"inputs {what_raised(error)}") from error


def by_name(inputs: object) -> dict[str, Any]:
    """Return one set of inputs by name; raise `CheckError` where they have none."""
    if not isinstance(inputs, Mapping):
        raise CheckError(f"inputs are {type(inputs).__name__}; expected a dictionary of them by name.")
    return dict(inputs)


def resolve(
    forward: object,
    backward: Callable[..., Any] | None,
    inputs: Inputs | None,
    out: str | Sequence[str] | None,
    names: Mapping[str, str] | None,
) -> Pass:
    """Return the pass that these arguments describe.

    Raises:
        CheckError: a part is missing, or is not what it should be.
    """
    if backward is None:
        whole, forward = forward, getattr(forward, "forward", None)
        backward = getattr(whole, "backward", None)
        inputs = inputs if inputs is not None else getattr(whole, "inputs", None)
        out = out if out is not None else getattr(whole, "out", None)
        if forward is None or backward is None:
            lacks = " and ".join(n for n, f in (("forward", forward), ("backward", backward)) if f is None)
            raise CheckError(f"{_title(whole)} has no {lacks}: a pass is a forward and a backward.")
    for role, function in (("forward", forward), ("backward", backward)):
        if not callable(function):
            raise CheckError(f"{role} is {function!r}; expected a function.")
    assert callable(forward)
    if inputs is None:
        inputs = _no_inputs(forward)
    parameters = parameters_of(backward).values()
    everything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return Pass(
        forward=forward,
        backward=backward,
        inputs=inputs,
        out=(out,) if isinstance(out, str) else tuple(out or ()),
        names=dict(names or {}),
        wanted=None if everything else tuple(p.name for p in named),
        optional=frozenset(p.name for p in named if p.default is not p.empty),
        forward_source=source_of(forward),
        backward_source=source_of(backward),
    )


def _no_inputs(forward: Callable[..., Any]) -> Mapping[str, Any]:
    required = [
        p.name
        for p in parameters_of(forward).values()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if required:
        raise CheckError(
            f"no inputs for forward({', '.join(required)}): "
            "give inputs={name: tensor} or a function of a torch.Generator that draws them."
        )
    return {}


def _title(value: object) -> str:
    return getattr(value, "__name__", None) or type(value).__name__


def arguments(chosen: Pass, traced: Trace) -> dict[str, Any]:
    """Return what the backward asks for, by name: the forward's values and the upstream gradients.

    Where the returned gradients are the contract these are three dictionaries; see `Pass`.

    Raises:
        CheckError: the backward asks for a name that the forward does not have.
    """
    values, upstream = traced.values, traced.upstream
    if chosen.contract == "returned":
        outputs = {k: v for k, v in values.items() if f"d{k}" in upstream}
        return {"inputs": dict(traced.inputs), "outputs": outputs, "upstream": dict(upstream)}
    offered = {**values, **{k: v for k, v in upstream.items() if k not in values}}
    if chosen.wanted is None:
        return offered
    found = {}
    for name in chosen.wanted:
        if name in offered:
            found[name] = offered[name]
        elif name not in chosen.optional:
            raise CheckError(
                f"backward asks for {name!r}, which forward does not return{nearest(name, offered)} "
                f"It may ask for: {', '.join(sorted(offered))}."
            )
    return found
