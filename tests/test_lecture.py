"""The lecture's whole training run on the lecture's own list; some three minutes."""

from pathlib import Path

import pytest

import backhand
from backhand.language.config import EngineName


@pytest.mark.slow
def test_200000_steps_reach_the_lectures_losses_with_the_native_and_the_fused_engine(
    lecture_list: Path, tmp_path: Path
) -> None:
    reached = []
    engines: tuple[EngineName, EngineName] = ("native", "fused")
    for engine in engines:
        config = backhand.TrainConfig(words=str(lecture_list), engine=engine)
        reached.append(backhand.train(config, out=tmp_path / engine).results)
    native, fused = reached
    assert native["train"] == pytest.approx(2.07, abs=0.01)
    assert native["dev"] == pytest.approx(2.11, abs=0.01)
    assert native == pytest.approx(fused, abs=0.002)
