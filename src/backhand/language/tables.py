"""Tables of text: one column of a CSV file, and telling a table from a list of words."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from backhand.errors import WordsError
from backhand.showing import plain

DELIMITERS = (",", ";", "\t", "|")
LOOKED_AT = 50
"""Lines that are looked at to tell a table from a list."""


def csv_column(text: str, column: str, path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield the line number and the value of one named column for every row of a CSV text.

    The delimiter is the one with which the first row has that column.
    """
    headers = {delimiter: first_row(text, delimiter) for delimiter in DELIMITERS}
    delimiter = next((d for d, header in headers.items() if column in header), None)
    if delimiter is None:
        raise WordsError(f"{path} has no column {column!r}; its columns are: {listed(widest(headers))}")
    header = headers[delimiter]
    if header.count(column) > 1:
        raise WordsError(f"{path} has {header.count(column)} columns {column!r}; give them different names")
    where = header.index(column)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        next(row for row in rows if row)
        for row in rows:
            if len(row) > len(header):
                raise WordsError(
                    f"{path}, line {rows.line_num}: {len(row)} fields, and {len(header)} in the first line; "
                    f"put a field that holds {delimiter!r} into double quotes"
                )
            if row:
                yield rows.line_num, row[where] if where < len(row) else ""
    except csv.Error as error:
        raise WordsError(f"{path}, line {rows.line_num}: not valid CSV: {plain(str(error))}") from None


def refuse_table(text: str, path: str | Path) -> None:
    """Raise if a text that should hold one word a line is a table: as many fields in each of its first lines.

    A comma with a space after it stands inside a word ("Bonillo, El").
    """
    lines = [line for line in islice(io.StringIO(text), 2 * LOOKED_AT) if line.strip()][:LOOKED_AT]
    for delimiter in DELIMITERS:
        if len(lines) < 2 or not all(delimiter in line for line in lines):
            continue
        rows = parsed("".join(lines), delimiter)
        counts = {len(row) for row in rows}
        inside = delimiter == "," and any(field.startswith(" ") for row in rows for field in row)
        if len(counts) == 1 and counts != {1} and not inside:
            raise WordsError(f"{path} is a table; choose one with --column: {listed(rows[0])}")


def first_row(text: str, delimiter: str) -> list[str]:
    """Return the names of a table's columns; none if they cannot be read."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        return next((row for row in rows if row), [])
    except csv.Error:
        return []


def parsed(text: str, delimiter: str) -> list[list[str]]:
    """Return the rows of a text; none if it is not CSV."""
    try:
        return list(csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter))
    except csv.Error:
        return []


def widest(headers: dict[str, list[str]]) -> list[str]:
    """Return the header of most columns."""
    return max(headers.values(), key=len)


def listed(names: list[str]) -> str:
    """Return columns as a message lists them."""
    return ", ".join(f"{name!r:.60}" for name in names[:20]) + (", ..." if len(names) > 20 else "") or "none"
