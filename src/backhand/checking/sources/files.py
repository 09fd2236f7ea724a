"""`check_file`: a Python file or a notebook as it is, or, without one, the project's own 26 gradients."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

from backhand.checking.judging import check
from backhand.checking.merging import check_played
from backhand.checking.report import Report
from backhand.checking.running.sandbox import imports_from, sandbox
from backhand.checking.running.statements import writes_surely
from backhand.checking.sources.cells import written
from backhand.checking.sources.functions import check_function
from backhand.checking.sources.layers import declares_layers
from backhand.checking.sources.notebooks import notebook_cells
from backhand.checking.sources.playing import play
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

    >>> import tempfile
    >>> script = Path(tempfile.mkdtemp()) / "script.py"
    >>> code = "x = torch.randn(4, requires_grad=True)", "loss = x.square().sum()", "dx = x"
    >>> _ = script.write_text("\\n".join(("import torch", *code)))
    >>> report = check_file(script)
    >>> report["x"].mistake.kind, report["x"].lines[0].number
    ('scale', 4)
    """
    if path is None:  # what the project itself is about
        from backhand.passes import mlp_chunked

        return check(mlp_chunked, draws=draws, seed=seed)
    path = Path(path)
    if path.suffix not in (".py", ".ipynb"):
        raise CheckError(f"{path} is no .py file and no .ipynb notebook.")
    text = _read(path)
    if path.suffix == ".ipynb":
        cells = notebook_cells(text, path)
        kept = cells[:stop_after]
        return _check_cells(kept, path, loss, time_limit, draws, seed, goes_on=len(kept) < len(cells))
    tree = _parsed(text, str(path))
    if declares_layers(tree):
        raise CheckError(f"{path} has layers over NumPy: backhand.check_layers judges each of them.")
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    kernels = [n.name for n in tree.body if isinstance(n, ast.ClassDef) and _is_custom_function(n)]
    # what the module sets when it is imported holds while it is checked
    with sandbox(), imports_from(path.parent):
        if {"forward", "backward"} <= functions:
            return check(_module(path), draws=draws, seed=seed)
        # a script that computes a loss is a script, whatever classes it defines on the way
        if kernels and not any(loss in writes_surely(s) for s in tree.body):
            return _check_kernel(path, kernels, draws, seed)
    return _check_cells([(path.name, text)], path, loss, time_limit, draws, seed, goes_on=False)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CheckError(f"{path} is not UTF-8 text: {error.reason}.") from error


def _parsed(text: str, name: str) -> ast.Module:
    try:
        return ast.parse(text, name)
    except SyntaxError as error:
        raise CheckError(f"{name}, line {error.lineno}: {error.msg}.") from error


def _is_custom_function(definition: ast.ClassDef) -> bool:
    # by its text, for the file has not been imported yet
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
    """Import a file under its own name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise CheckError(f"{path} raised {in_short(error)}") from error
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
    """Run cells in the file's own folder, and judge what they hold while all that they set still holds."""
    file = written(cells, str(path), told=path.suffix == ".ipynb")
    with sandbox(path.resolve().parent):
        played = play(file, loss, time_limit)
        return check_played(played, path.name, draws=draws, seed=seed, goes_on=goes_on)
