"""Whatever computes over NumPy, as a pass: its forward gives the truth, its backward runs in NumPy itself."""

import ast
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from traceback import walk_tb
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from backhand.checking.judging import check_pass
from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report
from backhand.checking.running.alarms import time_left
from backhand.checking.running.arrays import OnArrays, as_arrays, as_tensors
from backhand.checking.running.endings import what_raised
from backhand.checking.running.instrumenting import Run, Watcher, run_function, surroundings
from backhand.checking.running.precision import Asked
from backhand.checking.running.private import differentiated
from backhand.checking.running.program import Namespace, Source, plain_function, source_of
from backhand.checking.running.sandbox import Randomness, sandbox, threads_for
from backhand.checking.running.trials import StatementError
from backhand.checking.sources.averaging import Averaged, averaged, supposed
from backhand.checking.sources.clipping import Clips, may_clip
from backhand.checking.sources.courses import word
from backhand.checking.sources.locating import as_written
from backhand.checking.sources.numpy_truths import (
    Called,
    Chosen,
    Forward,
    Truth,
    choose,
    in_float64,
    numpy_itself,
    plainly,
    run_plainly,
    without_epsilons,
)
from backhand.checking.sources.protocol import ForwardError, Pass
from backhand.checking.sources.returned import names_returned, tensor_named
from backhand.checking.sources.roles import judging
from backhand.checking.verdicts.comparing import close, largest_difference
from backhand.errors import CheckError

IN_FLOAT32 = "The forward computes in float32 somewhere, so the verdict was made in float32."
IN_FLOAT64 = "Where the code asks for float32 it was given float64: it is wrong in both."
# What gradients agree to where it is only told whose they are: the 1e-7 within a logarithm, whose derivative
# is left out, changes the fourth digit; in float32 a sum over a few hundred numbers has no more.
CLOSE = 1e-3
# Beside the largest gradient of a layer no other one that is so small is more than rounding: the bias of the
# keys before a softmax has the gradient zero, and is given as 1e-16.
ROUNDING = 1e-12
# A part of how far they were, if they are nearer.
NEARER = 0.5
# So many sets of inputs are tried for one on which every gradient is something: units may be dead on one.
FEW = 3
AT_KINK = "The inputs lay at a kink (relu at 0, a tie of max): they were moved off it."


class Subject(Forward, Protocol):
    """Something over NumPy that has a forward and a backward."""

    def backward(
        self, called: Called, upstream: Mapping[str, Any]
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the user's backward, and its arguments by name."""
        ...

    def gradients(self, returned: Any, called: Called) -> Mapping[str, Any]:
        """Return the gradients by name, after the backward."""
        ...

    def mended(self, returned: Any, called: Called, gradients: Mapping[str, Any]) -> Any:
        """Return what the backward returned with other gradients, and put them wherever else its own are."""
        ...

    @property
    def named(self) -> Mapping[str, str]:
        """Which input each of these gradients belongs to."""
        ...

    @property
    def arrives(self) -> Mapping[str, str]:
        """By which parameter of the backward the upstream gradient of each output arrives."""
        ...

    @property
    def source(self) -> Source | None:
        """The backward's statements, at whose end they are returned by name."""
        ...

    @property
    def unjudged(self) -> tuple[str, ...]:
        """What else the output depends on, without a gradient anywhere."""
        ...

    def within(self, called: Called) -> AbstractContextManager[None]:
        """Let the backward see what it finds outside of its arguments."""
        ...

    def seen(self, called: Called) -> Mapping[str, Any]:
        """Return what its source takes besides the backward's arguments."""
        ...


@dataclass(frozen=True)
class Held:
    """An input that is no tensor of the pass: kept as it is, copied at each call."""

    value: Any


Draw = Callable[[np.random.Generator], Mapping[str, Any]]
Tensors = dict[str, Tensor]
# Of random upstream gradients, and the outputs, those for the truth and those for the user's backward.
Arriving = Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]


