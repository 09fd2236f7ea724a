"""Hints in steps for one gradient: a question, the shapes, the derivative in words, the rule, the answer."""

import ast
import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import dropwhile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backhand.checking.broadcasts import Shapes, axes_of_broadcast
from backhand.checking.explaining import derivatives, explain_uses
from backhand.checking.meanings import KINDS
from backhand.checking.report import Mistake, Row
from backhand.checking.running.names import MISSPELT, nearest
from backhand.checking.running.statements import reads, simple_statements, writes_surely
from backhand.learning.attempts import Attempt, Gradient
from backhand.learning.blanking import answer, asked, blank, textbook
from backhand.learning.course import Exercise

# The hint where nothing is known speaks of a report, which a learner has not.
OF_A_REPORT = KINDS["unexplained"].hint
# What tells the size of a tensor, and makes another one of it.
SIZES = r"shape$|ndim$|len$|new_|\w+_like$"


@dataclass(frozen=True)
class Hint:
    """One step: what kind it is, and its lines."""

    kind: str
    text: str


def hints(attempt: Attempt) -> tuple[Hint, ...]:
    """Return the hints for the gradient that an attempt has to mend or write next, the mildest first."""
    gradient = attempt.next_gradient
    if gradient is None:
        return ()
    exercise, tensor = attempt.exercise, gradient.name[1:]
    if gradient.row is not None and gradient.row.mistake and gradient.row.mistake.kind == "aliased":
        return _of_shared_memory(exercise, gradient.row, gradient.row.mistake)
    lines = uses(exercise, tensor)
    steps = [Hint("question", _misspelt(attempt, gradient) + _question(exercise, gradient, lines))]
    if lines:
        shapes = shapes_of(exercise)
        steps.append(Hint("shapes", _shapes(tensor, lines, shapes)))
        words = list(dict.fromkeys(w for line in lines for w in derivatives(line, tensor)))
        if words:
            steps.append(Hint("derivative", "\n".join(words)))
        steps.append(Hint("rule", explain_uses(tensor, gradient.name, lines, shapes)))
    steps.append(Hint("answer", "\n".join(_without_given(exercise, answer(exercise, gradient.name)))))
    return tuple(steps)


def _without_given(exercise: Exercise, lines: tuple[str, ...]) -> list[str]:
    """Leave out what the file had from the beginning, such as `a, b = cache`, up to a loop or what is new."""
    given = {line.strip() for line in blank(exercise).splitlines() if not line.endswith(":")}
    return list(dropwhile(given.__contains__, lines))


def _of_shared_memory(exercise: Exercise, row: Row, mistake: Mistake) -> tuple[Hint, ...]:
    """Return the hints where a change through another name spoils a gradient, whose own rule is right."""
    two = [f"  {line.number} | {line.text}" for line in row.lines[:2]]  # what shares it, and what changes it
    other = str(mistake.detail.get("with"))
    own = other if other in asked(exercise) else row.gradient
    question = "\n".join([f"{row.gradient}: {mistake.hint}", *two])
    return Hint("question", question), Hint("answer", "\n".join(answer(exercise, own)))


@cache
def uses(exercise: Exercise, name: str) -> tuple[str, ...]:
    """Return the lines of an exercise's forward that make something of a tensor, without their comments.

    >>> from backhand.learning.course import find
    >>> uses(find("used_twice"), "p")
    ('q = p - a', 'y = p * q')
    """
    statements = simple_statements(textbook(exercise).function("forward").body)
    made = [s for s in statements if isinstance(s, ast.Assign | ast.AugAssign) and name in reads(s)]
    text = "\n".join(textbook(exercise).lines)
    return tuple(ast.get_source_segment(text, s) or "" for s in made if not _only_its_size(s, name))


def _only_its_size(statement: ast.stmt, name: str) -> bool:
    """Tell whether a statement asks only for a tensor's size, as `x.shape[0]` and `x.new_zeros(n)` do."""
    nodes = list(ast.walk(statement))
    asked = [n.value for n in nodes if isinstance(n, ast.Attribute) and re.match(SIZES, n.attr)]
    for call in (n for n in nodes if isinstance(n, ast.Call)):
        if re.match(SIZES, getattr(call.func, "attr", getattr(call.func, "id", ""))):
            asked += call.args
    its = [n for n in nodes if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)]
    return all(any(n is value for value in asked) for n in its)


