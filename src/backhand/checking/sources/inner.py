"""What a layer or a function over NumPy calls that has a backward of its own: which of it is at fault."""

import inspect
from collections.abc import Callable, Collection, Container, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import numpy as np
from torch import Tensor

from backhand.checking.mistakes.finding import listed
from backhand.checking.report import Report
from backhand.checking.running.alarms import BRIEFLY, briefly
from backhand.checking.running.arrays import as_arrays, as_tensors
from backhand.checking.running.sandbox import Randomness
from backhand.checking.running.tracked import Tracked
from backhand.checking.sources.fusing import fused
from backhand.checking.sources.held import copied
from backhand.checking.sources.locating import Inner, with_lines_within
from backhand.checking.sources.numpy_truths import Called, Chosen, Differing, choose
from backhand.checking.sources.overnumpy import OverNumpy, Subject, agreeing, noting


@dataclass(frozen=True, eq=False)
class Part:
    """A forward with its backward that others may call.

    Attributes:
        name: what it is called.
        forward, backward: the user's; the same where one function gives its gradients with what it computes.
        put: puts two functions in their places, wherever these are.
        is_class: they are methods, whose first argument is a layer.
        subject: makes of a layer, if they are methods, and of inputs what is judged, and its inputs.
        judge: makes of the same a report.
    """

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    put: Callable[[Callable[..., Any], Callable[..., Any]], None]
    is_class: bool
    subject: Callable[[Any, Mapping[str, Any]], tuple[Subject, Mapping[str, Any]]]
    judge: Callable[..., Report]


@dataclass(frozen=True)
class Heard:
    """A call of a part.

    Attributes:
        layer: a copy of it before its forward; None if it is none.
        inputs, arguments: of the forward and of the backward, by name.
        random: where the random numbers stood before its forward: a mask is made of them.
        raised: the backward raised.
    """

    layer: Any
    inputs: Mapping[str, Any]
    random: Randomness
    arguments: Mapping[str, Any] = field(default_factory=dict)
    raised: bool = False


def reported(whole: OverNumpy, parts: Sequence[Part], *, draws: int, seed: int) -> Report:
    """Check something; what is wrong because of a part that it calls is told as that part's.

    Args:
        whole: what is checked.
        parts: what it may call.
        draws, seed: of the checks.
    """
    report = None
    if not parts or isinstance(whole.truth, Differing):  # which takes a call for each element, once more
        report = whole.report(draws=draws, seed=seed)
        if report.ok:
            return report
        if not parts:
            return _saying_if_fused(report, whole, seed)
    wrong, explains = _at_fault(whole, parts, seed)
    if report is None:
        # what can be said of it is said of them, all of it or most
        with briefly(0.0 if explains else BRIEFLY) if wrong else nullcontext():
            report = whole.report(draws=draws, seed=seed)
    if report.ok:
        return report
    if not wrong:
        report = _saying_if_fused(report, whole, seed)
        return _handed_on(report, getattr(whole.subject, "on_layers", frozenset()))
    spoilt = [row.name for row in report.culprits]
    if not explains:
        names = sorted(part.name for part in wrong)
        are = "are wrong themselves: mend them" if len(names) > 1 else "is wrong itself: mend it"
        report = noting(report, f"{report.title} calls {listed(names)}, which {are} first.")
        with with_true([*wrong]):
            left = whole.wrong(seed)
        spoilt = [name for name in spoilt if name not in left]
        if not spoilt:
            return report
    found = []
    for part, heard in wrong.items():
        its = part.judge(heard.layer, heard.inputs, draws=draws, seed=seed, given=heard.arguments)
        place = f"{part.name}'s {part.backward.__name__}" if part.is_class else part.name
        found.append(Inner(place, {row.name: spoilt for row in its.rows}, its))
    return with_lines_within(report, found)


def _saying_if_fused(report: Report, whole: OverNumpy, seed: int) -> Report:
    told = fused(whole, seed)
    return noting(report, told) if told else report


