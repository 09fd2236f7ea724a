"""The rows of a report: of each tensor its verdict, its figures, its lines and its mistake."""

import ast
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from backhand.checking.mistakes.evidence import Probes
from backhand.checking.mistakes.facts import where_they_met
from backhand.checking.mistakes.hypotheses import Named, name_mistakes
from backhand.checking.mistakes.precisions import imprecise, lowered, overflowed
from backhand.checking.report import Line, Row, Verdict
from backhand.checking.running.copied import copied_gradients
from backhand.checking.running.names import root
from backhand.checking.running.program import Source
from backhand.checking.running.returning import returns
from backhand.checking.running.slicing import (
    computes,
    feeding,
    kept_by,
    makes_numbers,
    only_begins,
    passing_on,
    sets_a_number,
)
from backhand.checking.running.statements import gives_nothing, may_be_wrong
from backhand.checking.running.trials import Draw, instead
from backhand.checking.sources.protocol import Pass
from backhand.checking.trying import Trials
from backhand.checking.verdicts.figures import Figures, figures
from backhand.checking.verdicts.filling import filled_by
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.localising import Judgement, is_to_be_written, vacuity
from backhand.checking.verdicts.lowering import Loss, Measure
from backhand.checking.verdicts.reached import reached
from backhand.checking.verdicts.repairing import recorded
from backhand.checking.verdicts.rounding import Truth
from backhand.checking.verdicts.variables import Variables, extended

# More lines at fault than these are no lines at fault.
FEW = 3
# Lines that are shown besides those at fault, of what a function returns.
BESIDE_THE_FAULT = 2


def backward_order(chosen: Pass, draw: Draw) -> list[str]:
    """Return the names as the backward meets them: last operation first, a leaf after what it went into.

    Of several names for one tensor, those without a gradient are left out if another one has it. What a
    backward returns has the order of its arguments.
    """
    trace = draw.trace
    if chosen.contract == "returned":
        return list(trace.wanted)
    judged = {edge: name for name, edge in trace.edges.items() if name in draw.matched}
    names = [
        n
        for n in trace.tensors
        if n not in trace.outputs and (n in draw.matched or trace.edges[n] not in judged)
    ]
    position = {name: i for i, name in enumerate(trace.tensors)}

    def key(name: str) -> tuple[float, int, int]:
        if not trace.tensors[name].is_leaf:
            return -position[name], 0, 0
        users = [position[c] for c in trace.consumers(name)]
        return -max(users, default=position[name]), 1, position[name]

    return [*sorted(names, key=key), *trace.unreached]


