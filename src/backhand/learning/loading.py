"""Reading a learner's file: what does not parse or raises is told by its line."""

import ast
import linecache
import sys
import traceback
from pathlib import Path
from types import ModuleType

from backhand.learning.blanking import textbook
from backhand.learning.course import Exercise
from backhand.learning.unfinished import without_open_stages


class Problem(Exception):  # noqa: N818  (told to the learner, not an error of the program)
    """Why a file cannot be judged, in one line."""


def load(exercise: Exercise, path: Path) -> tuple[ModuleType, frozenset[str]]:
    """Run a learner's file; return it as a module, and the gradients with a stage that is still blank.

    Raises:
        Problem: it cannot be read, does not parse, raises, or is no longer the exercise.
    """
    try:
        text = path.read_text(encoding="utf-8")
        ast.parse(text, str(path))
    except FileNotFoundError:
        if path.is_symlink():
            told = f"{path.name} is a link to {path.readlink()}, which is not there."
            raise Problem(told) from None
        raise Problem(f"{path.name} is not there; `backhand learn` writes it when it begins.") from None
    except OSError as error:
        raise Problem(f"{path.name} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise Problem(f"{path.name} is no text: {error}.") from None
    except SyntaxError as error:
        shown = (error.text or "").strip()
        raise Problem(f"line {error.lineno}: {error.msg}{f': {shown}' if shown else ''}") from None
    text, open_stages = without_open_stages(text, "backward")
    tree = ast.parse(text, str(path))
    refuse_another_forward(exercise, tree)
    # the check reads the source of what runs, so it is this text, not the file's
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(tree, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # the learner's code may raise anything
        raise Problem(in_one_line(error, path)) from None
    if not callable(getattr(module, "backward", None)):
        raise Problem("there is no function `backward` in the file.")
    return module, open_stages


def in_one_line(error: BaseException, path: Path) -> str:
    """Return an exception with the last line of the learner's file that it came through."""
    frames = [f for f in traceback.extract_tb(sys.exc_info()[2]) if f.filename == str(path)]
    text = str(error).strip().split("\n", 1)[0]
    where = f"line {frames[-1].lineno}: " if frames else ""
    code = f" in `{frames[-1].line}`" if frames and frames[-1].line else ""
    return f"{where}{type(error).__name__}{code}: {text}"


def refuse_another_forward(exercise: Exercise, tree: ast.Module) -> None:
    """Raise if the forward is not the exercise's: otherwise changing it would be a way to pass."""
    expected = textbook(exercise).function("forward")
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "forward"]
    if not found:
        raise Problem("there is no function `forward` in the file.")
    ours, theirs = _statements(expected), _statements(found[-1])
    if [a.arg for a in found[-1].args.args] != [a.arg for a in expected.args.args]:
        raise Problem(f"line {found[-1].lineno}: the parameters of forward were changed; it stays as given.")
    for mine, other in zip(ours, theirs, strict=False):
        if ast.dump(mine) != ast.dump(other):
            raise Problem(
                f"line {other.lineno}: the forward was changed; it stays as given: {ast.unparse(mine)}"
            )
    if len(ours) != len(theirs):
        raise Problem(f"line {found[-1].lineno}: the forward was changed; it stays as given.")


def _statements(function: ast.FunctionDef) -> list[ast.stmt]:
    """Return the statements without the docstring."""
    return [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
