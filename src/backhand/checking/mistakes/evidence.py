"""What is known of one culprit: the draws, its surroundings, the statements that make it, what they read."""

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from backhand.checking.mistakes.neighbourhood import Scene, derived
from backhand.checking.mistakes.workbench import Bench, Program, filled_by, with_helpers
from backhand.checking.report import Mistake
from backhand.checking.running.complexes import is_differentiable
from backhand.checking.running.containers import as_gradient, each_tensor
from backhand.checking.running.copied import grads_read
from backhand.checking.running.names import root
from backhand.checking.running.program import numbers_in
from backhand.checking.running.slicing import (
    computes,
    feeding,
    makes_numbers,
    plain_slice_of,
    slice_of,
    writes_on_objects,
)
from backhand.checking.running.statements import (
    assigned,
    reads,
    simple_statements,
    writes,
    writes_surely,
)
from backhand.checking.running.trials import backward_arguments, leaf_like
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.comparing import fit_shape, fits, off
from backhand.checking.verdicts.localising import Culprit, Judgement
from backhand.checking.verdicts.repairing import Observed
from backhand.checking.verdicts.truths import float32_rounding
from backhand.checking.verdicts.unreturned import unread
from backhand.checking.verdicts.variables import Variables, extended

# A gradient that is off by more than so many roundings in float32 is right if they are all that is left: of
# code that computes in float64 but for a constant of eight digits, or an epsilon of 1e-10.
FAR = 1e3


@dataclass(frozen=True)
class Probes:
    """The backward, to be asked for its gradients with other upstream gradients.

    Attributes:
        call: returns them by name, for changed upstream gradients by name; None where the backward raises.
        upstream: the upstream gradients as they are.
        stressed: tells what failed under stress.
    """

    call: Callable[..., Mapping[str, Tensor] | None]
    upstream: Mapping[str, Tensor]
    stressed: Callable[[], Sequence[Mistake]]

    @cached_property
    def failures(self) -> Sequence[Mistake]:
        """What failed under stress."""
        return self.stressed()

    def reads(self, upstream: str, gradient: str) -> bool:
        """Tell whether a gradient becomes another one with another upstream gradient."""
        arriving = self.upstream.get(upstream)
        found = [self.call(**{upstream: arriving * k}) for k in (1, -2)] if arriving is not None else []
        once, other = ((gradients or {}).get(gradient) for gradients in found) if found else (None, None)
        return once is not None and other is not None and not torch.equal(once, other)


