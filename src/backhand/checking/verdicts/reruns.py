"""The backward run again with something else in the place of what a statement gives: what becomes of it?"""

import ast
import contextlib
import functools
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from backhand.checking.running.complexes import is_differentiable
from backhand.checking.running.instrumenting import Run, Watcher
from backhand.checking.running.names import root
from backhand.checking.running.program import Source
from backhand.checking.running.statements import counters, running_variables
from backhand.checking.running.trials import Draw
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import close
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.recognising import Recogniser
from backhand.checking.verdicts.repairing import Repair, Repairer, Replace, at_return, variables_of, watched
from backhand.checking.verdicts.shadowing import Adding, Before, Give, Log, Putting, Target, as_tensor

# What is no larger is zero but for the rounding of ones: to make it a little larger would show nothing.
NOTHING = 1e-12
IsRight = Callable[[str, Tensor | None], bool]
_Run = TypeVar("_Run", bound=Callable[..., Any])


class StillWrong(BaseException):
    """Leaves a run that has shown enough; not an `Exception`, which the user's code may catch."""


@dataclass(frozen=True)
class Put:
    """What is put in the place of a statement's values, turn by turn; two are one if their tensors are.

    Attributes:
        values: None where its own value is left, as in all turns that follow.
        signs: their shapes and signatures.
    """

    values: tuple[Tensor | None, ...] = field(compare=False)
    signs: tuple[tuple[torch.Size, float] | None, ...]

    def __call__(self, turn: int, value: Any) -> Any:
        """Return what is put there in a turn; in the place of a leaf, whose gradient is read, another one."""
        belongs = self.values[turn] if turn < len(self.values) else None
        if belongs is None:
            return value
        is_leaf = isinstance(value, Tensor) and value.is_leaf and value.requires_grad
        return belongs.clone().requires_grad_(is_leaf)


def _once(run: _Run) -> _Run:
    """Let a run be made once for all who ask the same: what is known often comes under several names."""

    @functools.wraps(run)
    def known(runs: "Reruns", puts: Mapping[Target, Put], *asked: Any) -> Any:
        key = run, frozenset(puts.items()), *asked
        if key not in runs.known:
            runs.known[key] = run(runs, puts, *asked)
        return runs.known[key]

    return cast(_Run, known)


