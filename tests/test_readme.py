"""What the README and the pages of docs/ show is what happens."""

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import backhand
from backhand import cli
from backhand.learning.course import course

FOLDERS = ("src", "tests", "benchmarks", "examples", "notebooks", "docs")
ROOT = Path(__file__).parents[1]
SLOW = ("words.md", "engineer.md", "ci.md", "public.md")  # they train, or start a process for each command
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def stripped(text: str) -> list[str]:
    """The lines, but for how many times autograd's own rounding a wrong gradient is off: machines differ."""
    lines = [line.rstrip() for line in text.rstrip().splitlines()]
    return [re.sub(r"\de(\+\d\d)x$", r"…e\1x", line) for line in lines]


def output_of(file: Path) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(file), run_name="__main__")
    return stripped(printed.getvalue())


def output_of_tests(file: Path) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file.name]
    result = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    return stripped(result.stdout)


def output_of_command(command: str, folder: Path) -> str:
    """What a line of a terminal session prints; a plain check runs in this process, which is faster."""
    if re.fullmatch(r"backhand check [\w.]+", command):
        with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", command.split())
            with contextlib.suppress(SystemExit):
                cli.main()
        return printed.getvalue()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shell = ["bash", "-c", command]
    return subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True).stdout


def shown(page: Path) -> bool:
    return "```" in page.read_text(encoding="utf-8")


@pytest.mark.seconds
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow if p.name in SLOW else ()) for p in PAGES if shown(p)],
    ids=named,
)
def test_a_page_shows_what_happens(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python prints the text block right below it; a block with a title is that file, for the commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = blocks(page)
    for number, (block, following) in enumerate(zip(found, [*found[1:], None], strict=True)):
        file = tmp_path / (block.title or f"example_{number}.py")
        if block.title or block.language == "python":
            file.write_text(block.text, encoding="utf-8")
        if block.language == "python":
            printed = (output_of_tests if file.name.startswith("test_") else output_of)(file)
            if following is not None and following.language == "text":
                assert printed == stripped(following.text)
        if block.language == "console":
            for command, expected in COMMAND.findall(block.text):
                assert stripped(output_of_command(command, tmp_path)) == stripped(expected)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=named)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_keys_for_a_program_are_those_that_stand_there() -> None:
    page = (ROOT / "docs" / "checking.md").read_text(encoding="utf-8")
    text = page.split("## For a program")[1].split("##")[0]

    def backward(dy):
        dx = dy
        return locals()

    report = backhand.check(lambda x: {"y": 2 * x}, backward, inputs={"x": torch.randn(3)}, out="y").to_dict()
    (row,) = report["rows"]
    for key in [*report, *row, *row["mistake"], *row["lines"][0]]:
        assert f"`{key}`" in text


def test_the_file_tree_names_every_module() -> None:
    (tree,) = [block.text for block in blocks(ROOT / "CONTRIBUTING.md") if "src/backhand" in block.text]
    source = ROOT / "src" / "backhand"
    for file in [*source.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        if file.name not in ("__init__.py", "__main__.py"):
            assert re.search(rf"^\s*{re.escape(file.name)}\s+\S", tree, re.MULTILINE), file.name
    roots = [ROOT / name for name in FOLDERS]
    there = {path.name for root in roots for path in [root, *root.rglob("*")]}
    for line in tree.splitlines():
        name = line.split()[0].rstrip("/").rpartition("/")[2]
        assert name in there, name


# notebooks, kept as text, are run by IPython in test_rendering_notebook.py
SCRIPTS = [path for path in (ROOT / "examples").glob("*.py") if "%load_ext" not in path.read_text()]


@pytest.mark.seconds
@pytest.mark.parametrize("example", SCRIPTS, ids=lambda path: path.name)
def test_every_example_runs(example: Path, tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_the_exercises_that_the_pages_name_are_there() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"\b\d\d_\w+\.py", page.read_text())}
    assert {"01_product.py", "17_mlp_fused.py"} <= named
    assert named <= {exercise.file_name for exercise in (*course(), *course(numpy=True))}
