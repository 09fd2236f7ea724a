"""What only Colab has: a `google.colab` that does nothing, for notebooks that import it unguarded.

One that tries the import, to see where it runs, is told the truth: it is not there.
"""

import ast
import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

PACKAGE = "google.colab"


class Absent:
    """Stands for IPython's shell, a drive, a dialogue: whatever is asked of it, nothing happens."""

    def __getattr__(self, name: str) -> "Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> "Absent":  # noqa: D102
        return self

    def __getitem__(self, _: Any) -> "Absent":
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Stub(ModuleType):
    """A module that has whatever is taken from it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent()


def lacks_colab(statement: ast.stmt, error: BaseException) -> bool:
    """Tell whether a statement is an import that failed for want of Colab."""
    name = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    its = isinstance(statement, ast.Import | ast.ImportFrom) and PACKAGE in ast.unparse(statement)
    return its and (name == "google" or name.startswith(PACKAGE)) and PACKAGE not in sys.modules


def put_colab() -> None:
    """Let `google.colab`, and what notebooks import of it, be found."""
    stub = _Stub(PACKAGE)
    stub.__path__ = []  # it is a package
    sys.modules[PACKAGE] = stub
    for part in ("drive", "files", "output", "userdata", "patches"):
        sys.modules[f"{PACKAGE}.{part}"] = _Stub(f"{PACKAGE}.{part}")
    google = sys.modules.get("google")
    if google is None:
        google = sys.modules["google"] = _Stub("google")
        google.__path__ = []
    google.colab = stub  # type: ignore[attr-defined]


@contextlib.contextmanager
def colab_forgotten() -> Iterator[None]:
    """Take away at the end what `put_colab` has put."""
    google = sys.modules.get("google")
    try:
        yield
    finally:
        for name in [n for n, module in sys.modules.items() if isinstance(module, _Stub)]:
            del sys.modules[name]
        if google is not None and isinstance(getattr(google, "colab", None), _Stub):
            vars(google).pop("colab")