@dataclass(frozen=True)
class OverNumpy:
    """A subject as a pass, which also runs it for those who watch.

    Attributes:
        subject: what is checked.
        inputs: one set of inputs by name, or a function that draws them.
        chosen: where the truth comes from.
        averaged: which gradients are those of a mean over the batch, if the layers take it.
        arriving: upstream gradients that are given for the first draw.
        clips: what the backward clips, where that is left out.
        alone: of the upstream gradient one element alone is not zero, as of a cross entropy's.
    """

    subject: Subject
    inputs: Mapping[str, Any] | Draw
    chosen: Chosen
    averaged: Averaged | None = None
    arriving: Mapping[str, Any] = field(default_factory=dict)
    clips: Clips | None = None
    alone: bool = False

    @property
    def over_numpy(self) -> bool:
        """Whether the statements see arrays; otherwise they see tensors."""
        return not self.subject.over_torch

    @staticmethod
    def of(
        subject: Subject,
        inputs: Mapping[str, Any] | Draw,
        seed: int,
        arriving: Mapping[str, Any] | None = None,
    ) -> "OverNumpy":
        """Choose the truth, on one set of inputs; those that lie at a kink are moved off it."""
        first = drawn(inputs, seed)
        wanted = tuple(subject.named.values())
        if subject.outputs == ("loss",):
            _refuse_unless_alone(subject, first, wanted, seed)
        chosen = choose(subject, first, wanted, seed)
        if chosen.at_kink and not callable(inputs):
            rng = np.random.default_rng(seed)
            inputs = {k: moved(v, rng) if k in wanted else v for k, v in inputs.items()}
            chosen = replace(choose(subject, inputs, wanted, seed), at_kink=True)
        return OverNumpy(subject, inputs, chosen, arriving=arriving or {})

    def report(self, *, draws: int, seed: int) -> Report:
        """Check it; what is wrong is looked at once more as other conventions have it.

        Those are a mean over the batch that the layers take, an upstream gradient of one element, and
        derivatives without the forward's tiny constants. Clipped gradients are judged as they are before
        that, unless they are right after it.
        """
        if may_clip(self.subject.functions()[-1:]) and self.clips is None:
            clips = Clips()
            report = replace(self, clips=clips).report(draws=draws, seed=seed)
            if not clips.bounds:
                return report
            clipped = report if report.ok or clips.in_place else self._report(draws, seed)
            return clipped if clipped is not report and clipped.ok else noting(report, clips.note)
        report = self._report(draws, seed)
        if report.ok:
            return report
        if self.chosen.in_float32 and (finer := self._in_float64(draws, seed)) is not None:
            return finer
        if (taken := self._averaged(seed)) is not None:
            if taken.whole:
                return taken.with_both(report)
            return replace(self, averaged=taken)._report(draws, seed)
        if (fewer := self._supposed(report, draws, seed)) is not None:
            return fewer
        if _compares_with_zero(self.subject.source) and self.subject.arrives:
            sparse = replace(self, alone=True)._report(draws, seed)
            if sparse.ok:
                asked = listed(list(self.subject.arrives.values()))
                return noting(
                    sparse, f"Right where one element alone of {asked} is not zero, and only there."
                )
        before = self._beside_truth(seed)
        with without_epsilons(self.subject.functions()) as epsilons:
            if not epsilons:
                return report
            again = replace(OverNumpy.of(self.subject, self.inputs, seed, self.arriving), clips=self.clips)
            if again._is_the_same(before, seed):
                return report
            other = again._report(draws, seed)
        if not other.ok:  # beside such a constant no slip is predicted to the last digit
            note = f"Judged without {listed(epsilons)} in the forward: it is tiny."
            better = _kinds(other) != _kinds(report) and _told_worse(other) <= _told_worse(report)
            return noting(other, note) if better else report
        note = f"Right but for {listed(epsilons)} in the forward, whose derivative is left out: it is tiny."
        return noting(other, note)

    def _in_float64(self, draws: int, seed: int) -> Report | None:
        """Return the report on code that gets float64 where it asks for float32, if it is wrong there too.

        A line is told from others by more digits than those of float32.
        """
        with in_float64(self.subject.functions()):
            try:
                again = OverNumpy.of(self.subject, self.inputs, seed, self.arriving)
                again = replace(again, clips=self.clips)
                found = None if again.chosen.in_float32 else again.report(draws=draws, seed=seed)
            except (CheckError, ForwardError):  # a string that is no dtype
                return None
        if found is None or found.ok or found.raised is not None:  # a key "f" may be another one by now
            return None
        return noting(found, IN_FLOAT64)

    def _report(self, draws: int, seed: int) -> Report:
        arriving = as_arrays(dict(self.arriving))
        given = {seed: as_tensors({k: np.asarray(v, np.float64) for k, v in arriving.items()})}
        if self.alone:
            given = {s: self._of_one_element(s) for s in range(seed, seed + draws)}
        chosen = replace(self.as_pass(), arriving=given)
        report = check_pass(chosen, self.subject.title, draws=draws, seed=seed, stress=False)
        report = as_written(report, chosen)
        notes = [IN_FLOAT32] * self.chosen.in_float32
        notes += [AT_KINK] * (self.chosen.at_kink and not callable(self.inputs))
        if self.averaged is not None:
            divided = [g for g, n in self.subject.named.items() if n in self.averaged.parameters]
            notes.append(self.averaged.note(divided))
        return replace(report, truth=self.truth.told, notes=(*report.notes, *notes, *self._unjudged()))

    def _of_one_element(self, seed: int) -> dict[str, Tensor]:
        """Return upstream gradients with one element each that is not zero."""
        rng, found = np.random.default_rng(seed), {}
        outputs = run_plainly(self.subject, drawn(self.inputs, seed), seed)
        for name, output in zip(self.subject.outputs, outputs, strict=True):
            upstream = np.zeros(output.shape)
            upstream.flat[rng.integers(output.size)] = rng.normal()
            found[f"d{name}"] = torch.from_numpy(upstream)
        return found

    def _averaged(self, seed: int) -> Averaged | None:
        """Return which gradients are divided by the size of the batch, on inputs where none is zero."""
        if self.subject.outputs == ("loss",):  # a whole model: there is nobody else to divide
            return None
        try:
            sets = (self.compared(s) for s in range(seed, seed + FEW))
            found = next((each for each in sets if all(g.any() for g in each[1].values())), None)
        except StatementError:
            return None
        return averaged(self._floats(seed), *(found or self.compared(seed)))

    def _supposed(self, report: Report, draws: int, seed: int) -> Report | None:
        """Return the report on gradients that are divided by the batch, if fewer are at fault then.

        One alone, where that of the data is right: a number by which the others are divided.
        """
        wrong = [row.name for row in report.rows if row.verdict in ("wrong", "follows", "shape")]
        if len(report.culprits) < 2 or report.raised is not None or self.subject.outputs == ("loss",):
            return None
        if time_left() <= 0:  # it is one more check of all
            return None
        outputs, expected, _ = self.compared(seed)
        taken = supposed(self._floats(seed), outputs, expected, wrong)
        if taken is None:
            return None
        other = replace(self, averaged=taken)._report(draws, seed)
        is_one = len(other.culprits) == 1 or taken.data in wrong
        return other if is_one and len(other.culprits) < len(report.culprits) else None

    def _floats(self, seed: int) -> dict[str, Any]:
        return {n: v for n, v in drawn(self.inputs, seed).items() if is_float(v)}

    def _beside_truth(self, seed: int) -> dict[str, tuple[Tensor, float]]:
        """Return the true gradients on one set of inputs, each with how far the user's is from it."""
        try:
            _, expected, given = self.compared(seed)
        except StatementError:
            return {}
        fitting = {n: g for n, g in given.items() if n in expected and np.shape(g) == expected[n].shape}
        return {n: (expected[n], largest_difference(g, expected[n])) for n, g in fitting.items()}

    def _is_the_same(self, other: Mapping[str, tuple[Tensor, float]], seed: int) -> bool:
        """Tell whether this truth is another one up to its digits, and the user's gradients no nearer.

        Of a backward that raises nobody knows.
        """
        own = self._beside_truth(seed)
        return (
            bool(own)
            and own.keys() == other.keys()
            and all(
                close(truth, other[n][0]) and far > NEARER * other[n][1] for n, (truth, far) in own.items()
            )
        )

    def right(self, seed: int) -> int:
        """Return how many gradients are right, on one set of inputs."""
        return sum(self._agreeing(seed))

    def is_right(self, seed: int) -> bool:
        """Tell whether all are that the forward has, on one set of inputs."""
        agreeing = self._agreeing(seed)
        return bool(agreeing) and all(agreeing)

    def wrong(self, seed: int) -> frozenset[str]:
        """Return whose gradients are wrong, on one set of inputs; all where the backward raises."""
        try:
            _, expected, given = self.compared(seed)
        except StatementError:
            return frozenset(self.subject.named.values())
        right = agreeing(given, as_arrays(expected))
        return frozenset(n for n, is_right in zip(expected, right, strict=True) if not is_right)

    def _agreeing(self, seed: int) -> list[bool]:
        """Return of each true gradient whether the user's is that; of a backward that raises none."""
        try:
            _, expected, given = self.compared(seed)
        except StatementError:
            return []
        return agreeing(given, as_arrays(expected))

    def compared(
        self, seed: int, arriving: Arriving = lambda upstream, _: (upstream, upstream)
    ) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Any]]:
        """Return the outputs on one set of inputs, and for each input the true gradient and the user's.

        Args:
            seed: of the inputs, and of the upstream gradients.
            arriving: gives of these and of the outputs those for the truth, and those for the user.
        """
        leaves = self._tensors(drawn(self.inputs, seed))
        with Randomness.now().again():  # the two draw the same masks
            outputs = self.forward(leaves, None)
        rng = np.random.default_rng(seed)
        upstream = {
            f"d{n}": torch.from_numpy(np.asarray(rng.normal(size=out.shape))).to(out.dtype)
            for n, out in outputs.items()
        }
        if self.subject.outputs == ("loss",):
            upstream = {n: torch.ones_like(out) for n, out in upstream.items()}
        true, own = arriving(upstream, {n: out.detach() for n, out in outputs.items()})
        expected = self._expected(leaves, outputs, true)
        given = self._backward(leaves, outputs, own)
        named = self.subject.named
        return list(outputs.values()), expected, {named[g]: value for g, value in given.items()}

    def _expected(
        self, leaves: Mapping[str, Any], outputs: Mapping[str, Tensor], upstream: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the true gradient for each input."""
        wanted = {n: leaves[n] for n in leaves if n in self.subject.named.values()}
        found = differentiated(outputs.values(), upstream.values(), wanted.values())
        return {n: g for n, g in zip(wanted, found, strict=True) if g is not None}

    def true(self, upstream: Mapping[str, Any]) -> dict[str, Any]:
        """Return the true gradient for each of its one set of inputs, given the outputs' upstream gradients.

        That of a loss may be left out: it is 1. One number is that of each element: `dh, dc = 0, 0`.
        """
        leaves = self._tensors(drawn(self.inputs, 0))
        outputs = self.forward(leaves, None)
        given = {f"d{n}": 1.0 for n, out in outputs.items() if out.numel() == 1} | dict(upstream)
        arriving = {}
        for name, out in outputs.items():
            one = torch.as_tensor(np.asarray(given[f"d{name}"])).to(out.dtype)
            arriving[f"d{name}"] = one.reshape(out.shape) if one.ndim else one.expand(out.shape)
        return as_arrays(self._expected(leaves, outputs, arriving))

    def _unjudged(self) -> list[str]:
        given = drawn(self.inputs, 0)
        floats = [n for n, v in given.items() if is_float(v)]
        left = [n for n in floats if n not in self.subject.named.values() and word(n) != "y"]
        own = self.subject.unjudged
        returned = names_returned(self.subject.functions()[-1])
        whole = [
            (g, n) for g in filter(None, returned) for n in tensor_named(g) if n in given.keys() - {*floats}
        ]
        notes = [f"not judged, for no gradient of it is returned: {', '.join(left)}"] if left else []
        notes += [f"not judged, for no gradient of it is found: {', '.join(own)}"] if own else []
        return notes + [f"not judged, for {n} holds whole numbers: {g}" for g, n in whole]

    @property
    def truth(self) -> Truth:
        """Where the right gradients come from."""
        return self.chosen.truth

    def as_pass(self) -> Pass:
        """Return the pass."""
        source = self.subject.source
        outputs = self.subject.outputs
        functions = self.subject.functions()
        return Pass(
            forward=self._forward,
            backward=self._backward,
            inputs=(lambda g: self._tensors(drawn(self.inputs, _seed_from(g))))
            if callable(self.inputs)
            else self._tensors(self.inputs),
            out=() if outputs == ("loss",) else outputs,
            names={**self.subject.named, **self.subject.arrives},
            wanted=None,
            optional=frozenset(),
            forward_source=source_of(functions[0]),
            backward_source=source,
            contract="returned",
            promotes=self.subject.over_torch,
            runner=self if source is not None else None,
            slack=self.truth.slack,
            asked=Asked(dtype=torch.float32 if self.chosen.in_float32 else None),
        )

    def _tensors(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return inputs as the pass has them: tensors that need a gradient, and what is held."""
        dtype = torch.float32 if self.chosen.in_float32 else torch.float64
        wanted = set(self.subject.named.values())
        return {
            k: torch.tensor(np.asarray(v), dtype=dtype, requires_grad=True) if k in wanted else Held(v)
            for k, v in inputs.items()
        }

    def _forward(self, /, **leaves: Any) -> dict[str, Tensor]:
        return self.forward(leaves, None)

    def forward(self, leaves: Mapping[str, Any], watcher: Watcher | None) -> dict[str, Tensor]:
        """Return the true outputs by name, with autograd's graph."""
        inputs = {k: v.value if isinstance(v, Held) else v for k, v in leaves.items()}
        inputs = self.averaged.applied(inputs) if self.averaged is not None else inputs
        found = self.truth(inputs, plainly if watcher is None else _watched(watcher))
        if self.subject.outputs == ("loss",):  # without an upstream gradient each element's is one
            found = tuple(out.sum() if out.ndim else out for out in found)
        return dict(zip(self.subject.outputs, found, strict=True))

    def _called(self, inputs: Mapping[str, Any]) -> Called:
        """Run the user's forward in NumPy; one over torch may keep a graph of its own for its backward."""
        arrays = {k: v.value if isinstance(v, Held) else as_arrays(v) for k, v in inputs.items()}
        functions = self.subject.functions()
        again = functions[0] == functions[-1]  # it is called once more for its gradients, on the same draws
        with Randomness.now().again() if again else nullcontext(), torch.enable_grad():
            return self.subject.forward(copy.deepcopy(arrays))

    def _backward(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Tensor], upstream: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        called = self._called(inputs)
        function, arguments = self.subject.backward(called, as_arrays(dict(upstream)))
        try:
            with self._within(called):
                returned = plainly(function, arguments)
        except Exception as error:  # the user's code may raise anything
            _refuse_what_is_not_there(self.subject.title, function, error)
            raise self._halfway(function, error) from error
        return self._precisely(as_tensors(dict(self.subject.gradients(returned, called))))

    def _within(self, called: Called) -> ExitStack:
        """Let the backward see what it finds outside of its arguments; its gradients are not clipped."""
        stack = ExitStack()
        stack.enter_context(self.subject.within(called))
        if self.clips is not None:
            stack.enter_context(self.clips.left_out())
        return stack

    def _precisely(self, gradients: dict[str, Any]) -> dict[str, Any]:
        """Return gradients in no more than the precision in which they were made."""
        if not self.chosen.in_float32:
            return gradients
        return {n: g.float() if isinstance(g, Tensor) else g for n, g in gradients.items()}

    def _halfway(self, function: Callable[..., Any], error: Exception) -> StatementError:
        """Return an exception with what the backward had assigned until then, and its line."""
        code, source = plain_function(function)[0].__code__, self.subject.source
        found = StatementError.of(error, code, source)
        given = found.namespace if found is not None and source is not None else {}
        its = as_tensors({n: given[n] for n in self.subject.named if n in given})
        return StatementError(error, its, code.co_firstlineno if found is None else found.line)

    def backward(self, given: Mapping[str, Any], watcher: Watcher) -> Run:
        """Run the user's backward with its statements seen."""
        called = self._called(given["inputs"])
        function, arguments = self.subject.backward(called, as_arrays(dict(given["upstream"])))
        source = self.subject.source
        assert source is not None
        arguments |= self.subject.seen(called)
        with self._within(called):
            run = run_function(function, source, arguments, OnArrays(watcher) if self.over_numpy else watcher)
        run.result = as_tensors(run.result)
        return run

    def hold(self, inputs: Mapping[str, Any]) -> None:
        """Nothing: what lies on an object is an input."""

    def around(self) -> Namespace:
        """Return what the backward's statements see besides their own variables."""
        return surroundings(self.subject.functions()[-1])


def _compares_with_zero(source: Source | None) -> bool:
    """Tell whether a backward asks for elements that are zero, to pass them over."""
    nodes = [n for s in (source.statements if source is not None else ()) for n in ast.walk(s)]
    equal = [n for n in nodes if isinstance(n, ast.Compare) and isinstance(n.ops[0], ast.Eq | ast.NotEq)]
    return any(isinstance(c, ast.Constant) and c.value == 0 for n in equal for c in n.comparators)


def _told_worse(report: Report) -> tuple[int, int]:
    """Return how many gradients are at fault, and how many of these for no reason that is known."""
    return len(report.culprits), _kinds(report).count("unexplained")


def _kinds(report: Report) -> list[str]:
    return [row.mistake.kind for row in report.culprits if row.mistake is not None]


def noting(report: Report, *notes: str) -> Report:
    """Return a report with more notes."""
    return replace(report, notes=(*report.notes, *notes))


def _refuse_unless_alone(
    subject: Subject, inputs: Mapping[str, Any], wanted: Sequence[str], seed: int
) -> None:
    """Raise where a backward takes no upstream gradient, though an output's element needs several inputs'.

    A loss is a single number. What an activation gives for each element has a derivative for each.
    """
    (output,) = run_plainly(subject, inputs, seed)
    if output.size == 1:
        return
    rng = np.random.default_rng(seed)
    for name in wanted:
        value = np.asarray(inputs[name], np.float64)
        one = rng.integers(value.size) if value.size else 0
        other = value.copy()
        other.flat[one] = moved(value, rng).flat[one]
        (after,) = run_plainly(subject, {**inputs, name: other}, seed)
        rest = np.arange(output.size) != one
        if output.shape != value.shape or not np.array_equal(output.flat[rest], after.flat[rest]):
            raise CheckError(
                f"{subject.title} takes no upstream gradient, but its forward gives an array of shape "
                f"{output.shape}: only a loss, or a derivative element by element, can be judged so."
            )


def _refuse_what_is_not_there(title: str, function: Callable[..., Any], error: Exception) -> None:
    """Raise where another file lacks something, such as a compiled extension: that is no mistake here."""
    frames = [f.f_code.co_filename for f, _ in walk_tb(error.__traceback__)]
    elsewhere = frames[-1] != plain_function(function)[0].__code__.co_filename
    if elsewhere and isinstance(error, NameError | ImportError):
        raise CheckError(f"{title} {what_raised(error)}.") from error


def _watched(watcher: Watcher) -> Callable[..., Any]:
    def call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        source = source_of(function)
        if source is None:
            return plainly(function, arguments)
        return run_function(function, source, arguments, watcher).result

    return call


@contextmanager
def judged_over_numpy(inputs: Mapping[str, Any] | Draw, seed: int) -> Iterator[dict[str, Any]]:
    """Do a whole check within this, in the sandbox and with NumPy as installed; give a set of inputs."""
    with sandbox(), judging(), numpy_itself():
        first = drawn(inputs, seed)
        with threads_for(as_tensors(first)):
            yield first


def agreeing(found: Mapping[str, Any], expected: Mapping[str, np.ndarray]) -> list[bool]:
    """Tell of each gradient whether it is what is expected, but for its last digits.

    One that is zero but for rounding has no digits that are right.
    """
    largest = max((float(np.abs(e).max(initial=0.0)) for e in expected.values()), default=0.0)
    return [_agrees(found.get(name), e, ROUNDING * largest) for name, e in expected.items()]


def _agrees(found: Any, expected: np.ndarray, rounding: float) -> bool:
    is_one = isinstance(found, np.ndarray | np.generic | Tensor) and np.shape(found) == expected.shape
    size = float(np.abs(expected).max(initial=0.0))
    return is_one and np.allclose(as_arrays(found), expected, CLOSE, max(CLOSE * size, rounding))


def drawn(inputs: Mapping[str, Any] | Draw, seed: int) -> dict[str, Any]:
    """Return one set of inputs."""
    return dict(inputs(np.random.default_rng(seed)) if callable(inputs) else inputs)


def _seed_from(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def is_float(value: Any) -> bool:
    """Tell whether an input is an array, or a tensor, that may have a gradient."""
    if isinstance(value, Tensor):
        return value.is_floating_point()
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def moved(value: Any, rng: np.random.Generator) -> Any:
    """Return an array moved a little, by a tenth of its size: off a kink, and not near it."""
    size = float(np.abs(value).max(initial=0.0)) or 1.0
    return value + 0.1 * size * rng.uniform(-1, 1, size=value.shape)
