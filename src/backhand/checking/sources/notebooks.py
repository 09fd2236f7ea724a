"""A notebook's cells as Python: what only IPython understands becomes a comment; lines keep their numbers."""

import ast
import json
import re
from pathlib import Path

from backhand.errors import CheckError

# IPython's own magics that run Python among the notebook's variables, as a cell without them would.
TRANSPARENT = r"(?:time|capture|prun)\b"
CELL_MAGIC = re.compile(r"%%(?P<runs>" + TRANSPARENT + ")?")
LINE_MAGIC = re.compile(r"(?P<indent>\s*)(?:[\w\s,.*]+=\s*[%!]|[%!?]|.*\?\s*$)")
TIMED = re.compile(r"(?P<indent>\s*)%" + TRANSPARENT + r"\s*(?P<code>.+)")


def notebook_cells(text: str, path: Path) -> list[tuple[str, str]]:
    """Return the code cells of a notebook as Python, each with a label.

    Raises:
        CheckError: it is no notebook.
    """
    try:
        notebook = json.loads(text)
    except ValueError as error:
        raise CheckError(f"{path} is no notebook, for it is not JSON: {error}.") from error
    try:
        found = [c for c in notebook["cells"] if c["cell_type"] == "code"]
        sources = ["".join(c["source"]) for c in found]
    except (KeyError, TypeError) as error:
        raise CheckError(f"{path} is no notebook of format 4: it has no list of cells.") from error
    return [(f"cell {i}", as_python(s)) for i, s in enumerate(sources, start=1)]


def as_python(text: str) -> str:
    """Return a cell without magics and shell commands, dedented as IPython does it.

    Only lines that Python cannot read are looked at, so that a `%` that goes on with an expression, or a
    comment that ends in a question mark, stays what it is.

    >>> print(as_python("%matplotlib inline\\nx = 1  # why?"))
    pass  # %matplotlib inline
    x = 1  # why?
    """
    lines = dedented(text.split("\n"))
    if magic := CELL_MAGIC.match(text):
        other = not magic["runs"]
        lines = [f"# {line}" if other or i == 0 else line for i, line in enumerate(lines)]
    for _ in range(len(lines)):
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            if not _without_magic(lines, (error.lineno or 0) - 1):
                break
        else:
            break
    return "\n".join(lines)


def dedented(lines: list[str]) -> list[str]:
    """Return the lines of a cell without the blanks that stand before the first: IPython takes them off."""
    first = next((line for line in lines if line.strip()), "")
    blanks = first[: len(first) - len(first.lstrip())]
    return [line.removeprefix(blanks) for line in lines]


def _without_magic(lines: list[str], at: int) -> bool:
    """Make the magic on one line a comment, with the lines that continue it; tell whether there was one."""
    if not 0 <= at < len(lines) or lines[at].lstrip().startswith("#"):
        return False
    if timed := TIMED.fullmatch(lines[at]):
        lines[at] = timed["indent"] + timed["code"]
        return True
    magic = LINE_MAGIC.match(lines[at])
    if magic is None:
        return False
    goes_on = True
    while goes_on and at < len(lines):
        goes_on = lines[at].endswith("\\")
        lines[at] = f"{magic['indent']}pass  # {lines[at].strip()}"
        at += 1
    return True