class Table:
    """What the rows have in common."""

    def __init__(self, chosen: Pass, trials: Trials, probes: Probes | None):
        self.chosen: Pass = chosen
        self.probes: Probes | None = probes
        self.judged: tuple[Judgement, ...] = trials.judged
        self.draw: Draw = self.judged[0].draw
        self.shown: Draw = trials.shown
        self.truth: Truth | None = trials.truth
        measures = self.truth is not None and self.truth.measures(self.shown.trace)
        self._exact: Truth | None = self.truth if measures else None
        self.figures: Mapping[str, Figures] = figures(self._exact, self.shown)
        source = chosen.backward_source
        self._filled: dict[str, ast.stmt] = {}
        self.names: Mapping[str, str] = extended(self.draw, chosen)
        self.paths: Mapping[str, str] = Variables(source, self.names).path if source else {}

    @cached_property
    def mistakes(self) -> dict[str, Named]:
        """The mistake in each wrong gradient, in the order of the backward."""
        order = backward_order(self.chosen, self.draw)
        blamed = {n: [j for j in self.judged if n in j.culprits] for n in order}
        return name_mistakes(self.chosen, {n: its for n, its in blamed.items() if its}, probes=self.probes)

    @cached_property
    def named(self) -> dict[str, Named]:
        """The mistakes, those of precision too; of one line that has spoilt several gradients, the first."""
        told = ((self._at(n, named), n) for n, named in self.mistakes.items())
        lines = [(place, n) for place, n in told if place is not None]
        first = dict(reversed(lines))
        spoilt = {n for place, n in lines if first[place] != n}
        mistakes = {n: m for n, m in self.mistakes.items() if n not in spoilt}
        return self.lowered | mistakes

    def _at(self, name: str, named: Named) -> object:
        """Return what tells the one line of a mistake from others; None where it is not known to be one.

        That may be a call that gives several gradients, as `dx, dw = f(-dy)` does.
        """
        if len(named.at) == 1 or (named.is_told and named.mistake.kind == "swapped"):
            return self._place(named.at[0])
        if named.is_told and named.at:  # either of several lines, and the same ones
            return tuple(map(self._place, named.at)), named.mistake.kind
        faults = next((j.culprits[name].faults for j in self.judged if name in j.culprits), ())
        statement = faults[0].statement if len(faults) == 1 and not named.at else None
        if name in self._filled_alike:
            return self._filled_alike[name], named.mistake.kind
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
            return None
        several = isinstance(statement.targets[0], ast.Tuple)
        return (self._place(statement), named.mistake.kind) if several else None

    @cached_property
    def _filled_alike(self) -> dict[str, object]:
        """The line of a helper that fills several gradients wrongly, through another name of their memory."""
        unsure = [n for n, named in self.mistakes.items() if not named.is_told and len(named.at) != 1]
        open_ = [n for n in unsure if self.paths.get(n, "").isidentifier()]
        is_twice = self.chosen.backward_source is not None and self.chosen.backward_source.as_written
        if len(open_) < 2 or not is_twice:
            return {}
        found = {n: filled_by(self.chosen, self.draw, n, self.paths[n]) for n in open_}
        places = {n: self._place(s) for n, s in found.items() if s is not None}
        self._filled.update({n: s for n, s in found.items() if s is not None})
        return {n: place for n, place in places.items() if [*places.values()].count(place) > 1}

    def _place(self, statement: ast.stmt) -> object:
        """Return what tells a line from others: one of a helper that is called twice is written out twice."""
        source = self.chosen.backward_source
        is_twice = source is not None and source.as_written
        return (statement.lineno, statement.col_offset) if is_twice else statement

    def _is_echo(self, name: str) -> bool:
        """Tell whether a gradient is wrong for the line for which another one is blamed."""
        return name in self.mistakes and name not in self.named

    @cached_property
    def _lives(self) -> Lives:
        known = self.judged[0].lives
        return recorded(self.chosen, self.draw) if known is None else known

    def row(self, name: str) -> Row:
        """Return the row of one tensor."""
        trace, forward = self.draw.trace, self.chosen.forward_source
        tensor = trace.tensors[name] if name in trace.tensors else trace.unreached[name]
        user, facts = self.shown.user.get(name), self.figures.get(name)
        verdict, note = _verdict(name, self.chosen, self.judged, self.names)
        named = self.named.get(name)
        if name in self.lowered:
            verdict, note = "wrong", ""
        elif (verdict in ("right", "vacuous") and name in self.imprecise) or self._is_echo(name):
            verdict, note = "follows", ""
        elif verdict == "right" and not note and self._copied.get(self.paths.get(name, "")) == name:
            note = "autograd's own answer, copied: nothing here is by hand"
        elif verdict == "todo":
            note = instead(self.draw, name, self.chosen.names)
        return Row(
            name=name,
            gradient=self.names.get(name, f"d{name}"),
            verdict=verdict,
            shape=tuple(tensor.shape),
            got=None if user is None else tuple(user.shape),
            dtype=str(tensor.dtype if user is None else user.dtype).removeprefix("torch."),
            exact=facts and facts.exact,
            approximate=facts and facts.approximate,
            maxdiff=facts and facts.maxdiff,
            multiple=facts and facts.multiple,
            forward_line=_maker(forward, name),
            lines=self._lines(name),
            used_by=forward.readers(root(name)) if forward else (),
            mistake=named.mistake if named is not None else None,
            note=note,
        )

    @cached_property
    def _copied(self) -> Mapping[str, str]:
        """The variables that hold what autograd gave for a tensor, with that tensor."""
        source = self.chosen.backward_source
        return copied_gradients(source.simple) if source else {}

    @cached_property
    def _measure(self) -> Measure:
        first = self.judged[0]
        apart = {*first.ambiguous, *first.unreturned}  # which are not to be repaired either
        return Measure.of(self.draw.without(apart), self.shown.without(apart), self._exact)

    @cached_property
    def imprecise(self) -> dict[str, Loss]:
        """The gradients that have lost precision, by their own lines or by those of another gradient."""
        return imprecise(self.chosen, self.judged[0], self.shown, self._measure, self.figures)

    @cached_property
    def lowered(self) -> dict[str, Named]:
        """Those that have lost it, or overflowed, by their own lines, with what is told of them."""
        lost = lowered(self.chosen, self.judged, self.shown, self._measure, self.imprecise, self.names)
        return lost | overflowed(self.judged, self.shown, self.truth, self.figures, self.names)

    def _lines(self, name: str) -> tuple[Line, ...]:
        """Return the lines of the backward that make a gradient."""
        source = self.chosen.backward_source
        if source is None or name not in self.names:
            return ()
        at_fault = self._at_fault(name, source)
        lines = [source.line(statement.lineno) for statement in at_fault]
        told = tuple(dict.fromkeys((*lines, *self._lines_of(name, source))))
        return self._near(name, source, at_fault, told) if self.chosen.contract == "returned" else told

    def _at_fault(self, name: str, source: Source) -> list[ast.stmt]:
        """Return the statements at fault for a gradient, in the order to be shown; none for a right one."""
        faults = next((j.culprits[name].faults for j in self.judged if name in j.culprits), ())
        at_fault, named = [s for fault in faults for s in fault.suspects], self.named.get(name)
        if (alias := self.judged[0].shared.get(name)) is not None:
            at_fault = [*where_they_met(source, alias), alias.statement, *at_fault]
        elif named is not None:  # a slip in what the statement at fault is made of is nearer than that
            made_of = [s for fault in faults for s in fault.temporaries]
            held = self._variables(name)
            made_of = [s for s in made_of if computes(s) and not makes_numbers(s, held)]
            lone = len(made_of) == 1 and not {*at_fault} & {*named.at}  # of several nobody knows which
            is_first = named.is_told or (lone and any(s in made_of for s in named.at[:1]))
            at_fault = [*named.at, *at_fault] if is_first else [*at_fault, *named.at]
        if name in self._filled_alike:
            at_fault = [self._filled[name]]
        if not at_fault:
            return []
        if (kept := kept_by(source, at_fault[0])) is not None:
            at_fault = kept or at_fault[:1]
        held, told_at = self._variables(name), self._told_at(name)
        return sorted(
            at_fault, key=lambda s: (only_begins(source, s), makes_numbers(s, held) and s not in told_at)
        )

    def _near(
        self, name: str, source: Source, at_fault: list[ast.stmt], told: tuple[Line, ...]
    ) -> tuple[Line, ...]:
        """Return the lines at fault, then those that they read, and the gradient's own: three, or few more.

        In a whole model nearly every line makes a gradient.
        """
        # the head of a loop, or of a condition, may be at fault as well
        heads = ast.Return | ast.If | ast.For | ast.While | ast.Assert | ast.Raise
        told_at = self._told_at(name)  # as what takes a wrong tensor from where it was saved
        told_at += tuple(s for s in at_fault if s.lineno in {r.lineno for r in returns(source.statements)})
        firm = [s for s in dict.fromkeys(at_fault) if computes(s) or isinstance(s, heads) or s in told_at]
        if name not in self.named or not at_fault or len(firm) > FEW:
            firm = firm[:1]
        own = [source.line(s.lineno) for s in firm]
        ran = {s.lineno for s in self._ran}
        last = [line for line in self._lines_of(name, source) if line.number in ran][-1:]
        beside = [s for f in firm for s in (*passing_on(source, f), *feeding(source, f))]
        near = [source.line(s.lineno) for s in beside if self._is_worth_a_look(name, s)]
        lines = tuple(dict.fromkeys((*own, *near[:BESIDE_THE_FAULT], *last, *near)))
        return lines[: max(len(own), 1) + BESIDE_THE_FAULT] or told

    def _told_at(self, name: str) -> tuple[ast.stmt, ...]:
        """Return the statements that a mistake itself tells."""
        named = self.named.get(name)
        return named.at if named is not None and named.is_told else ()

    def _is_worth_a_look(self, name: str, statement: ast.stmt) -> bool:
        """Tell whether a statement ran, may be wrong, and made more than None or a number asked for."""
        measures = makes_numbers(statement, self._variables(name)) and not sets_a_number(statement)
        is_open = statement in self._ran and may_be_wrong(statement)
        return is_open and not measures and not gives_nothing(statement)

    def _variables(self, name: str) -> Mapping[str, Any]:
        """Return what the backward's variables held when a gradient was complete."""
        seen = self.judged[0].seen(name)
        return seen.namespace if seen is not None else {}

    @cached_property
    def _ran(self) -> frozenset[ast.stmt]:
        return reached(self.chosen, self.draw)

    def _lines_of(self, name: str, source: Source) -> tuple[Line, ...]:
        if name in self.paths and source.makers(root(self.paths[name])):
            variable = root(self.paths[name])
            made = [source.statements[i] for i in source.makers(variable)]
            if kept := [s for taken in made for s in kept_by(source, taken) or ()]:  # as in `self.dW = ...`
                return tuple(source.line(s.lineno) for s in kept)
            is_item = self.paths[name] != variable and name in self.named
            if variable not in source.mentioned and not is_item:  # so that nothing has to be run for it
                return source.writers(variable)
            numbers = {s.lineno for life in self._lives.get(name, ()) for s in life.statements}
            return tuple(source.line(n) for n in sorted(numbers))
        return tuple(source.line(s.lineno) for s in source.statements if isinstance(s, ast.Return))


