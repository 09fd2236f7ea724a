"""What a file imports from beside it, forgotten afterwards, and which code is the user's."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from backhand.checking.running.endings import installed

# How many folders above its own a file may be run from: a chapter's, within a part's, within the project's.
LEVELS = 3
# Not the user's, wherever they are installed.
NEVER = {"backhand", "numpy", "torch", "builtins"}


class _Above:
    """Finds what is nowhere else in the folders above, for a program may be started from one of them."""

    def __init__(self, folder: Path):
        self._folders = folder.parents[:LEVELS]
        self.used: set[Path] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a module's place, as the import system asks for it; what is in a package it finds itself."""
        del target
        for folder in self._folders if path is None else ():
            spec = PathFinder.find_spec(name, [str(folder)])
            # of a folder that says nothing, its own files and its subfolders' tell: it may hold a lot of data
            if spec is not None and (spec.loader is not None or _has_code(folder / name)):
                self.used.add(folder)
                return spec
        return None


def _has_code(package: Path) -> bool:
    return any(any(package.glob(files)) for files in ("*.py", "*/*.py"))


@contextlib.contextmanager
def imports_from(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours, and forget them: another folder's may have the same names.

    To be used within a sandbox, which puts the path back: what the file imports late finds it, too.
    """
    folder = folder.resolve()
    others = _standing_for_neighbours(folder)
    for name in others:
        del sys.modules[name]
    known, path = set(sys.modules), set(sys.path)
    above = _Above(folder)
    sys.meta_path.append(above)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # the folder is the user's
    try:
        yield
    finally:
        # with those of other folders that the file itself has put on the path
        sys.meta_path.remove(above)
        own = {folder, *above.used, *(Path(entry).resolve() for entry in sys.path if entry not in path)}
        # all are looked up before one goes: a package without a file asks the one around it where it stands
        new = {name: _folders(sys.modules[name]) for name in set(sys.modules) - known}
        for name, folders in new.items():
            # an environment may lie within the project: what is installed there stays imported
            if own & {*folders} and not installed(str(folders[0])):
                del sys.modules[name]
        sys.modules.update(others)


def _standing_for_neighbours(folder: Path) -> dict[str, ModuleType]:
    """Return the user's modules from other folders that have the name of a file or a folder of this one."""
    with contextlib.suppress(OSError):
        names = {entry.stem for entry in folder.iterdir() if entry.is_dir() or entry.suffix == ".py"}
        found = {n: m for n, m in sys.modules.items() if n.partition(".")[0] in names and n != "__main__"}
        return {
            n: m
            for n, m in found.items()
            if (folders := _folders(m)) and folder not in folders and not installed(str(folders[0]))
        }
    return {}


def _folders(module: ModuleType) -> list[Path]:
    """Return the folders in which a module's file stands, the innermost first; none for a built-in one."""
    places = [getattr(module, "__file__", None)]
    with contextlib.suppress(KeyError):  # the package around it is gone
        places += vars(module).get("__path__") or ()
    return [parent for place in places if isinstance(place, str) for parent in Path(place).resolve().parents]


def is_the_users(space: Mapping[str, Any]) -> bool:
    """Tell whether a module uses NumPy by itself, and is none of an installed package."""
    file = str(space.get("__file__") or "")
    installed = "site-packages" in file or "dist-packages" in file or "/lib/python" in file
    return not installed and str(space.get("__name__")).partition(".")[0] not in NEVER
