"""The notebooks: made of the course, judged right where they are solved, and open where they are blank."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

import backhand
from backhand.learning.blanking import asked
from backhand.learning.course import find

nbformat = pytest.importorskip("nbformat")
FOLDER = Path(__file__).parents[1] / "notebooks"
SOLVED = sorted(FOLDER.glob("solved/*.ipynb"))


@pytest.fixture(scope="module")
def making() -> ModuleType:
    spec = importlib.util.spec_from_file_location("making", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_the_notebooks_are_those_that_are_made_of_the_course(making: ModuleType) -> None:
    made = making.made(making.address())
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.ipynb")} == set(made)
    for name, text in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, (
            f"{name} is out of date: run `make notebooks`"
        )
        nbformat.validate(json.loads(text))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_solved_exercise_is_right_and_a_blank_one_is_open(making: ModuleType, number: int) -> None:
    name, exercise = f"lecture_{number}.ipynb", find(making.LECTURE[number - 1])
    solved = backhand.check_file(FOLDER / "solved" / name)
    blank = backhand.check_file(FOLDER / name)
    assert solved.ok
    assert not blank.culprits
    assert {row.gradient for row in blank.rows if row.verdict == "todo"} == set(asked(exercise))


@pytest.mark.parametrize(("folder", "open_"), [("solved", 0), (".", 4)])
def test_the_layers_are_right_where_they_are_solved(
    folder: str, open_: int, capsys: pytest.CaptureFixture
) -> None:
    _, *cells = code_of(FOLDER / folder / "layers.ipynb")
    exec("\n".join(cells), {"__name__": "layers"})
    shown = capsys.readouterr().out
    assert len(re.findall(r"^\w+: right", shown, re.MULTILINE)) == 4 - open_
    assert len(re.findall(r"^\w+: nothing wrong so far", shown, re.MULTILINE)) == open_


def test_a_notebook_installs_what_is_missing_and_leaves_torch_alone(making: ModuleType) -> None:
    public = making.made("https://github.com/someone/something.git")
    for name, text in public.items():
        head, setup, *_ = json.loads(text)["cells"]
        place = f"github.com/github/someone/something/blob/main/notebooks/{name}".removeprefix("github.com/")
        assert f"https://colab.research.google.com/{place}" in "".join(head["source"])
        install = [line.strip() for line in setup["source"] if "%pip" in line]
        assert install == ["%pip install --quiet git+https://github.com/someone/something.git"]


@pytest.mark.parametrize("folder", ["", "solved/"])
def test_without_an_address_a_notebook_is_uploaded_with_the_wheel(
    making: ModuleType, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, setup, *_ = json.loads(making.made(None)[f"{folder}lecture_1.ipynb"])["cells"]
    assert "](https://colab.research.google.com/)" in "".join(head["source"])
    plain = [line for line in setup["source"] if not line.startswith("%load_ext")]
    installing = "".join(plain).replace("%pip install --quiet {place}", "pass")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    def place_in(here: Path) -> Path:
        monkeypatch.chdir(here)
        found: dict[str, Path] = {}
        exec(installing, found)
        return found["place"]

    assert (FOLDER / folder / place_in(FOLDER / folder)).resolve() == FOLDER.parent
    with pytest.raises(AssertionError, match="put the wheel of backhand"):
        place_in(tmp_path)
    (tmp_path / "backhand-0.1.0-py3-none-any.whl").touch()
    assert place_in(tmp_path) == Path("backhand-0.1.0-py3-none-any.whl")


@pytest.mark.seconds
@pytest.mark.filterwarnings("default")  # of zmq and its event loop
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem == "lecture_2" else pytest.mark.slow) for p in SOLVED],
    ids=lambda path: path.stem,
)
def test_a_solved_notebook_runs_in_a_kernel(path: Path) -> None:
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.read(path, as_version=4)
    client.NotebookClient(
        book, kernel_name="python3", timeout=120, resources={"metadata": {"path": path.parent}}
    ).execute()
    shown = [
        output.get("text", "") or output["data"]["text/plain"]
        for cell in book.cells
        for output in cell.get("outputs", [])
    ]
    assert any(re.search(r"right\.|agree", text) for text in shown)
    assert not any(": wrong" in text for text in shown)
