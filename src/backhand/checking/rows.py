"""Put the verdicts of all draws together into the rows of a report."""

import ast
from collections.abc import Sequence
from typing import Any

import torch

from backhand.checking.mistakes.naming import name_mistake
from backhand.checking.picturing import sheet_of
from backhand.checking.report import Mistake, Raised, Report, Row, Verdict
from backhand.checking.running.drawing import Draw
from backhand.checking.running.executing import StatementError
from backhand.checking.running.flattening import root
from backhand.checking.running.protocol import Pass
from backhand.checking.running.source import Line
from backhand.checking.verdicts.comparing import approximate, exact, largest_difference
from backhand.checking.verdicts.localising import Judgement
from backhand.checking.verdicts.repairing import Variables, extended


def assemble(
    chosen: Pass,
    title: str,
    judged: Sequence[Judgement],
    shown: Draw,
    failures: Sequence[Mistake],
    notes: Sequence[str],
    unmatched: Sequence[str],
) -> Report:
    """Return the report on all draws; the first one is shown in the table."""
    first = judged[0]
    own = own_errors(first.draw, shown)
    rows = tuple(_row(chosen, name, judged, shown, own) for name in backward_order(first.draw))
    return Report(
        title=title,
        rows=rows,
        stress=tuple(failures),
        warnings=_shared(chosen, first),
        unmatched=tuple(unmatched),
        notes=(*notes, *_remarks(chosen, judged)),
        raised=_raised(chosen, first.draw),
        precision=str(first.draw.dtype or shown_dtype(shown)).removeprefix("torch."),
        draws=len(judged),
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


def own_errors(right: Draw, shown: Draw) -> dict[str, float]:
    """Return the error that autograd itself makes in the dtype shown, against float64."""
    if shown is right or right.dtype != torch.float64:
        return {}
    return {
        name: largest_difference(gradient, right.trace.gradients[name])
        for name, gradient in shown.trace.gradients.items()
        if name in right.trace.gradients
    }


def _row(chosen: Pass, name: str, judged: Sequence[Judgement], shown: Draw, own: dict[str, float]) -> Row:
    first = judged[0]
    trace = first.draw.trace
    tensor = trace.tensors[name] if name in trace.tensors else trace.unreached[name]
    gradient = extended_names(chosen, first.draw).get(name, f"d{name}")
    verdict, note = _verdict(name, judged)
    mistake = None
    if verdict in ("wrong", "shape"):
        mistake = name_mistake(chosen, name, [j for j in judged if name in j.culprits])
    facts = _facts(name, first.draw, shown, own)
    return Row(
        name=name,
        gradient=gradient,
        verdict=verdict,
        shape=tuple(tensor.shape),
        dtype=str(shown.user[name].dtype if name in shown.user else tensor.dtype).removeprefix("torch."),
        forward_line=_forward_line(chosen, name),
        lines=_backward_lines(chosen, first.draw, name),
        used_by=chosen.forward_source.readers(root(name)) if chosen.forward_source else (),
        mistake=mistake,
        note=note,
        **facts,
    )


def extended_names(chosen: Pass, draw: Draw) -> dict[str, str]:
    """Return gradient names by tensor, with those that a raising line kept away."""
    return extended(draw, chosen.backward_source) if chosen.backward_source else dict(draw.matched)


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
        vacuous = name in first.vacuous or name in first.draw.trace.unreached
        return ("vacuous", "its true gradient is zero here") if vacuous else ("right", "")
    if first.repair and name in first.repair.observed and first.draw.error is not None:
        return "follows", "not reached: a line above raised"
    if name in first.draw.trace.wanted:
        if name in first.draw.trace.unreached:
            return "vacuous", "the output does not depend on it"
        return "todo", ""
    return "skipped", ""


def _facts(name: str, right: Draw, shown: Draw, own: dict[str, float]) -> dict[str, Any]:
    """Return the lecture's comparison, in the user's dtype, and the error against autograd's own."""
    user, expected = shown.user.get(name), shown.trace.gradients.get(name)
    if user is None or expected is None:
        return {"got": tuple(user.shape) if user is not None else None}
    facts: dict[str, Any] = {
        "got": tuple(user.shape),
        "exact": exact(user, expected),
        "approximate": approximate(user, expected),
        "maxdiff": largest_difference(user, expected),
    }
    if own.get(name) and facts["maxdiff"] != float("inf"):
        facts["multiple"] = largest_difference(user, right.trace.gradients[name]) / own[name]
    return facts


def _forward_line(chosen: Pass, name: str) -> Line | None:
    if chosen.forward_source is None:
        return None
    lines = chosen.forward_source.writers(root(name))
    return lines[-1] if lines else None


def _backward_lines(chosen: Pass, draw: Draw, name: str) -> tuple[Line, ...]:
    source = chosen.backward_source
    matched = extended_names(chosen, draw)
    if source is None or name not in matched:
        return ()
    path = Variables(source, {name: matched[name]}).path.get(name)
    if path is None:
        return tuple(source.line(s.lineno) for s in source.statements if isinstance(s, ast.Return))
    return source.writers(root(path))


def _shared(chosen: Pass, judgement: Judgement) -> tuple[Mistake, ...]:
    """Warn of shared memory and of wrong upstream gradients, where the difference is below rounding."""
    found = []
    for name, (other, statement) in judgement.shared.items():
        gradient = judgement.draw.matched[name]
        where = f" (line {statement.lineno})" if chosen.backward_source else ""
        message = f"{gradient} shares its memory with {other} and is changed in place through it{where}."
        hint = "The change is below rounding here, but only by luck: a copy of its own keeps the value."
        found.append(Mistake("aliased", message, hint, {"with": other, "name": name}))
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
    text = str(draw.error).strip().split("\n", 1)[0]
    line = source.line(number) if source is not None and number is not None else None
    name = "" if isinstance(draw.error, StatementError) else f"{type(draw.error).__name__}: "
    return Raised(f"{name}{text}", line)


def _remarks(chosen: Pass, judged: Sequence[Judgement]) -> list[str]:
    source = chosen.forward_source
    if source is None:
        return []
    tensors = judged[0].draw.trace.tensors
    again = [n for n in tensors if "[" not in n and source.times_assigned(n) > 1]
    return [f"forward assigns {', '.join(again)} more than once: the last value counts."] if again else []
