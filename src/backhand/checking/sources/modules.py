"""A user's file as a module, with the packages that it stands in."""

import ast
import contextlib
import importlib
import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from backhand.checking.sources.reading import parsed, read
from backhand.errors import CheckError, in_short


def roots_of(path: Path) -> list[Path]:
    """Return the folders from which a file may import: its own, and those above that hold what it imports.

    A program of a chapter may put them on the path by where it is started, or by itself.
    """
    tree = parsed(read(path), str(path))
    imports = _imports(tree)
    if any(
        isinstance(n, ast.ImportFrom) and n.level for n in imports
    ):  # what its neighbours import comes too
        for neighbour in sorted(path.resolve().parent.glob("*.py")):
            with contextlib.suppress(CheckError):
                imports += _imports(parsed(read(neighbour), str(neighbour)))
    names = {alias.name for n in imports if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module or "" for n in imports if isinstance(n, ast.ImportFrom) and not n.level}
    packages = {name.partition(".")[0] for name in names}
    own = path.resolve().parent
    above = [folder for folder in own.parents if any(_holds(folder, name) for name in names)]
    packages |= {folder.name for folder in _packages(path, tree)[:1]}
    inside = [folder.parent for folder in path.resolve().parents if folder.name in packages]
    return [*(folder for folder in above if folder not in inside), *inside, own]


def _imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


def _packages(path: Path, tree: ast.Module) -> list[Path]:
    """Return the folders that are packages, the outermost first, as far as `from ..layers` goes up.

    What it imports may go up further, to where the folders say that they are packages.
    """
    level = max((n.level for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)), default=0)
    folders = path.resolve().parents
    while level and level < len(folders) and (folders[level] / "__init__.py").is_file():
        level += 1
    return list(folders[:level])[::-1]


def _holds(folder: Path, name: str) -> bool:
    """Tell whether a folder has a module of the user's by its dotted name; not all packages say so."""
    first, *inner = name.split(".")
    if (folder / first / "__init__.py").is_file() or (folder / f"{first}.py").is_file():
        return bool(name)
    whole = folder.joinpath(first, *inner)
    return bool(inner) and (whole.with_suffix(".py").is_file() or whole.is_dir())


def module_of(path: Path) -> ModuleType:
    """Import a file, as a part of its folders where it imports its neighbours by `from .` or `from ..`."""
    module, spec = begun_module(path)
    try:
        spec.loader.exec_module(module)  # type: ignore[union-attr]
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise CheckError(f"{path} raised {in_short(error)}") from error
    return module


def begun_module(path: Path) -> tuple[ModuleType, ModuleSpec]:
    """Return a file's module of which nothing has run yet; the package around it is imported."""
    package = ".".join(folder.name for folder in _packages(path, parsed(read(path), str(path))))
    name = f"{package}.{path.stem}" if package else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    if package:
        try:
            importlib.import_module(package)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise CheckError(f"{path} raised {in_short(error)}") from error
    return importlib.util.module_from_spec(spec), spec
