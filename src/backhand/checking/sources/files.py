"""`check_file`: a Python file or a notebook as it is, or, without one, the project's own 26 gradients."""

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

from backhand.checking.judging import check
from backhand.checking.report import Report
from backhand.checking.running.playing import play
from backhand.checking.running.program import Line, writes_surely
from backhand.checking.sources.exercises import check_played
from backhand.checking.sources.functions import check_function
from backhand.checking.sources.notebooks import notebook_cells
from backhand.checking.sources.scripts import Cells, Unfinished
from backhand.errors import CheckError, in_short


def check_file(
    path: str | Path | None = None,
    *,
    loss: str = "loss",
    stop_after: int | None = None,
    time_limit: float | None = None,
    draws: int = 3,
    seed: int = 0,
) -> Report:
    """Check what a file holds: a pass, a custom Function, or a script or notebook with gradients by hand.

    Args:
        path: a `.py` file with `forward`, `backward` and `inputs`; with a `torch.autograd.Function`, its
            `reference` and `inputs`, as `check_function` takes them; or with plain statements; or an `.ipynb`
            notebook, which is run cell by cell in its own folder. None checks `passes.mlp_chunked`.
        loss: the name of the scalar in which a script's or notebook's forward ends.
        stop_after: the number of the last code cell to run, counted from 1.
        time_limit: seconds after which a cell is left.
        draws: how many independent sets of inputs to try.
        seed: of the draws.

    Raises:
        CheckError: the file cannot be read or run, or holds nothing to check.
    """
    if path is None:
        from backhand.passes import mlp_chunked

        return check(mlp_chunked, draws=draws, seed=seed)
    path = Path(path)
    if path.suffix not in (".py", ".ipynb"):
        raise CheckError(f"{path} is no .py file and no .ipynb notebook.")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CheckError(f"{path} is not UTF-8 text: {error.reason}.") from error
    if path.suffix == ".py":
        tree = _parsed(text, str(path))
        functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        if {"forward", "backward"} <= functions:
            return check(_module(path), draws=draws, seed=seed)
        kernels = [n.name for n in tree.body if isinstance(n, ast.ClassDef) and _is_custom_function(n)]
        if kernels and not any(loss in writes_surely(s) for s in tree.body):
            return _check_kernel(path, kernels, draws, seed)
        return _check_cells([(path.name, text)], path, loss, time_limit, draws, seed, goes_on=False)
    cells = notebook_cells(text, path)
    kept = cells[:stop_after]
    return _check_cells(kept, path, loss, time_limit, draws, seed, goes_on=len(kept) < len(cells))


def _parsed(text: str, name: str) -> ast.Module:
    try:
        return ast.parse(text, name)
    except SyntaxError as error:
        raise CheckError(f"{name}, line {error.lineno}: {error.msg}.") from error


def _is_custom_function(definition: ast.ClassDef) -> bool:
    return any(ast.unparse(base).rpartition(".")[2] == "Function" for base in definition.bases)


def _check_kernel(path: Path, kernels: list[str], draws: int, seed: int) -> Report:
    """Check the custom Function of a file against the file's own reference."""
    module = _module(path)
    lacking = [name for name in ("reference", "inputs") if not hasattr(module, name)]
    if lacking:
        raise CheckError(
            f"{path} has the custom Function {kernels[0]}, but no {' and no '.join(lacking)}: "
            "to check it, add `reference`, the same in plain torch operations, and `inputs`, "
            "its arguments by name or a function of a torch.Generator that draws them."
        )
    if len(kernels) > 1:
        raise CheckError(
            f"{path} has several custom Functions, {', '.join(kernels)}, and one reference: "
            "give each a file of its own, or call backhand.check_function."
        )
    return check_function(
        getattr(module, kernels[0]), module.reference, module.inputs, draws=draws, seed=seed
    )


def _module(path: Path) -> Any:
    """Import a file under its own name, without leaving bytecode beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise CheckError(f"{path} raised {in_short(error)}") from error
    finally:
        sys.dont_write_bytecode = before
        sys.path.remove(str(path.parent))
    return module


def _check_cells(
    cells: list[tuple[str, str]],
    path: Path,
    loss: str,
    time_limit: float | None,
    draws: int,
    seed: int,
    *,
    goes_on: bool,
) -> Report:
    lines: list[str] = []
    starts, parsed, notes = [], [], []
    unread: list[Unfinished] = []
    for label, text in cells:
        start = len(lines) + 1
        lines += text.split("\n")
        try:
            tree = ast.parse(text)
        except SyntaxError as error:  # in a notebook: of a script, it has been told already
            number = error.lineno or 1
            notes.append(f"not run: {path}, {label}, line {number}: {error.msg}.")
            line = Line(number, (error.text or "").strip(), label)
            unread.append(Unfinished(label, f"SyntaxError: {error.msg}", line))
            continue
        ast.increment_lineno(tree, start - 1)
        starts.append((start, label))
        parsed.append((label, tree.body))
    kept = tuple(starts) if path.suffix == ".ipynb" else ()
    statements = tuple(s for _, body in parsed for s in body)
    source = Cells(statements, tuple(lines), 1, str(path), frozenset(), kept)
    played = play(source, parsed, path.resolve().parent, loss, time_limit)
    played.notes[:0] = notes
    played.unfinished[:0] = unread
    return check_played(played, path.name, draws=draws, seed=seed, goes_on=goes_on)