@dataclass(frozen=True, eq=False)
class Case:
    """A culprit, and the draws on which its gradient is wrong; what is derived from them, when asked for."""

    chosen: Pass
    name: str
    judged: tuple[Judgement, ...]
    probes: Probes | None = None

    @property
    def first(self) -> Judgement:
        """The first of the draws, from which the words are taken."""
        return self.judged[0]

    @property
    def culprit(self) -> Culprit:
        """The wrong gradient of the first draw."""
        return self.first.culprits[self.name]

    @property
    def gradient(self) -> str:
        """The gradient's name, as the user calls it."""
        return self.first.draw.matched.get(self.name, f"d{self.name}")

    @cached_property
    def scenes(self) -> tuple[Scene, ...]:
        """The surroundings of the gradient on each draw on which it has a value."""
        if self.name not in self.first.draw.trace.tensors or self.fails:
            return ()
        return tuple(
            scene_of(self.chosen, j, self.name)
            for j in self.judged
            if j.culprits[self.name].value is not None
        )

    @cached_property
    def fitted(self) -> tuple[Scene, ...]:
        """The same with the gradient in the right shape, as far as it can be brought into it."""
        fits = [(s, fit_shape(s.value, s.expected)) for s in self.scenes]
        return tuple(s if s.has_its_shape else replace(s, value=v) for s, v in fits if v is not None)

    @cached_property
    def paths(self) -> Mapping[str, str]:
        """Where each tensor's gradient lies, as an expression over the backward's variables."""
        source, names = self.chosen.backward_source, self.chosen.names
        if source is None:
            return {}
        upstream = {n: names[n] for n in self.first.draw.trace.outputs if n in names}
        return upstream | Variables(source, extended(self.first.draw, self.chosen)).path

    @cached_property
    def at_turns(self) -> tuple[Scene, ...]:
        """What the statement at fault gives in some of its turns, in the place of the gradient."""
        fault = self.culprit.fault
        if fault is None or self.name not in self.first.draw.trace.tensors:
            return ()
        around = scene_of(self.chosen, self.first, self.name)
        made = [(bench, bench.value) for bench in fault.benches if bench.value is not None]
        shaped = [(bench, _in_its_shape(self.first, self.name, value)) for bench, value in made]
        return tuple(replace(around, value=value, expected=bench.expected) for bench, value in shaped)

    @property
    def seen(self) -> Observed | None:
        """What the repaired run showed of the gradient; None without source."""
        return self.first.seen(self.name)

    @cached_property
    def raised(self) -> tuple[ast.stmt, Exception] | None:
        """The statement at fault, or one that writes the gradient, that raised, with its error."""
        errors = self.first.repair.errors if self.first.repair is not None else ()
        fault, variable = self.culprit.fault, root(self.paths.get(self.name, ""))
        of_fault = (e for e in errors if fault is not None and e[0] is fault.statement)
        own = (e for e in errors if variable in writes_surely(e[0]))
        return next(of_fault, None) or next(own, None)

    @property
    def fails(self) -> bool:
        """Whether the statement at fault raised, so that what the gradient holds says nothing of it."""
        fault = self.culprit.fault
        return fault is not None and self.raised is not None and self.raised[0] is fault.statement

    @cached_property
    def statements(self) -> tuple[ast.stmt, ...] | None:
        """The statements that make the gradient and its temporaries; None without source."""
        return statements_of(self, self.name)

    @cached_property
    def suspects(self) -> tuple[ast.stmt, ...]:
        """The same, where it is not known which of them is at fault, but for loops."""
        source, seen = self.chosen.backward_source, self.seen
        if source is None or seen is None or self.name not in self.paths:
            return ()
        known = {root(path): tensor for tensor, path in self.paths.items()}
        return plain_slice_of(source, self.paths[self.name], seen.statements, known, seen.namespace)

    @cached_property
    def makers(self) -> tuple[ast.stmt, ...]:
        """The suspects; where there are loops, the statements within and outside of them that compute.

        And those that measure what all may divide by, as `m = x.shape[0]`.
        """
        simple = simple_statements(self.statements or ())
        held = self.seen.namespace if self.seen is not None else {}
        plain = self.suspects or tuple(s for s in simple if computes(s))
        return (*plain, *(s for s in simple if makes_numbers(s, held) and s not in plain))

    @cached_property
    def numbers(self) -> tuple[ast.stmt, ...]:
        """Those of the statements that compute a number, as `scale = 1 / n` does."""
        held = self.seen.namespace if self.seen is not None else {}
        simple = simple_statements(self.statements or ())
        return tuple(s for s in simple if computes(s) and makes_numbers(s, held))

    @cached_property
    def read(self) -> frozenset[str] | None:
        """The variables that these statements read; None without source."""
        return names_read(self, self.name)

    @cached_property
    def unread(self) -> tuple[tuple[str, str], ...]:
        """The upstream gradients, each with its tensor, that these statements never read.

        That of an output which the backward does not ask for is 1, and nothing has to read it.
        """
        if self.read is None or self.name not in self.first.draw.trace.tensors:
            return ()
        scene, wanted = scene_of(self.chosen, self.first, self.name), self.chosen.wanted
        ends = () if self.chosen.out else self.first.draw.trace.outputs  # a loss alone: nobody is asked
        asked = (
            {c for c in scene.frontier if scene.d(c) in wanted} if wanted is not None else {*scene.frontier}
        )
        there = [c for c in scene.frontier if c in self.paths or c in asked.difference(ends)]
        upstream = [(self.paths.get(c, scene.d(c)), c) for c in there]
        copied = {name for s in self.statements or () for name in grads_read(s)}
        left = [(path, c) for path, c in upstream if root(path) not in self.read and c not in copied]
        probes = self.probes  # by way of another gradient, or of autograd within, it may be read
        return tuple(
            (path, c) for path, c in left if probes is None or not probes.reads(f"d{c}", self.gradient)
        )

    @cached_property
    def program(self) -> Program | None:
        """What an edit of these statements is looked for in; None without source, or without variables."""
        return self.program_with()

    def program_with(self, *more: ast.stmt) -> Program | None:
        """Return the same with statements that make nothing of the gradient as they stand."""
        source, seen = self.chosen.backward_source, self.seen
        if source is None or seen is None or self.name not in self.paths:
            return None
        benches = [b for j in self.judged if (b := _bench(self.chosen, j, self.name)) is not None]
        if not benches or any(j.seen(self.name) is None for j in self.judged):
            return None
        path = self.paths[self.name]
        also = [self.raised[0]] if self.raised is not None else []
        gradients = self._gradients
        part = slice_of(source, path, [*seen.statements, *also, *more, *self._in_vain], gradients)
        part = with_helpers(part, source, benches[0].namespace)
        program = Program.of(part, path, benches, gradients, numbers_of(self))
        faults = self.culprit.faults
        likely = [fault.statement for fault in faults]
        unknown = [s for f in faults for s in f.temporaries if s not in self.innocent] if faults else None
        return replace(program.suspecting(likely, self.innocent, unknown), over_numpy=self._over_numpy)

    @cached_property
    def _in_vain(self) -> tuple[ast.stmt, ...]:
        """The statements within loops that make what nothing reads, and is no gradient: it may be meant."""
        source = self.chosen.backward_source
        if source is None or self.chosen.contract != "returned":
            return ()
        idle = unread(source) - {root(path) for path in self._gradients}
        inner = (s for s in source.simple if s not in source.statements)
        return tuple(s for s in inner if assigned(s) and assigned(s) == writes(s) and assigned(s) <= idle)

    @property
    def _gradients(self) -> dict[str, str]:
        """The variables that hold gradients, each with its tensor, those of the outputs among them."""
        outputs = self.first.draw.trace.outputs
        upstream = {self.chosen.names.get(output, f"d{output}"): output for output in outputs}
        return {where: tensor for tensor, where in self.paths.items()} | upstream

    @cached_property
    def innocent(self) -> frozenset[ast.stmt]:
        """The statements that go into gradients which are right: what one of them gives is right, as a rule.

        Not those that give several variables a value, of which others may be wrong; nor those that make
        something else that lies on the same object, as `self.dW` beside `self.db`.
        """
        right = [n for n, is_right in self.first.right.items() if is_right and n not in self.first.vacuous]
        found = (s for n in right for s in self._making(n))
        return frozenset(s for s in found if len(writes(s)) == 1)

    def _making(self, name: str) -> Iterator[ast.stmt]:
        source, seen = self.chosen.backward_source, self.first.seen(name)
        simple = simple_statements(statements_of(self, name) or ())
        if source is None or seen is None or not any(map(writes_on_objects, simple)):
            yield from simple
            return
        fed = {s for last in seen.statements for s in (last, *feeding(source, last))}
        yield from (s for s in simple if s in fed or not computes(s))

    @cached_property
    def at_fault(self) -> Program | None:
        """The one statement that is at fault, if it is known, with some of its turns to try an edit on.

        What it is made of stands above it, where that is not known to be right.
        """
        fault = self.culprit.fault
        if fault is None or not fault.benches or not isinstance(fault.statement, ast.Assign | ast.AugAssign):
            return None
        # what has been added to an object is there already, and would be added once more
        again = isinstance(fault.statement, ast.AugAssign) and isinstance(
            fault.statement.target, ast.Attribute
        )
        if fault.belongs.label.kind != "nothing" and self._runs_once(fault.statement) and not again:
            return None
        statement, variable = fault.statement, fault.variable
        if not variable:  # it adds its value to something, or puts it there
            variable = "__value__"
            target = ast.Name(variable, ast.Store())
            put = ast.Assign([target], statement.value)
            statement = ast.fix_missing_locations(ast.copy_location(put, statement))
        alone = len(fault.benches) == 1 and self.name in self.first.draw.trace.tensors
        known = partial(derived, scene_of(self.chosen, self.first, self.name)) if alone else tuple
        # in the first turn what a loop carries on may be nothing yet, `0` or None
        turns = sorted((*fault.benches, *fault.others), key=lambda turn: -turn.tensors)
        prepare = _preparing(self.chosen, self.first)
        benches = [Bench(turn.namespace, turn.expected, known=known, prepare=prepare) for turn in turns]
        gradients = self._gradients
        parts = [(*fault.temporaries, statement), (statement,)]
        programs = [Program.of(part, variable, benches, gradients, numbers_of(self)) for part in parts]
        beside, forward = (
            tuple(source.simple) if source is not None else ()
            for source in (self.chosen.backward_source, self.chosen.forward_source)
        )
        here = {"goes_on": True, "over_numpy": self._over_numpy, "beside": beside, "forward": forward}
        filled = tuple(filled_by(fault.statement))
        unknown = [s for s in fault.temporaries if s not in self.innocent]
        programs = [p.suspecting((), (), unknown) for p in programs]
        programs = [replace(p, **here, filled=filled) for p in programs]
        made = turns[0]
        if made.value is not None:
            are_as_they_were = programs[0].gives(made.value)
        else:  # that it raises does not tell
            above = replace(Program.of(fault.temporaries, "", benches, gradients), goes_on=True)
            written = {name for s in fault.temporaries for name in writes_surely(s)}
            held = {name: as_gradient(made.namespace.get(name)) for name in written}
            are_as_they_were = all(replace(above, path=name).gives(value) for name, value in held.items())
        # a temporary may be made of something that has changed by then
        return programs[0] if are_as_they_were else programs[1]

    def _runs_once(self, statement: ast.stmt) -> bool:
        """Tell whether a statement stands outside of loops, in what `program` runs as quickly, without one.

        There the temporaries that it reads are to be looked at as well, and the statements that complete what
        it begins: what is missing in one of them might be made up for in another.
        """
        source, program = self.chosen.backward_source, self.program
        if source is None or program is None or statement not in source.statements:
            return False
        return not any(isinstance(n, ast.For | ast.While) for n in ast.walk(program.block))

    @property
    def _over_numpy(self) -> bool:
        return self.chosen.runner is not None and self.chosen.runner.over_numpy


