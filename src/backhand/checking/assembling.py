"""Put the verdicts of all draws together into the rows of a report."""

import ast
from collections.abc import Sequence
from functools import cached_property

import torch

from backhand.checking.figures import figures
from backhand.checking.mistakes.hypotheses import name_mistakes
from backhand.checking.report import Line, Mistake, Raised, Report, Row, Verdict
from backhand.checking.running.names import root
from backhand.checking.running.program import Source
from backhand.checking.running.trials import Draw
from backhand.checking.sheet import sheet_of
from backhand.checking.sources.protocol import Pass
from backhand.checking.verdicts.lives import Lives
from backhand.checking.verdicts.localising import Judgement, vacuity
from backhand.checking.verdicts.repairing import recorded
from backhand.checking.verdicts.variables import Variables, extended
from backhand.errors import in_short


def assemble(
    chosen: Pass,
    title: str,
    judged: Sequence[Judgement],
    draws: int,
    shown: Draw,
    failures: Sequence[Mistake],
    notes: Sequence[str],
    unmatched: Sequence[str],
) -> Report:
    """Return the report; of all draws, the first one and those on which something is wrong are given."""
    first = judged[0]
    table = _Table(chosen, judged, shown)
    rows = tuple(table.row(name) for name in backward_order(first.draw))
    return Report(
        title=title,
        rows=rows,
        stress=tuple(failures),
        warnings=_shared(chosen, first),
        unmatched=tuple(unmatched),
        notes=(*notes, *_remarks(chosen, judged)),
        raised=_raised(chosen, first.draw),
        precision=str(first.draw.dtype or shown_dtype(shown)).removeprefix("torch."),
        draws=draws,
        sheet=sheet_of(
            chosen.forward_source, chosen.backward_source, first.draw.trace, shown.trace, shown.user
        ),
    )


def shown_dtype(shown: Draw) -> torch.dtype:
    """Return the dtype that the table is made in."""
    return next(iter(shown.trace.outputs.values())).dtype


def backward_order(draw: Draw) -> list[str]:
    """Return the names as the backward meets them: last operation first, a leaf after what it went into.

    Of several names for one tensor, those without a gradient are left out if another one has it.
    """
    trace = draw.trace
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


class _Table:
    """What the rows have in common."""

    def __init__(self, chosen: Pass, judged: Sequence[Judgement], shown: Draw):
        self.chosen, self.judged, self.shown = chosen, judged, shown
        self.draw = judged[0].draw
        self.figures = figures(self.draw, shown)
        source = chosen.backward_source
        self.names = extended(self.draw, source) if source else self.draw.matched
        self.paths = Variables(source, self.names).path if source else {}

    @cached_property
    def mistakes(self) -> dict[str, Mistake]:
        """The mistake in each wrong gradient, in the order of the backward."""
        order = backward_order(self.draw)
        blamed = {n: [j for j in self.judged if n in j.culprits] for n in order}
        return name_mistakes(self.chosen, {n: its for n, its in blamed.items() if its})

    @cached_property
    def _lives(self) -> Lives:
        known = self.judged[0].lives
        return recorded(self.chosen, self.draw) if known is None else known

    def row(self, name: str) -> Row:
        """Return the row of one tensor."""
        trace, forward = self.draw.trace, self.chosen.forward_source
        tensor = trace.tensors[name] if name in trace.tensors else trace.unreached[name]
        user, facts = self.shown.user.get(name), self.figures.get(name)
        verdict, note = _verdict(name, self.judged)
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
            forward_line=(forward.writers(root(name)) or (None,))[-1] if forward else None,
            lines=self._lines(name),
            used_by=forward.readers(root(name)) if forward else (),
            mistake=self.mistakes.get(name),
            note=note,
        )

    def _lines(self, name: str) -> tuple[Line, ...]:
        """Return the lines of the backward that make a gradient."""
        source = self.chosen.backward_source
        if source is None or name not in self.names:
            return ()
        faults = next((j.culprits[name].faults for j in self.judged if name in j.culprits), ())
        at_fault = [source.line(fault.target[0].lineno) for fault in faults]
        return tuple(dict.fromkeys((*at_fault, *self._lines_of(name, source))))

    def _lines_of(self, name: str, source: Source) -> tuple[Line, ...]:
        if name in self.paths:
            variable = root(self.paths[name])
            if variable not in source.mentioned:
                return source.writers(variable)
            numbers = {s.lineno for life in self._lives.get(name, ()) for s in life.statements}
            return tuple(source.line(n) for n in sorted(numbers))
        return tuple(source.line(s.lineno) for s in source.statements if isinstance(s, ast.Return))


def _verdict(name: str, judged: Sequence[Judgement]) -> tuple[Verdict, str]:
    first = judged[0]
    blamed = [j.culprits[name] for j in judged if name in j.culprits]
    if blamed:
        return ("shape" if all(c.shape_only for c in blamed) else "wrong"), ""
    if name in first.ambiguous:
        return "skipped", "assigned several times in the forward; the gradient is not that of its last value"
    if name in first.draw.user:
        if not all(j.right.get(name, True) for j in judged):
            return "follows", ""
        if any(name in j.balanced for j in judged):
            return "right", "with a wrong upstream gradient; with the right one it is not"
        vacuous = name in first.vacuous or name in first.draw.trace.unreached
        return ("vacuous", vacuity(first)) if vacuous else ("right", "")
    if first.repair and name in first.repair.observed and first.draw.error is not None:
        return "follows", "not reached: a line above raised"
    if name in first.draw.trace.wanted:
        if name in first.draw.trace.unreached:
            return "vacuous", "the output does not depend on it"
        return "todo", ""
    return "skipped", ""


def _shared(chosen: Pass, judgement: Judgement) -> tuple[Mistake, ...]:
    """Warn of shared memory and of wrong upstream gradients, where the difference is below rounding."""
    found = []
    for name, alias in judgement.shared.items():
        gradient = judgement.draw.matched[name]
        line = chosen.backward_source.line(alias.statement.lineno) if chosen.backward_source else None
        cell = f" of {line.file}" if line is not None and chosen.scope is not None else ""
        where = f" (line {line.number}{cell})" if line is not None else ""
        message = f"{gradient} shares its memory with {alias.through}, through which it is changed{where}."
        hint = "The change is below rounding here, but only by luck: a copy of its own keeps the value."
        found.append(Mistake("aliased", message, hint, {"with": alias.through, "name": name}))
    for name, (used, expected) in judgement.lucky.items():
        gradient = judgement.draw.matched[name]
        message = (
            f"{gradient} is made of {used}, not of {expected}; they agree only because a branch cancels."
        )
        hint = "It is right by luck: the upstream gradient is that of the tensor that the forward line makes."
        detail = {"used": used, "expected": expected, "name": name}
        found.append(Mistake("wrong_upstream", message, hint, detail))
    return tuple(found)


def _raised(chosen: Pass, draw: Draw) -> Raised | None:
    if draw.error is None:
        return None
    source, number = chosen.backward_source, draw.error_line
    line = source.line(number) if source is not None and number is not None else None
    return Raised(in_short(draw.error), line)


def _remarks(chosen: Pass, judged: Sequence[Judgement]) -> list[str]:
    source = chosen.forward_source
    if source is None:
        return []
    tensors = judged[0].draw.trace.tensors
    again = [n for n in tensors if "[" not in n and source.times_assigned(n) > 1]
    return [f"forward assigns {', '.join(again)} more than once: the last value counts."] if again else []
