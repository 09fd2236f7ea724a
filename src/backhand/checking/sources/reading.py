"""A file's text, as Python or a notebook reads it, and its statements."""

import ast
import importlib.util
from pathlib import Path

from backhand.errors import CheckError, in_short


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