def numbers_of(case: Case) -> set[float]:
    """Return the fractions with which the forward computes."""
    values, forward = case.first.draw.trace.values, case.chosen.forward_source
    numbers = {v for v in values.values() if isinstance(v, float)}
    return numbers | (numbers_in(forward.statements) if forward is not None else set())


def _bench(chosen: Pass, judgement: Judgement, name: str) -> Bench | None:
    """Return the variables at the moment when a gradient was complete, and what it should have been."""
    seen = judgement.seen(name)
    if seen is None or not seen.namespace:
        return None
    culprit, draw = judgement.culprits[name], judgement.draw
    # what the statements change in place, they find as it was
    changed = set(map(root, draw.changed)) - {f"d{output}" for output in draw.trace.outputs}
    unspoilt = backward_arguments(chosen, draw.trace, changed) if changed else {}
    there = name in judgement.draw.trace.tensors
    known = partial(derived, scene_of(chosen, judgement, name)) if there else tuple
    bench = Bench(seen.namespace | unspoilt, culprit.expected, culprit.summands, known, _left(culprit))
    return replace(bench, is_summed=_is_summed(judgement, name), prepare=_preparing(chosen, judgement))


def _preparing(chosen: Pass, judgement: Judgement) -> Callable[[], None]:
    """Return what lets modules hold the parameters of a draw again."""
    runner = chosen.runner
    if runner is None:
        return lambda: None
    return partial(runner.hold, each_tensor(judgement.draw.trace.inputs, leaf_like))


