"""A solved exercise's lines beside the textbook's."""

import ast
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from backhand.checking.running.statements import simple_statements, writes_surely
from backhand.learning.attempts import Attempt
from backhand.learning.blanking import asked, textbook


@dataclass(frozen=True)
class Beside:
    """The lines that make one gradient, the learner's and the textbook's, without comments."""

    name: str
    own: tuple[str, ...]
    textbook: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What a learner wrote otherwise than the textbook.

    Attributes:
        differing: the gradients that are made otherwise.
        told: one sentence on the difference.
    """

    differing: tuple[Beside, ...]
    told: str


def compared(attempt: Attempt) -> Comparison:
    """Return the lines of a solved exercise that are written otherwise than the textbook's.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from backhand.learning.attempts import judge_file
    >>> from backhand.learning.blanking import solved
    >>> from backhand.learning.course import find
    >>> path = Path(tempfile.mkdtemp()) / "01_product.py"
    >>> _ = path.write_text(solved(find("product")).replace("da = b * dy", "da = dy * b"))
    >>> compared(judge_file(find("product"), path)).differing
    (Beside(name='da', own=('da = dy * b',), textbook=('da = b * dy',)),)
    """
    tree = ast.parse(attempt.path.read_text(encoding="utf-8"))
    own = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "backward"][-1]
    theirs = textbook(attempt.exercise).function("backward")
    names = asked(attempt.exercise)
    every = [Beside(n, _making(own.body, n, names), _making(theirs.body, n, names)) for n in names]
    lines = len(set().union(*(b.own for b in every))), len(set().union(*(b.textbook for b in every)))
    differing = tuple(b for b in every if b.own != b.textbook)
    return Comparison(differing, _told(*lines) if differing else "Line by line what the textbook has.")


def _told(own: int, theirs: int) -> str:
    if own == theirs:
        return "As many lines as the textbook has, some of them written otherwise."
    more = "more" if own > theirs else "fewer"
    return f"Your gradients take {own} lines, the textbook's {theirs}: {abs(own - theirs)} {more}."


def _making(body: Sequence[ast.stmt], name: str, asked_for: Collection[str]) -> tuple[str, ...]:
    """Return the lines that make a gradient, as Python would write them; of a loop of its own all lines."""
    lines: list[str] = []
    for statement in body:
        inner = simple_statements([statement])
        made = [s for s in inner if name in writes_surely(s)]
        others = set().union(*map(writes_surely, inner)) & set(asked_for) - {name}
        for shown in made if others else [statement] * bool(made):
            lines += ast.unparse(shown).splitlines()
    return tuple(lines)