@cache
def shapes_of(exercise: Exercise) -> Shapes:
    """Return the shape of every tensor of an exercise's forward, for the inputs that it is judged with."""
    inputs = exercise.solution.inputs
    drawn = inputs(np.random.default_rng(0) if exercise.numpy else torch.Generator().manual_seed(0))
    values = {**drawn, **_forward_of(exercise)(**drawn)}
    return {
        name: tuple(value.shape) for name, value in values.items() if isinstance(value, Tensor | np.ndarray)
    }


def _forward_of(exercise: Exercise) -> Callable[..., dict[str, Any]]:
    """Return the forward of an exercise as a function that returns its variables."""
    if not exercise.numpy:
        return exercise.solution.forward
    definition = copy.deepcopy(textbook(exercise).function("forward"))
    definition.body[-1] = ast.copy_location(ast.parse("return locals()").body[0], definition.body[-1])
    ast.fix_missing_locations(definition)
    space = dict(vars(exercise.solution))
    exec(compile(ast.Module([definition], []), "<forward>", "exec"), space)
    return space["forward"]


def _question(exercise: Exercise, gradient: Gradient, lines: tuple[str, ...]) -> str:
    """Ask what leads to a gradient; for one that is wrong, say first what to look at."""
    mistake = gradient.row.mistake if gradient.row is not None and gradient.verdict != "todo" else None
    told = [mistake.hint] if mistake is not None and mistake.hint not in ("", OF_A_REPORT) else []
    tensor = gradient.name[1:]
    question = exercise.questions.get(gradient.name)
    if gradient.so_far:
        told.append(f"{gradient.reason[0].upper()}{gradient.reason[1:]}.")
    elif question is not None:
        told.append(question)
    elif len(lines) == 1:
        target = _target(lines[0])
        told.append(
            f"`{lines[0]}`: one element of {tensor} grows a little; what of {target} moves, by how much?"
        )
    elif lines:
        told.append(
            f"{len(lines)} lines of the forward read {tensor}. Which are they, and what does each send back?"
        )
    return f"{gradient.name}: " + "\n".join(told)


def _misspelt(attempt: Attempt, gradient: Gradient) -> str:
    """Tell of a name in the file that may be meant to be a gradient which is missing."""
    others = attempt.report.unmatched if attempt.report is not None and gradient.verdict == "todo" else ()
    near = next((name for name in others if nearest(name, [gradient.name], MISSPELT)), None)
    return (
        f"Your file has {near}, and there is no such tensor: did you mean {gradient.name}?\n" if near else ""
    )


def _target(line: str) -> str:
    return ", ".join(sorted(writes_surely(ast.parse(line).body[0])))


def _shapes(tensor: str, lines: tuple[str, ...], shapes: Shapes) -> str:
    """Tell the shapes of what stands in the lines that use a tensor, and where it was repeated to fit."""
    told = [f"d{tensor} has the shape of {tensor}, {shapes[tensor]}."] if tensor in shapes else []
    for line in lines:
        statement = ast.parse(line).body[0]
        target = _target(line)
        names = dict.fromkeys([*sorted(reads(statement)), target])
        known = [f"{name} {shapes[name]}" for name in names if name in shapes]
        told.append(f"`{line}`" + (f": {', '.join(known)}" if known else ""))
        if tensor in _operands(statement) and tensor in shapes and target in shapes:
            axes = axes_of_broadcast(shapes[tensor], shapes[target])
            if axes:
                told.append(f"  {tensor} was repeated along axis {' and '.join(map(str, axes))} to fit.")
    return "\n".join(told)


def _operands(statement: ast.stmt) -> list[str]:
    """Return the names that a statement's last operation combines element by element."""
    value = getattr(statement, "value", None)
    if not isinstance(value, ast.BinOp) or isinstance(value.op, ast.MatMult):
        return []
    return [n.id for n in (value.left, value.right) if isinstance(n, ast.Name)]
