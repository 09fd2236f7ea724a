"""What the README and the pages of docs/ show is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import backhand

FOLDERS = ("src", "tests", "benchmarks", "examples", "docs")
README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path = README) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page",
    [
        README,
        README.parent / "docs" / "checking.md",
        README.parent / "docs" / "language.md",
        README.parent / "docs" / "numpy.md",
    ],
    ids=lambda path: path.name,
)
def test_the_example_prints_what_stands_below_it(page: Path, tmp_path: Path) -> None:
    (language, code), (_, shown) = blocks(page)[:2]
    assert language == "python"
    (tmp_path / "example.py").write_text(code)
    command = [sys.executable, "example.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [line.rstrip() for line in result.stdout.splitlines()] == shown.splitlines()


def test_the_pair_of_the_readme_is_right(tmp_path: Path) -> None:
    (code,) = [text for language, text in blocks() if language == "python" and "check_pair(" in text]
    (tmp_path / "pair.py").write_text(code)
    subprocess.run([sys.executable, "pair.py"], cwd=tmp_path, check=True)


def test_the_test_of_a_suite_passes(tmp_path: Path) -> None:
    (code,) = [text for _, text in blocks(README.parent / "docs" / "checking.md") if "check_pass" in text]
    (tmp_path / "test_suite.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_suite.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 passed" in result.stdout


def test_the_keys_for_a_program_are_those_that_stand_there() -> None:
    page = (README.parent / "docs" / "checking.md").read_text(encoding="utf-8")
    text = page.split("## For a program")[1].split("##")[0]

    def backward(dy):
        dx = dy
        return locals()

    report = backhand.check(lambda x: {"y": 2 * x}, backward, inputs={"x": torch.randn(3)}, out="y").to_dict()
    (row,) = report["rows"]
    for key in [*report, *row, *row["mistake"], *row["lines"][0]]:
        assert f"`{key}`" in text


def test_the_commands_print_what_stands_below_them(tmp_path: Path) -> None:
    (session,) = [text for language, text in blocks() if language == "console"]
    entries = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert len(entries) == 3
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, shown in entries:
        shell = ["bash", "-c", command]
        result = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.rstrip() == shown.rstrip()


def test_the_file_tree_names_every_module() -> None:
    (tree,) = [text for language, text in blocks() if language == "text" and "src/backhand" in text]
    source = README.parent / "src" / "backhand"
    for file in source.rglob("*.py"):
        if file.name not in ("__init__.py", "__main__.py"):
            assert re.search(rf"^\s*{re.escape(file.name)}\s+\S", tree, re.MULTILINE), file.name
    roots = [README.parent / name for name in FOLDERS]
    there = {path.name for root in roots for path in [root, *root.rglob("*")]}
    for line in tree.splitlines():
        name = line.split()[0].rstrip("/").rpartition("/")[2]
        assert name in there, name


# notebooks, kept as text, are run by IPython in test_rendering_notebook.py
SCRIPTS = [path for path in (README.parent / "examples").glob("*.py") if "%load_ext" not in path.read_text()]


@pytest.mark.parametrize("example", SCRIPTS, ids=lambda path: path.name)
def test_every_example_runs(example: Path, tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout
