"""The cells of a script, a notebook or a session as statements, numbered through, each known by its cell."""

import ast
import linecache
from collections.abc import Sequence
from dataclasses import dataclass, replace

from backhand.checking.report import Line, Unfinished
from backhand.checking.running.program import Source
from backhand.checking.sources.reading import read_as_far_as_possible


@dataclass(frozen=True, eq=False)
class Cells(Source):
    """The source of several cells; a line is told with its number within its cell.

    Attributes:
        starts: the number of each cell's first line, with what the cell is called; none in a plain script.
    """

    starts: tuple[tuple[int, str], ...] = ()

    def line(self, number: int) -> Line:
        """Return a line with its number within its cell."""
        plain = super().line(number)
        # the last cell that begins at or above it
        before = [(start, label) for start, label in self.starts if start <= number]
        if not before:
            return plain
        start, label = before[-1]
        return Line(number - start + 1, plain.text, label)

    def cell(self, statement: ast.stmt) -> str:
        """Return the label of the cell in which a statement stands; empty in a plain script."""
        return (self.line(statement.lineno).file or "") if self.starts else ""

    def place(self, statement: ast.stmt) -> str:
        """Return where a statement stands, in words: its cell, or in a plain script its line."""
        return self.cell(statement) or f"line {statement.lineno}"

    def with_cell(self, label: str, text: str, tree: ast.Module) -> "Cells":
        """Return these cells and one more, whose statements are renumbered to follow them."""
        ast.increment_lineno(tree, len(self.lines))
        return replace(
            self,
            statements=(*self.statements, *tree.body),
            lines=(*self.lines, *text.split("\n")),
            starts=(*self.starts, (len(self.lines) + 1, label)),
        )

    def of(self, statements: Sequence[ast.stmt], names: frozenset[str]) -> "Cells":
        """Return some of the statements, which assign these names, as a source of their own."""
        return replace(self, statements=tuple(statements), local_names=names)


@dataclass(frozen=True)
class Written:
    """What a file holds, before it has run.

    Attributes:
        source: all statements.
        cells: the statements of each cell, with its label.
        unread: the first line of each cell that is no Python, which is left out.
    """

    source: Cells
    cells: tuple[tuple[str, tuple[ast.stmt, ...]], ...]
    unread: tuple[Unfinished, ...] = ()


def written(cells: Sequence[tuple[str, str]], file: str, *, told: bool) -> Written:
    """Return cells, each with its label and text, as statements.

    Args:
        cells: label and text of each.
        file: the path of the file.
        told: lines are told with their cell, as in a notebook; a script is one cell, and is not.
    """
    source, parsed, unread = Cells((), (), file=file), [], []
    for label, text in cells:
        tree, broken = read_as_far_as_possible(label, text)
        unread += [broken] if broken is not None else []
        source = source.with_cell(label, text, tree)
        if tree.body:
            parsed.append((label, tuple(tree.body)))
    if told:  # where Python looks up the text of a line: that of the file is JSON
        text = "\n".join(source.lines)
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    # without starts, a line is told with the file's name and its own number
    return Written(source if told else replace(source, starts=()), tuple(parsed), tuple(unread))