@contextmanager
def with_true(parts: Sequence[Part]) -> Iterator[None]:
    """Let parts that are wrong give the true gradients of their forwards within a block."""
    with _Mending(parts).on():
        yield


def _handed_on(report: Report, names: Collection[str]) -> Report:
    """Return a report in which gradients on layers that are right follow what these were handed.

    But for those of which a line of its own is told, and by which mistake.
    """
    others = [row for row in report.culprits if row.gradient not in names]
    told = {line for row in others for line in row.lines[:1]}
    own = {
        row.gradient
        for row in report.culprits
        if row.mistake is not None and row.mistake.kind != "unexplained" and told.isdisjoint(row.lines[:1])
    }
    follow = {row.gradient for row in report.culprits}.intersection(names) - own if others else ()
    rows = (replace(r, verdict="follows", mistake=None) if r.gradient in follow else r for r in report.rows)
    return replace(report, rows=tuple(rows))


def _at_fault(whole: OverNumpy, parts: Sequence[Part], seed: int) -> tuple[dict[Part, Heard], bool]:
    """Return which parts of something wrong are wrong themselves, and whether they are all that is."""

    def with_truth(some: Sequence[Part]) -> tuple[dict[Part, Heard], bool]:
        mending = _Mending(some)
        with mending.on():
            return mending.wrong, whole.is_right(seed)

    if whole.is_right(seed):
        return {}, False
    wrong, is_right = with_truth(parts)
    if any(heard.raised for heard in wrong.values()):
        return wrong, True
    # a layer that takes the mean over the batch is wrong alone, and right beside a loss that takes the sum
    for part in wrong if len(wrong) > 1 else ():
        alone, is_enough = with_truth([part])
        if is_enough:
            return alone, True
    return wrong, is_right


