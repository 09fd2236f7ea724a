"""`check_function`: a custom autograd Function, or any differentiable callable, against a plain reference."""

import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from backhand.checking.judging import check_pass
from backhand.checking.report import Report
from backhand.checking.running.names import flatten
from backhand.checking.running.private import backward_of, differentiated
from backhand.checking.sources.protocol import ForwardError, Halfway, Pass
from backhand.checking.verdicts.comparing import close, largest_difference
from backhand.errors import CheckError

Tensors = Mapping[str, Tensor]


def check_function(
    fn: Any,
    reference: Callable[..., Any],
    inputs: Mapping[str, Any] | Sequence[Any] | Callable[[torch.Generator], Any],
    *,
    draws: int = 3,
    seed: int = 0,
) -> Report:
    """Compare a function that has its own backward with a plain reference that autograd differentiates.

    The upstream gradient is drawn at random. Besides the gradient of every input: linearity in the upstream
    gradient, transposed, strided, expanded and offset tensors, tensors changed in place, repeated runs,
    dtypes and the error in the inputs' own dtype against the reference's.

    Args:
        fn: a subclass of `torch.autograd.Function`, or a callable.
        reference: a callable of the same arguments, in plain torch operations.
        inputs: the arguments, by the reference's parameter names or in order, or a function that draws them.
        draws: how many independent sets of inputs to try.
        seed: of the draws and the upstream gradients.

    Returns:
        A `Report` with a row for every floating-point input.

    Raises:
        CheckError: the function raises, or gives another output than the reference.

    >>> class Double(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         return 2 * x
    ...     @staticmethod
    ...     def backward(ctx, dy):
    ...         return dy
    >>> check_function(Double, lambda x: 2 * x, {"x": torch.randn(4)})["x"].mistake.kind
    'scale'
    """
    function = Function(fn, reference)
    return check_pass(function.as_pass(inputs), function.title, draws=draws, seed=seed)


