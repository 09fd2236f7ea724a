"""Hints in steps for one gradient: a question, the shapes, the derivative in words, the rule, the answer."""

import ast
import copy
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import dropwhile

import numpy as np
import torch
from torch import Tensor

from backhand.checking.broadcasts import Shapes, axes_of_broadcast
from backhand.checking.explaining import derivatives, explain_uses, mentions
from backhand.checking.meanings import KINDS
from backhand.checking.report import Mistake, Row
from backhand.checking.running.names import MISSPELT, nearest
from backhand.checking.running.statements import reads, simple_statements, writes_surely
from backhand.learning.attempts import Attempt, Gradient
from backhand.learning.blanking import answer, asked, blank, second_stages, textbook
from backhand.learning.course import Exercise

# The hint where nothing is known speaks of a report, which a learner has not.
OF_A_REPORT = KINDS["unexplained"].hint


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
        steps.append(Hint("rule", _rule(attempt, tensor)))
    steps.append(Hint("answer", _answer(exercise, gradient)))
    return tuple(steps)


def _rule(attempt: Attempt, tensor: str) -> str:
    """Return the rule for a tensor's gradient, and for what that is made of and the file does not have."""
    exercise = attempt.exercise
    known = {*asked(exercise), *_assigned(attempt)}
    entries = _entries(exercise)
    todo, told = [tensor], []
    for name in todo:  # grows on the way
        if name in entries and name != tensor:
            told.append(
                f"{name} is an entry of {entries[name]}: d{name} is its own entry of d{entries[name]}."
            )
            continue
        told.append(explain_uses(name, f"d{name}", uses(exercise, name), shapes_of(exercise)))
        for entry in [e for e, its_list in entries.items() if its_list == name]:
            more = [line for line in uses(exercise, entry) if f"{name}.append" not in line]
            told.append(f"An entry of {name} is the {entry} of its turn, and d{name} has this besides:")
            told += explain_uses(entry, f"d{entry}", more, shapes_of(exercise)).splitlines()[1:]
        if set(uses(exercise, name)) & _repeated(exercise, name):
            told.append("Every turn of the loop sends back its own part, and they add up.")
        told += [
            f"The {target} that `{line}` reads is the one before it, and has a gradient of its own."
            for line in uses(exercise, name)
            if (target := _target(line)) in reads(ast.parse(line).body[0]) and line.startswith(f"{target} =")
        ]
        for other in re.findall(r"\bd([A-Za-z_]\w*)", "\n".join(told)):
            if f"d{other}" not in known and other not in todo and uses(exercise, other):
                todo.append(other)
    if "dloss" not in known and re.search(r"\bdloss\b", "\n".join(told)):
        told.append("dloss is 1.")
    return "\n".join(dict.fromkeys(told))


@cache
def _entries(exercise: Exercise) -> dict[str, str]:
    """Return the tensors that are put into a list whose gradients are asked for, each with the list."""
    statements = simple_statements(textbook(exercise).function("forward").body)
    found = {name: _filled_with(s, name) for s in statements for name in reads(s)}
    return {name: its_list for name, its_list in found.items() if f"d{its_list}" in asked(exercise)}


def _assigned(attempt: Attempt) -> set[str]:
    """Return the names that the learner's backward is given, or makes in lines that were not there before."""
    with suppress(OSError, SyntaxError, ValueError):
        body = ast.parse(attempt.path.read_text(encoding="utf-8")).body
        backward = next(n for n in reversed(body) if isinstance(n, ast.FunctionDef) and n.name == "backward")
        given = {line.partition("#")[0].strip() for line in blank(attempt.exercise).splitlines()}
        own = [s for s in simple_statements(backward.body) if ast.unparse(s) not in given]
        return {a.arg for a in backward.args.args}.union(*map(writes_surely, own))
    return set()


@cache
def _repeated(exercise: Exercise, name: str) -> frozenset[str]:
    """Return the lines of the forward's loops, of those loops that do not make a tensor anew."""
    loops = [s for s in textbook(exercise).function("forward").body if isinstance(s, ast.For)]
    loops = [s for s in loops if name not in writes_surely(s)]
    text = "\n".join(textbook(exercise).lines)
    return frozenset(
        ast.get_source_segment(text, s) or "" for loop in loops for s in simple_statements(loop.body)
    )


def _answer(exercise: Exercise, gradient: Gradient) -> str:
    """Return the textbook's lines; of a gradient of two stages, each with its place."""
    lines = _without_given(exercise, answer(exercise, gradient.name))
    before = second_stages(exercise).get(gradient.name)
    if before is None:
        return "\n".join(lines)
    second = next(i for i, line in enumerate(lines) if line.startswith(f"{gradient.name} +="))
    first = [] if gradient.so_far else lines[:second]
    return "\n".join([*first, f"further down, after {before}:", *lines[second:]])


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
    text = "\n".join(textbook(exercise).lines)
    return tuple(ast.get_source_segment(text, s) or "" for s in statements if _uses(exercise, s, name))


def _uses(exercise: Exercise, statement: ast.stmt, name: str) -> bool:
    """Tell whether a statement makes something of a tensor's values, if only a list that is used itself."""
    if isinstance(statement, ast.Assign | ast.AugAssign):
        again = isinstance(statement, ast.AugAssign) and name in reads(statement)
        return again or mentions(statement.value, name)
    its_list = _filled_with(statement, name)
    return bool(its_list) and bool(uses(exercise, its_list))


def _filled_with(statement: ast.stmt, name: str) -> str:
    """Return the list that a statement such as `hs.append(h)` puts a tensor into, or an empty string."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "append":
        return ast.unparse(call.func.value) if any(mentions(n, name) for n in call.args) else ""
    return ""


@cache
def shapes_of(exercise: Exercise) -> Shapes:
    """Return the shape of every tensor of an exercise's forward, for the inputs that it is judged with."""
    inputs = exercise.solution.inputs
    drawn = inputs(np.random.default_rng(0) if exercise.numpy else torch.Generator().manual_seed(0))
    definition = copy.deepcopy(textbook(exercise).function("forward"))
    parts = {ast.unparse(n): n for s in definition.body for n in ast.walk(s) if isinstance(n, ast.expr)}
    definition.body[-1] = ast.copy_location(ast.parse("return locals()").body[0], definition.body[-1])
    ast.fix_missing_locations(definition)
    space = dict(vars(exercise.solution))
    exec(compile(ast.Module([definition], []), "<forward>", "exec"), space)
    space |= {**drawn, **space["forward"](**drawn)}
    found = {name: tuple(v.shape) for name, v in space.items() if isinstance(v, Tensor | np.ndarray)}
    for text, node in parts.items():  # a part of a line has no name: it is computed once more
        with suppress(Exception):  # it has variables of its own, such as those of a comprehension
            value = eval(compile(ast.Expression(node), "<part>", "eval"), space)
            if isinstance(value, Tensor | np.ndarray):
                found[text] = tuple(value.shape)
    return found


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