class _Mending:
    """Lets parts have the true gradients of their forwards, and notes a call of each whose own are wrong."""

    def __init__(self, parts: Sequence[Part]):
        self.wrong: dict[Part, Heard] = {}
        # the calls of each, by the marks of what the backward may be given of them, which is kept: nothing
        # else has its marks
        self._calls: dict[Part, list[tuple[set[Hashable], Any, Heard]]] = {part: [] for part in parts}
        self._chosen: dict[int, tuple[Subject, Chosen]] = {}
        self._parts = {part: (self._hearing(part), self._with_truth(part)) for part in parts}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Do it within a block."""
        self._on()
        try:
            yield
        finally:
            self._off()

    def _on(self) -> None:
        for part, functions in self._parts.items():
            part.put(*functions)

    def _off(self) -> None:
        for part in self._parts:
            part.put(part.forward, part.backward)

    def _hearing(self, part: Part) -> Callable[..., Any]:
        if part.forward is part.backward:
            return self._with_truth(part)

        @wraps(part.forward)
        def heard(*args: Any, **options: Any) -> Any:
            call = _heard(part, args, options)
            found = part.forward(*args, **options)
            if call is not None:
                kept = args[:1] if part.is_class else (found, args, options)
                self._calls[part].append((_marks(kept), kept, call))
            return found

        return heard

    def _with_truth(self, part: Part) -> Callable[..., Any]:
        @wraps(part.backward)
        def mended(*args: Any, **options: Any) -> Any:
            if part.forward is part.backward:
                call = _heard(part, args, options)
            else:
                call = self._call_of(part, args[:1] if part.is_class else (*args, *options.values()))
                if call is not None:
                    call = replace(call, arguments=copied(_by_name(part.backward, args, options)))
            if call is None:
                return part.backward(*args, **options)
            raised: Exception | None = None
            try:
                found = part.backward(*args, **options)
            except Exception as error:  # the user's code may raise anything
                self.wrong[part] = replace(call, raised=True)
                if isinstance(error, NameError | ImportError):  # what is not there may be no mistake
                    raise
                raised, found = error, ...
            self._off()  # what is called to find the truth is not heard
            try:
                is_right, found = self._mended(part, call, args[0] if part.is_class else None, found)
            except Exception:  # the same, where it is called alone
                if raised is not None:
                    raise raised from None
                is_right = True
            finally:
                self._on()
            if not is_right:
                self.wrong.setdefault(part, call)
            return found

        return mended

    def _call_of(self, part: Part, given: Sequence[Any]) -> Heard | None:
        """Return the call of a part's forward that a backward belongs to, by what the backward is given.

        That is what the forward gave or was given, in whatever row, but for one upstream gradient.
        """
        values = [value for value in given if _marks(value)]
        for marks, _, call in reversed(self._calls[part]):
            here = [_is_among(value, marks) for value in values]
            if any(here) and here.count(False) <= 1:
                return call
        return None

    def _mended(self, part: Part, call: Heard, layer: Any, found: Any) -> tuple[bool, Any]:
        """Return whether what a backward has found is right, and the true gradients in the place of its own.

        Args:
            part, call: whose it is, and of what.
            layer: after it; the gradients on it are mended.
            found: what it returned; `...` if it raised.
        """
        with call.random.again():
            subject, inputs = part.subject(call.layer, call.inputs)
            if id(subject) not in self._chosen:
                self._chosen[id(subject)] = subject, choose(subject, inputs, tuple(subject.named.values()), 0)
        given = {f"d{o}": call.arguments[p] for o, p in subject.arrives.items() if p in call.arguments}
        with call.random.again():
            expected = OverNumpy(subject, inputs, self._chosen[id(subject)][1]).true(given)
        right = {g: expected.get(n, np.zeros(np.shape(inputs[n]))) for g, n in subject.named.items()}
        called = Called((), (layer, inputs, []))
        if found is not ...:
            made = as_arrays(dict(subject.gradients(found, called)))
            if all(agreeing(made, right)):
                return True, found
            if self._chosen[id(subject)][1].at_kink and self._is_right_off_it(subject, inputs):
                return True, found
        return False, subject.mended(found, called, as_tensors(right) if subject.over_torch else right)

    def _is_right_off_it(self, subject: Subject, inputs: Mapping[str, Any]) -> bool:
        """Tell whether a part is right off a kink: at a tie of max it may choose as it likes."""
        with Randomness.now().again():
            return OverNumpy.of(subject, inputs, 0).is_right(0)


def _marks(value: Any) -> set[Hashable]:
    """Return what tells a value from others, and all that it holds; numbers and words are like others.

    Of an array it is where its numbers lie: `x[:, t]` is another one each time.
    """
    if isinstance(value, np.ndarray):
        return {(value.__array_interface__["data"][0], value.shape, value.strides)}
    if isinstance(value, dict | list | tuple):
        held = value.values() if isinstance(value, dict) else value
        return {id(value)}.union(*map(_marks, held))
    is_like_others = value is None or isinstance(value, str | int | float | np.generic)
    return set() if is_like_others else {id(value)}


def _is_among(value: Any, marks: Container[Hashable]) -> bool:
    """Tell whether a value, or all that it holds, has its marks among these."""
    held = _marks(value)
    own = {id(value)} if isinstance(value, dict | list | tuple) else set()
    rest = held - own
    return id(value) in marks or (bool(rest) and all(mark in marks for mark in rest))


def _heard(part: Part, args: Sequence[Any], options: Mapping[str, Any]) -> Heard | None:
    """Return a call of a part's forward, with copies of its arguments; None of one that autograd follows."""
    given = _by_name(part.forward, args, options)
    layer = given.pop(next(iter(given))) if part.is_class else None
    if any(isinstance(v, Tracked) or (isinstance(v, Tensor) and v.requires_grad) for v in given.values()):
        return None
    return Heard(copied(layer), copied(given), Randomness.now())


def _by_name(function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    return dict(inspect.signature(function).bind(*args, **options).arguments)