def _verdict(
    name: str, chosen: Pass, judged: Sequence[Judgement], promised: Mapping[str, str]
) -> tuple[Verdict, str]:
    first = judged[0]
    blamed = [j.culprits[name] for j in judged if name in j.culprits]
    if blamed:
        return ("shape" if all(c.shape_only for c in blamed) else "wrong"), ""
    if name in first.ambiguous:
        return "skipped", "assigned several times in the forward; this may be that of any of them"
    if is_to_be_written(chosen, first.draw, name):
        return "todo", ""
    if name in first.draw.user:
        if not all(j.right.get(name, True) for j in judged):
            return "follows", ""
        if any(name in j.balanced for j in judged):
            return "right", "with a wrong upstream gradient; with the right one it is not"
        if all(j.draw.user[name].numel() == 0 for j in judged if name in j.draw.user):
            return "vacuous", "it has no elements here"
        vacuous = name in first.vacuous or name in first.draw.trace.unreached
        return ("vacuous", vacuity(first)) if vacuous else ("right", "")
    seen = first.repair.observed if first.repair is not None else {}
    is_told = chosen.contract == "returned" and bool(first.culprits)
    lost = name in seen or name in promised.keys() - first.draw.matched or is_told
    if first.draw.error is not None and lost:
        waits = first.draw.is_unfinished
        return (
            "follows",
            f"not reached: a line above {'waits for what is to be written' if waits else 'raised'}",
        )
    if name in first.draw.trace.wanted:
        if name in first.draw.trace.unreached:
            return "vacuous", "the output does not depend on it"
        return "todo", ""
    return "skipped", ""


def _maker(forward: Source | None, name: str) -> Line | None:
    """Return the last line of the forward that makes a tensor, or puts it into its list."""
    if forward is None:
        return None
    owner = root(name)
    lines = forward.writers(owner) if owner == name else forward.fillers(owner)
    return lines[-1] if lines else None
