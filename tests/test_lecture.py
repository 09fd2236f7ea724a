"""The lecture's whole training run on the lecture's own list; about two minutes."""

from pathlib import Path

import pytest

import backhand


@pytest.mark.slow
def test_200000_steps_reach_the_lectures_losses(lecture_list: Path, tmp_path: Path) -> None:
    run = backhand.train(backhand.TrainConfig(words=str(lecture_list)), out=tmp_path / "run")
    assert run.results["train"] == pytest.approx(2.07, abs=0.01)
    assert run.results["dev"] == pytest.approx(2.11, abs=0.01)