def _left(culprit: Culprit) -> float:
    """Return what may be left of a gradient that is explained: the rounding of the code's own precision.

    Zero where that might be all that is wrong.
    """
    rounding = float32_rounding(culprit.expected, culprit.summands)
    value, right = culprit.value, culprit.expected
    is_far = value is not None and value.shape == right.shape and off(value, right) > FAR * rounding
    return rounding if right.dtype == torch.float64 and (is_far or value is None) else 0.0


def _is_summed(judgement: Judgement, name: str) -> bool:
    """Tell whether autograd has summed what a statement makes, so that its shape is no fault."""
    value, right = judgement.culprits[name].value, judgement.culprits[name].expected
    judged = judgement.draw.user.get(name)
    is_whole = judged is not None and judged.shape == right.shape
    return is_whole and value is not None and value.shape != right.shape and fits(right, value)


def _in_its_shape(judgement: Judgement, name: str, value: Tensor) -> Tensor:
    """Return what becomes of a gradient that is made: autograd may sum it."""
    shape = judgement.culprits[name].expected.shape
    return value.sum_to_size(shape) if _is_summed(judgement, name) else value


def statements_of(case: Case, name: str) -> tuple[ast.stmt, ...] | None:
    """Return the statements that make one of a draw's gradients and its temporaries; None without source."""
    source, seen = case.chosen.backward_source, case.first.seen(name)
    if source is None or seen is None or name not in case.paths:
        return None
    known = {root(path): tensor for tensor, path in case.paths.items()}
    return tuple(slice_of(source, case.paths[name], seen.statements, known))


def names_read(case: Case, name: str) -> frozenset[str] | None:
    """Return the variables that these statements read; None without source."""
    statements = statements_of(case, name)
    return None if statements is None else frozenset(n for s in statements for n in reads(s))


def scene_of(chosen: Pass, judgement: Judgement, name: str) -> Scene:
    """Return the surroundings of a culprit; one that has no value is seen with the right one."""
    culprit, draw = judgement.culprits[name], judgement.draw
    given = set(draw.user)
    value = culprit.expected
    if culprit.value is not None:
        value = culprit.value
        value = value if is_differentiable(value) else value.to(culprit.expected.dtype)
        value = _in_its_shape(judgement, name, value)
    else:
        given |= set(draw.matched) | set(judgement.repair.observed if judgement.repair else ())
    return Scene(
        trace=draw.trace,
        name=name,
        value=value,
        expected=culprit.expected,
        handed=dict(culprit.handed),
        given=frozenset(given),
        gradient_names={**chosen.names, **draw.matched},
        summands=culprit.summands,
        noise=culprit.noise if culprit.noise < math.inf else _left(culprit) or math.inf,
    )