class Function:
    """A differentiable function beside its reference, whose outputs and gradients are taken for true.

    Attributes:
        fn: the function as it was given.
        call, reference: the two, as plain callables.
        title: the function's name.
    """

    def __init__(self, fn: Any, reference: Callable[..., Any]):
        custom = isinstance(fn, type) and issubclass(fn, torch.autograd.Function)
        self.call: Callable[..., Any] = fn.apply if custom else fn
        self.fn: Any = fn
        self.reference: Callable[..., Any] = reference
        self.title: str = getattr(fn, "__name__", type(fn).__name__)
        self._turns = itertools.count(1)

    def as_pass(self, inputs: Any) -> Pass:
        """Return the pass whose forward is the reference, and whose backward differentiates the function."""
        named = (lambda g: self.named(inputs(g))) if callable(inputs) else self.named(inputs)
        return Pass(
            forward=self.forward,
            backward=self.backward,
            inputs=named,
            out=None,
            names={},
            wanted=None,
            optional=frozenset(),
            forward_source=None,
            backward_source=None,
            contract="returned",
            promotes=False,
        )

    def named(self, inputs: Any) -> dict[str, Any]:
        """Return the arguments by name, in order; raise `CheckError` where they are none."""
        if isinstance(inputs, Mapping):
            return dict(inputs)
        if isinstance(inputs, Tensor):
            inputs = [inputs]
        if not isinstance(inputs, Sequence):
            raise CheckError(
                f"inputs are {type(inputs).__name__}; expected the arguments, by name or in order."
            )
        try:
            names = list(inspect.signature(self.reference).parameters)
        except ValueError:  # a builtin, such as torch.matmul, does not tell them
            names = []
        return {names[i] if i < len(names) else f"input{i}": value for i, value in enumerate(inputs)}

    def forward(self, /, **inputs: Any) -> dict[str, Tensor]:
        """Return the reference's outputs by name."""
        if not any(isinstance(v, Tensor) and v.requires_grad for v in flatten(inputs).values()):
            raise CheckError(f"no input of {self.title} needs a gradient; expected a floating-point tensor.")
        return self._outputs(self.reference, "the reference", inputs)

    def backward(self, inputs: Mapping[str, Any], outputs: Tensors, upstream: Tensors) -> dict[str, Any]:
        """Return the function's own gradients of the inputs that are leaves which need one.

        Raises:
            CheckError: its outputs are not those of the reference.
            Halfway: autograd refuses what its backward returned.
        """
        leaves = {k: v for k, v in flatten(inputs).items() if isinstance(v, Tensor) and v.requires_grad}
        with torch.enable_grad():
            own = self._outputs(self.call, self.title, inputs)
        self._compare(own, outputs)
        # other random numbers each time: the forward's were the same, and a backward needs none of its own
        torch.default_generator.manual_seed(next(self._turns))
        arriving = {n: upstream[f"d{n}"] for n in own if f"d{n}" in upstream}
        ends = {n: get_gradient_edge(own[n]) for n in arriving}
        del own  # a large output need not lie beside what the backward makes
        try:
            found = differentiated(ends.values(), arriving.values(), leaves.values())
        except RuntimeError as error:
            returned = _returned(self.fn, leaves, ends, arriving)
            if not returned:
                raise
            raise Halfway(returned, error) from error
        return {f"d{name}": gradient for name, gradient in zip(leaves, found, strict=True)}

    def _outputs(self, call: Callable[..., Any], what: str, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        try:
            result = call(*inputs.values())
        except Exception as error:  # the user's code may raise anything
            raise ForwardError(what, error) from error
        results = result if isinstance(result, tuple | list) else [result]
        stem = next(s for s in _stems() if not any(_is_taken(s, name) for name in inputs))
        found = {
            stem if len(results) == 1 else f"{stem}{i}": r
            for i, r in enumerate(results)
            if isinstance(r, Tensor) and r.requires_grad
        }
        if not found:
            raise CheckError(
                f"{self.title} gives no output that needs a gradient; expected at least one tensor."
            )
        return found

    def _compare(self, own: Tensors, right: Tensors) -> None:
        for name, expected in right.items():
            got = own.get(name)
            if got is None or got.shape != expected.shape:
                shape = None if got is None else tuple(got.shape)
                raise CheckError(
                    f"{self.title} gives an output of shape {shape}, its reference {tuple(expected.shape)}: "
                    "the forwards differ, so that there is no gradient to compare."
                )
            if not close(got.detach(), expected.detach()):
                worst = largest_difference(got.detach(), expected.detach())
                raise CheckError(
                    f"{self.title} and its reference give different outputs (by {worst:.3g}): "
                    "mend the forward first, or give the reference that is meant."
                )


def _stems() -> Iterator[str]:
    """Yield what outputs may be called, plainest first."""
    yield from ("y", "out", "output")
    name = "output_"
    while True:
        yield name
        name += "_"


def _is_taken(stem: str, name: str) -> bool:
    """Tell whether an input has the name of such an output or of its upstream gradient: `y`, `y1`, `dy`."""
    return re.fullmatch(rf"d?{stem}\d*", name) is not None


def _returned(
    fn: object, leaves: Tensors, outputs: Mapping[str, GradientEdge], upstream: Tensors
) -> dict[str, Tensor | None]:
    """Return what a custom Function's backward itself returns, before autograd looks at the shapes.

    Only where the outputs are those of one Function, and only for the arguments that go into it as they are.
    """
    nodes = {r.node for r in outputs.values()}
    node: Any = nodes.pop()
    backward = backward_of(node, fn)
    if nodes or backward is None:
        return {}
    arriving: list[Tensor | None] = [None] * (1 + max(r.output_nr for r in outputs.values()))
    for name, r in outputs.items():
        arriving[r.output_nr] = upstream[name]
    with torch.no_grad():
        raw = backward(*arriving)
    raw = raw if isinstance(raw, tuple) else (raw,)
    returned = [g for g, needed in zip(raw, node.needs_input_grad, strict=False) if needed]
    into = [edge for edge, _ in node.next_functions if edge is not None]
    names = {id(v): k for k, v in leaves.items()}
    by_leaf = {id(getattr(edge, "variable", None)): g for edge, g in zip(into, returned, strict=False)}
    return {f"d{names[i]}": g.detach() for i, g in by_leaf.items() if i in names and isinstance(g, Tensor)}