class Reruns:
    """The runs of one backward on one draw, each with the gradients mended as they are made.

    Args:
        chosen, draw: the backward, which has a source, and what it is run on.
        is_right: tells whether a value is the right one of a tensor.
        lives: recorded of the backward.
        repair: the run in which nothing else was put anywhere.
        recogniser: tells which tensors are known.
        vacuous: the tensors whose right gradient is zero, which is right with many a wrong line.
    """

    def __init__(
        self,
        chosen: Pass,
        draw: Draw,
        is_right: IsRight,
        lives: Lives,
        repair: Repair,
        recogniser: Recogniser,
        vacuous: Container[str],
    ):
        self.chosen: Pass = chosen
        self.draw: Draw = draw
        self.is_right: IsRight = is_right
        self.lives: Lives = lives
        self.repair: Repair = repair
        self.vacuous: Container[str] = vacuous
        self._recogniser = recogniser
        self._variables = variables_of(chosen, draw)
        assert chosen.backward_source is not None
        self.source: Source = chosen.backward_source
        self._carried = running_variables(self.source.statements)
        self._counters = counters(self.source.statements)
        self._judged: dict[str, tuple[Tensor | None, bool]] = {}  # the first value of each gradient
        self.known: dict[Any, Any] = {}  # what the runs have shown, by what was asked

    def variable_of(self, name: str) -> str:
        """Return the variable in which a tensor's gradient lies; empty where none does."""
        return root(self._variables.path.get(name, ""))

    def mended(self, name: str, value: Tensor | None) -> Tensor | None:
        """Return what is handed on in the place of a value: the right one, where it is wrong.

        Most are what they were in the run before, to the bit: these have been judged.
        """
        seen = self._judged.get(name)
        known = seen is not None and value is not None and _is_same(value, seen[0])
        if seen is None or not known:
            is_right = self.is_right(name, value)
            seen = (value if value is None else value.clone(), is_right)
            self._judged.setdefault(name, seen)
        return None if seen[1] else self.draw.trace.gradients[name].clone()

    def repairer(self, replace: Replace) -> Repairer:
        """Return a repairer of this backward."""
        return Repairer(self._variables, self.lives, {}, replace, keeps=False)

    @_once
    def logged(self, puts: Mapping[Target, Put]) -> Log:
        """Return what each statement gives in the repaired run."""
        log = Log(self.repairer(self.mended), puts, self._carried, self._counters)
        watched(self.chosen, self.draw, log)
        return log

    @_once
    def moved(
        self, puts: Mapping[Target, Put], target: Target, turns: Container[int], wrong: Container[str]
    ) -> frozenset[str]:
        """Return which gradients change if a statement gives something else in some turns.

        It is enough to know of one that is right: what it is made of is right as well.
        """
        generator = torch.Generator().manual_seed(self.draw.seed)
        before = self.repair.observed
        found: set[str] = set()

        def shaken(now: int, value: object) -> object:
            value = as_tensor(value)
            if isinstance(value, Tensor) and value.dtype == torch.bool:
                value = value.double()
            if now not in turns or not is_differentiable(value):
                return value
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value)
            return value * (1 + noise) + (0.0 if bool((value.abs() > NOTHING).any()) else noise)

        def replace(name: str, value: Tensor | None) -> Tensor | None:
            known = before[name].value if name in before else None
            is_same = value is known if value is None or known is None else close(value, known)
            if not is_same and name not in self.vacuous:
                found.add(name)
                if name not in wrong:
                    raise StillWrong
            return self.mended(name, value)

        with contextlib.suppress(StillWrong, Exception):  # the user's code may raise anything
            self._run({**puts, target: shaken}, replace)
        return frozenset(found)

    @_once
    def left(self, puts: Mapping[Target, Put], name: str) -> frozenset[str] | None:
        """Return what is wrong with something put in the place of statements; None if `name` still is."""
        left: set[str] = set()

        def replace(tensor: str, value: Tensor | None) -> Tensor | None:
            right = self.mended(tensor, value)
            if right is not None:
                if tensor == name:
                    raise StillWrong
                left.add(tensor)
            return right

        try:
            run = self._run(puts, replace)
        except (StillWrong, Exception):  # what is put there may not fit
            return None
        mended = {statement for statement, _ in puts}  # what is put there stands for what it did not make
        return frozenset(left) if all(statement in mended for statement, _ in run.errors) else None

    def added_up(self, statement: ast.Assign) -> frozenset[str] | None:
        """Return what is wrong if a statement adds to elements what it puts there; None where it cannot."""
        left: set[str] = set()

        def replace(tensor: str, value: Tensor | None) -> Tensor | None:
            right = self.mended(tensor, value)
            left.update([tensor] if right is not None else [])
            return right

        repairer = self.repairer(replace)
        try:
            self._watched(Adding(repairer, statement), repairer, replace)
        except Exception:  # what is put there may not be a number
            return None
        return frozenset(left)

    def _run(self, puts: Mapping[Target, Give], replace: Replace) -> Run:
        """Run the backward with something in the place of statements; look at what only it returns, too."""
        repairer = self.repairer(replace)
        return self._watched(Putting(repairer, puts), repairer, replace)

    def _watched(self, watcher: Watcher, repairer: Repairer, replace: Replace) -> Run:
        run = watched(self.chosen, self.draw, watcher)
        for name, seen in at_return(self.draw, self.source, run, repairer).items():
            replace(name, seen.value)
        return run

    @_once
    def known_until(self, puts: Mapping[Target, Put], begins: int, ends: int) -> int:
        """Count the tensors that autograd knows, and the gradients that are right, between two steps."""
        count = 0

        def replace(name: str, value: Tensor | None) -> Tensor | None:
            nonlocal count
            right = self.mended(name, value)
            count += right is None
            return right

        recogniser = self._recogniser

        class _Counting(Log):
            def looks(self, step: int, statement: ast.stmt) -> bool:
                return step > begins or Putting.looks(self, step, statement)

            def note(self, step: int, target: Target, value: Tensor) -> None:
                nonlocal count
                if step >= ends:
                    raise StillWrong
                if step > begins:
                    super().note(step, target, value)
                    event = self.events[target][-1]
                    count += event.sign != 0 and recogniser.is_known(event)  # zeros are found anywhere

        with contextlib.suppress(StillWrong, Exception):  # what is put there may not fit
            watched(self.chosen, self.draw, _Counting(self.repairer(replace), puts))
        return count

    def benches(self, puts: Mapping[Target, Put], target: Target, steps: Sequence[int]) -> Before:
        """Return what stood before some turns of a statement, and what it made."""
        looking = Before(self.repairer(self.mended), puts, steps, target, self._counters)
        watched(self.chosen, self.draw, looking)
        return looking


def _is_same(value: Tensor, other: Tensor | None) -> bool:
    """Tell whether a value is another one to the bit."""
    return other is not None and value.dtype == other.dtype and torch.equal(value, other)
