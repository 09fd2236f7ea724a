"""A file's text, as Python or a notebook reads it, and its statements, also where a line is no Python yet."""

import ast
import importlib.util
import re
from pathlib import Path

from backhand.checking.report import Line, Unfinished
from backhand.errors import CheckError, in_short

# `dh = `, `dC[ix] = dem(`: what is to be assigned, though not yet how. `==` and `+=` begin nothing.
BEGUN = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)(?:\[.*?\])*\s*=(?!=)")
# Python tells of the line below a `for` that has no body; it is the `for` that is not finished.
HEADED = re.compile(r"expected an indented block after .* on line (\d+)")


def read(path: Path) -> str:
    """Return the text of a file, a Python file's in the encoding that it names.

    Raises:
        CheckError: it cannot be read, or is no text.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".py":
            return importlib.util.decode_source(data)
        return data.decode("utf-8-sig")
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        encoding = error.encoding.upper().replace("UTF8", "UTF-8")
        raise CheckError(f"{path} is not {encoding} text: {error.reason}.") from error
    except ValueError as error:  # no file can have such a name
        raise CheckError(f"{str(path)!r} cannot be read: {error}.") from error
    except SyntaxError as error:  # an encoding that Python does not know
        raise CheckError(f"{path} cannot be read: {error.msg}.") from error


def parsed(text: str, name: str) -> ast.Module:
    """Return a file's statements; raise `CheckError` where they are none of Python."""
    try:
        return ast.parse(text, name)
    except SyntaxError as error:
        where = f"{name}, line {error.lineno}" if error.lineno else name
        raise CheckError(f"{where}: {error.msg}.") from error
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte, thousands of brackets
        raise CheckError(f"{name} cannot be read as Python: {in_short(error)}.") from error


def read_as_far_as_possible(label: str, text: str) -> tuple[ast.Module, Unfinished | None]:
    """Return the statements of a cell, and the first line that could not be read, if there is one.

    A variable that such a line would have assigned is blank, as if `...` stood there.

    >>> tree, unread = read_as_far_as_possible("cell 1", "dh = \\nx = 2")
    >>> ast.unparse(tree), unread.line.number
    ('dh = ...\\nx = 2', 1)
    """
    lines = text.split("\n")
    unread: Unfinished | None = None
    for _ in lines:  # each time round, one more line is left out
        try:
            return ast.parse("\n".join(lines)), unread
        except SyntaxError as error:
            headed = HEADED.match(error.msg)
            number = int(headed[1]) if headed else error.lineno or 1
            at = min(max(number, 1), len(lines)) - 1
            if unread is None:
                unread = Unfinished(
                    label, f"SyntaxError: {error.msg}", Line(at + 1, lines[at].strip(), label)
                )
            if not _left_out(lines, at):
                break
    return ast.Module([], []), unread


def begun_in(unread: Unfinished) -> frozenset[str]:
    """Return the variable that a line would have assigned, if it was to assign one."""
    begun = BEGUN.match(unread.line.text)
    return frozenset({begun["name"]} if begun else ())


def _left_out(lines: list[str], at: int) -> bool:
    """Put a blank in a line's place; tell whether it is not one already."""
    line = lines[at]
    indent = line[: len(line) - len(line.lstrip())]
    begun = BEGUN.match(line)
    lines[at] = f"{indent}{begun['name']} = ..." if begun else f"{indent}pass"
    if lines[at] == line:  # it stands where nothing can: too far to the right, say
        lines[at] = ""
    return lines[at] != line
