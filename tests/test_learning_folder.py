"""A learner's folder: nobody's work is lost, and a grader can read it."""

import json
from pathlib import Path

import pytest

import backhand
from attempting import changed
from backhand.errors import LearnError
from backhand.learning.attempts import Attempt, judge_file
from backhand.learning.blanking import blank, solved
from backhand.learning.course import Exercise, course, find
from backhand.learning.folder import judge_all, judge_folder, reset_exercise, write_course
from backhand.learning.notebooks import write_notebooks


def test_files_that_are_there_are_never_overwritten(tmp_path: Path):
    write_course(tmp_path)
    mine = tmp_path / "01_product.py"
    mine.write_text("# my work")
    (tmp_path / "02_used_twice.py").unlink()
    assert [p.name for p in write_course(tmp_path)] == ["02_used_twice.py"]
    assert mine.read_text() == "# my work"


def test_an_exercise_that_had_another_number_is_still_the_learners(tmp_path: Path):
    before = tmp_path / "40_batch_norm.py"
    before.write_text("# my work")
    other = tmp_path / "40_norm.py"
    other.write_text("# not of the course")
    path = tmp_path / find("batch_norm").file_name
    assert path not in write_course(tmp_path)
    assert path.read_text() == "# my work"
    assert not before.exists()
    assert other.exists()


def test_a_reset_keeps_the_old_file_beside_the_new_one(tmp_path: Path):
    write_course(tmp_path)
    path = tmp_path / "01_product.py"
    assert reset_exercise(tmp_path, "1") is None
    path.write_text("# first")
    assert reset_exercise(tmp_path, "1").read_text() == "# first"
    path.write_text("# second")
    assert reset_exercise(tmp_path, "product").read_text() == "# second"
    assert path.read_text() == blank(find("1"))


def test_a_disk_that_is_full_leaves_no_empty_exercise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(LearnError, match="No space left on device"):
        write_course(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_link_to_nothing_is_not_written_through(tmp_path: Path):
    folder, outside = tmp_path / "learn", tmp_path / "outside.py"
    folder.mkdir()
    link = folder / "01_product.py"
    link.symlink_to(outside)
    write_course(folder)
    assert not outside.exists()
    assert "is a link to" in judge_folder(folder)["product"].problem
    kept = reset_exercise(folder, "1")
    assert kept is not None
    assert kept.is_symlink()
    assert link.read_text() == blank(find("1"))
    assert not outside.exists()


@pytest.mark.slow
def test_a_folder_is_judged_as_data_for_graders(tmp_path: Path):
    write_course(tmp_path)
    (tmp_path / "01_product.py").write_text(solved(find("1")))
    twice = changed(find("2"), ("dp = q * dy + dq", "dp = q * dy"))
    (tmp_path / "02_used_twice.py").write_text(twice)
    data = json.loads(json.dumps(judge_folder(tmp_path).to_dict()))
    assert (data["done"], data["solved"], len(data["exercises"])) == (False, 1, len(course()))
    second = data["exercises"][1]
    assert second["credit"] == 0.75
    assert data["credit"] == pytest.approx(1.75 / len(course()), abs=1e-4)
    assert second["gradients"][1]["mistake"] == "missing_branch"
    assert "branch" in second["gradients"][1]["reason"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(LearnError, match="is no folder"):
        judge_folder(tmp_path / "nowhere")
    with pytest.raises(LearnError, match=r"no exercise 'produkt'; did you mean product"):
        find("produkt")
    with pytest.raises(LearnError, match=r"no exercise '99'; there are product, used_twice"):
        find("99")


@pytest.mark.slow
def test_learn_without_watching_writes_and_judges(tmp_path: Path):
    progress = backhand.learn(tmp_path / "learn")
    assert progress.solved == 0
    lines = str(progress).splitlines()
    assert f"0/{len(course())}" in lines[0]
    assert max(len(line) for line in lines) <= 80


@pytest.mark.slow
def test_the_course_over_numpy_is_one_of_its_own(tmp_path: Path):
    written = write_course(tmp_path, numpy=True)
    assert [p.name for p in written] == [e.file_name for e in course(numpy=True)]
    wrong = changed(find("relu", numpy=True), ("x > 0", "x < 0"))
    (tmp_path / "05_relu.py").write_text(wrong)
    (tmp_path / "01_product.py").write_text(solved(find("product", numpy=True)))
    progress = judge_folder(tmp_path, numpy=True)
    assert (progress.solved, progress["relu"].done) == (1, False)
    assert "`x < 0` stands where `x > 0` belongs" in progress["relu"].gradients[0].reason
    assert reset_exercise(tmp_path, "relu", numpy=True).read_text() == wrong


def test_the_notebooks_over_numpy_end_in_a_call_that_is_judged(tmp_path: Path):
    files = write_notebooks(tmp_path, numpy=True)
    assert len(files) == len(course(numpy=True))
    cells = ["".join(c["source"]) for c in json.loads(files[6].read_text())["cells"]]
    assert cells[-1].endswith("backward(dout, cache)")
    space: dict = {}
    for cell in cells[2:4]:
        exec("import numpy as np\n" + cell, space)
    exec(cells[-2].replace("...", "dout"), space)
    exec(cells[-1], space)
    assert space["out"].shape == space["dout"].shape


def test_an_untouched_exercise_is_not_run(tmp_path: Path):
    write_course(tmp_path)
    (tmp_path / "02_used_twice.py").write_text((tmp_path / "02_used_twice.py").read_text() + "\n")
    (tmp_path / "03_broadcasting.py").unlink()
    ran = []

    def judge(exercise: Exercise, path: Path) -> Attempt:
        ran.append(exercise.name)
        return judge_file(exercise, path)

    progress = judge_all(tmp_path, judge)
    assert ran == ["used_twice", "broadcasting"]
    assert {g.verdict for attempt in progress.attempts for g in attempt.gradients} == {"todo"}
    assert not progress["product"].problem
    assert progress["broadcasting"].problem, "whose file is not there"
