"""The public face: what `backhand` exports is documented with an example, and complete."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import backhand
from backhand import cli, errors

SOURCE = Path(backhand.__file__).parent
PUBLIC = {name: getattr(backhand, name) for name in backhand.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example_that_runs(name: str):
    text = inspect.getdoc(PUBLIC[name]) or ""  # the doctests themselves run with the modules
    assert ">>> " in text
    assert f"{name}(" in text.split(">>> ", 1)[1]


def test_every_verb_of_the_command_line_is_a_function():
    verbs = {"check": "check_file"}  # of a file; `check` takes functions
    for name in ("check", "learn", "train", "evaluate", "sample", "inspect", "bench"):
        assert inspect.isfunction(getattr(cli, name))
        assert verbs.get(name, name) in FUNCTIONS


def test_every_error_of_a_user_can_be_caught_by_its_name():
    own = {n for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, errors.BackhandError)}
    assert own <= set(PUBLIC)


def test_whatever_a_report_holds_can_be_imported():
    held = {n for n, v in vars(backhand.checking.report).items() if hasattr(v, "__dataclass_fields__")}
    assert held == {
        *("Code", "Line", "Mistake", "Numbers", "Pictures"),
        *("Raised", "Report", "Row", "Sheet", "Unfinished"),
    }
    assert held <= set(PUBLIC)


@pytest.mark.seconds
def test_every_type_of_the_public_face_is_known():
    pytest.importorskip("pyright")
    command = [sys.executable, "-m", "pyright", "--verifytypes", "backhand", "--ignoreexternal"]
    folder = str(Path(sys.executable).parent)  # pyright asks the first `python` for what is installed
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=SOURCE.parents[1].parent
    )
    assert "Type completeness score: 100%" in done.stdout, done.stdout[-4000:] + done.stderr


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


def imports(module: str, tree: ast.Module, known: set[str]) -> set[str]:
    """Return the modules of the package that one imports, within its functions as well."""
    package = module if (SOURCE.parent / module.replace(".", "/")).is_dir() else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= inner & known or {base}
    return (found & known) - {module}


@pytest.mark.seconds
def test_no_module_imports_one_that_imports_it():
    trees = modules()
    graph = {name: imports(name, tree, set(trees)) for name, tree in trees.items() if name != "backhand"}
    while leaves := {name for name, used in graph.items() if not used & graph.keys()}:
        for name in leaves:
            del graph[name]
    assert not graph, f"a circle, or above one: {sorted(graph)}"


@pytest.mark.seconds
def test_what_is_rendered_does_not_know_its_renderer():
    trees = modules()
    for name, tree in trees.items():
        if name.startswith(("backhand.checking", "backhand.learning")):
            assert not {m for m in imports(name, tree, set(trees)) if "rendering" in m}, name
