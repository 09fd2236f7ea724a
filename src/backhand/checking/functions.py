"""`check_function`: a custom autograd Function, or any differentiable callable, against a plain reference."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from backhand.checking.figures import figures
from backhand.checking.mistakes.naming import name_mistake
from backhand.checking.report import Mistake, Raised, Report, Row, Verdict
from backhand.checking.running.drawing import Draw, vary
from backhand.checking.running.precision import lowest
from backhand.checking.running.protocol import Pass
from backhand.checking.running.tracing import Trace, from_graph, leaf_inputs, running
from backhand.checking.stressing import HINTS, stress
from backhand.checking.verdicts.comparing import close, largest_difference
from backhand.checking.verdicts.localising import Judgement, blame, compared
from backhand.checking.verdicts.summands import Summands
from backhand.errors import CheckError

# How many times the reference's own error a function may make in the dtype of its inputs.
BUDGET = 8.0
# An unexplained error below this part of the gradient is a loss of precision, not a wrong formula.
COARSE = 2e-2


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
    """
    call = fn.apply if inspect.isclass(fn) and issubclass(fn, torch.autograd.Function) else fn
    subject = _Subject(call, reference, getattr(fn, "__name__", type(fn).__name__))
    drawn = _drawn(subject, inputs, draws, seed)
    dtype = torch.float64
    try:
        judged = [subject.judge(values, dtype, seed + i) for i, values in enumerate(drawn)]
    except CheckError:
        raise
    except Exception:  # a kernel may know its own dtypes only
        dtype = None
        try:
            judged = [subject.judge(values, dtype, seed + i) for i, values in enumerate(drawn)]
        except CheckError:
            raise
        except Exception as error:
            text = str(error).strip().split("\n", 1)[0]
            return Report(subject.title, (), raised=Raised(f"{type(error).__name__}: {text}", None))
    failures = [*subject.stress(judged[0]), *subject.precision(drawn[0], seed, set(judged[0].culprits))]
    return Report(
        title=subject.title,
        rows=tuple(subject.row(name, judged) for name in judged[0].draw.trace.wanted),
        stress=tuple(failures),
        precision=str(dtype or lowest(drawn[0])).removeprefix("torch."),
        draws=len(judged),
    )


def _drawn(subject: "_Subject", inputs: Any, draws: int, seed: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    if callable(inputs):
        return [subject.named(inputs(generator)) for _ in range(draws)]
    first = subject.named(inputs)
    return [first, *(vary(first, generator) for _ in range(draws - 1))]


class _Subject:
    """The function and its reference."""

    def __init__(self, call: Callable[..., Any], reference: Callable[..., Any], title: str):
        self.call, self.reference, self.title = call, reference, title
        self.chosen = Pass(reference, call, {}, ("y",), {}, None, frozenset(), None, None)

    def named(self, inputs: Any) -> dict[str, Any]:
        """Return the arguments by name, in order."""
        if isinstance(inputs, Mapping):
            return dict(inputs)
        if isinstance(inputs, Tensor):
            inputs = [inputs]
        names = list(inspect.signature(self.reference).parameters)
        return {names[i] if i < len(names) else f"input{i}": value for i, value in enumerate(inputs)}

    def judge(self, values: Mapping[str, Any], dtype: torch.dtype | None, seed: int) -> Judgement:
        """Return the verdict on one draw."""
        traced = self.trace(self.reference, values, dtype, seed)
        own = self.trace(self.call, values, dtype, seed)
        self._compare_outputs(own, traced)
        wanted = set(traced.wanted) & set(traced.gradients)
        user = {name: own.gradients[name] for name in wanted if name in own.gradients}
        draw = Draw(traced, {}, {n: f"d{n}" for n in wanted}, user, seed, dtype=dtype)
        summands = Summands(draw)
        right = dict.fromkeys(wanted, False) | compared(draw, summands)
        judgement = Judgement(draw, right, summands.vacuous(), summands)
        for name in wanted:
            if not right[name]:
                judgement.culprits[name] = blame(
                    name, user.get(name), traced.gradients[name], traced.gradients, summands[name]
                )
        return judgement

    def trace(
        self, call: Callable[..., Any], values: Mapping[str, Any], dtype: torch.dtype | None, seed: int
    ) -> Trace:
        """Run one of the two and return its graph."""
        leaves = leaf_inputs(values, dtype)
        with running(dtype, seed, False), torch.enable_grad():
            result = call(*leaves.values())
        results = result if isinstance(result, tuple | list) else [result]
        outputs = {
            "y" if len(results) == 1 else f"y{i}": r
            for i, r in enumerate(results)
            if isinstance(r, Tensor) and r.requires_grad
        }
        if not outputs:
            raise CheckError(
                f"{self.title} gives no output that needs a gradient; expected at least one tensor."
            )
        generator = torch.Generator().manual_seed(seed)
        upstream = {
            f"d{n}": torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype).to(r.device)
            for n, r in outputs.items()
        }
        return from_graph(leaves, {**leaves, **outputs}, outputs, upstream, lenient=True)

    def _compare_outputs(self, own: Trace, traced: Trace) -> None:
        for name, expected in traced.outputs.items():
            got = own.outputs.get(name)
            if got is None or got.shape != expected.shape:
                shape = None if got is None else tuple(got.shape)
                raise CheckError(
                    f"{self.title} gives an output of shape {shape}, its reference {tuple(expected.shape)}: "
                    "the forwards differ, so that there is no gradient to compare."
                )
            if not close(got.detach(), expected.detach(), float(expected.detach().abs().max())):
                worst = largest_difference(got.detach(), expected.detach())
                raise CheckError(
                    f"{self.title} and its reference give different outputs (by {worst:.3g}): "
                    "mend the forward first, or give the reference that is meant."
                )

    def gradients(self, values: Mapping[str, Any], upstream: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the function's own gradients for exactly these tensors, layouts included."""
        leaves = {
            k: v.detach().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in values.items()
        }
        with torch.enable_grad():
            result = self.call(*leaves.values())
        results = [result] if isinstance(result, Tensor) else [r for r in result if r.requires_grad]
        wanted = [v for v in leaves.values() if isinstance(v, Tensor) and v.requires_grad]
        found = torch.autograd.grad(results, wanted, list(upstream.values()), allow_unused=True)
        names = [k for k, v in leaves.items() if isinstance(v, Tensor) and v.requires_grad]
        return {f"d{k}": g.clone() for k, g in zip(names, found, strict=True) if g is not None}

    def stress(self, judgement: Judgement) -> list[Mistake]:
        """Return the failed stress checks."""
        traced = judgement.draw.trace
        given = {k: v.detach() if isinstance(v, Tensor) else v for k, v in traced.inputs.items()}
        upstream = traced.upstream

        def probe(values: Mapping[str, Any]) -> dict[str, Tensor]:
            inputs = {k: v for k, v in values.items() if k not in upstream}
            return self.gradients(inputs, {k: values[k] for k in upstream})

        return stress(probe, {**given, **upstream}, list(upstream))

    def precision(self, values: Mapping[str, Any], seed: int, wrong: set[str]) -> list[Mistake]:
        """Return right gradients whose error in the inputs' dtype is far above the reference's."""
        dtype = lowest(values)
        if dtype == torch.float64:
            return []
        try:
            own = self.trace(self.call, values, None, seed)
            plain = self.trace(self.reference, values, None, seed)
            right = self.trace(self.reference, values, torch.float64, seed)
        except Exception:  # told by the verdict
            return []
        found = []
        for name, expected in right.gradients.items():
            if name not in own.gradients or name in right.outputs or name in wrong:
                continue
            error = largest_difference(own.gradients[name], expected)
            floor = torch.finfo(dtype).eps * float(expected.abs().max())
            allowed = BUDGET * max(largest_difference(plain.gradients[name], expected), floor)
            if error > allowed and error < float("inf"):
                times = BUDGET * error / allowed
                message = (
                    f"d{name} is off by {error:.3g} in {dtype}: {times:.0f}x the error of the reference."
                )
                found.append(Mistake("dtype", message, HINTS["dtype"], {"multiple": times}))
        return found

    def row(self, name: str, judged: Sequence[Judgement]) -> Row:
        """Return the row of one input."""
        first = judged[0]
        tensor = first.draw.trace.tensors.get(name, first.draw.trace.inputs.get(name))
        user, expected = first.draw.user.get(name), first.draw.trace.gradients.get(name)
        facts = figures(first.draw, first.draw).get(name)
        wrong = [j for j in judged if name in j.culprits]
        verdict: Verdict = "vacuous" if expected is None or name in first.vacuous else "right"
        if wrong:
            verdict = "shape" if all(j.culprits[name].shape_only for j in wrong) else "wrong"
        return Row(
            name=name,
            gradient=f"d{name}",
            verdict=verdict,
            shape=tuple(tensor.shape) if isinstance(tensor, Tensor) else (),
            got=tuple(user.shape) if user is not None else None,
            dtype=str(user.dtype if user is not None else "").removeprefix("torch."),
            exact=facts and facts.exact,
            approximate=facts and facts.approximate,
            maxdiff=facts and facts.maxdiff,
            mistake=self._mistake(name, wrong) if wrong else None,
        )

    def _mistake(self, name: str, wrong: Sequence[Judgement]) -> Mistake:
        """Return the mistake, telling a loss of precision from a wrong formula."""
        found = name_mistake(self.chosen, name, wrong)
        culprit = wrong[0].culprits[name]
        if found.kind != "unexplained" or culprit.value is None:
            return found
        relative = largest_difference(culprit.value, culprit.expected) / float(culprit.expected.abs().max())
        if relative > COARSE:
            return found
        message = (
            f"d{name}: right to a relative {relative:.1g} only, as if part of it were computed coarsely."
        )
        return Mistake("dtype", message, HINTS["dtype"], {"relative": relative})
