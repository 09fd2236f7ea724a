"""The exercise that trains: the loss curve is autograd's, or it is not done."""

from pathlib import Path

import pytest

from attempting import changed, judged
from backhand.errors import ConfigError, LearnError, WrongGradientError
from backhand.language.config import TrainConfig
from backhand.language.recipes import RnnConfig
from backhand.language.training import train
from backhand.learning.blanking import solved
from backhand.learning.course import find
from backhand.learning.engine import engine_of


@pytest.mark.seconds
def test_training_with_ones_own_backward_gives_autograds_curve(tmp_path: Path):
    training = judged(tmp_path, find("mlp_fused"), solved(find("mlp_fused"))).training
    assert training.matches
    assert training.losses[0] > 3
    assert sum(training.losses[-20:]) / 20 < 2.9
    assert len(training.words) == 8
    assert all(word.isalpha() for word in training.words)


def test_training_that_leaves_autograds_curve_is_not_done(tmp_path: Path):
    late = "    CALLS.append(1)\n    if len(CALLS) > 120: dC = 0 * dC\n    return locals()"
    text = changed(find("mlp_fused"), ("    return locals()", late))
    attempt = judged(tmp_path, find("mlp_fused"), f"CALLS = []\n{text}")
    assert attempt.report.ok
    assert not attempt.training.matches
    assert not attempt.done


def test_training_that_raises_is_told(tmp_path: Path):
    late = "    CALLS.append(1)\n    if len(CALLS) > 120: raise ValueError('late')\n    return locals()"
    text = changed(find("mlp_fused"), ("    return locals()", late))
    attempt = judged(tmp_path, find("mlp_fused"), f"CALLS = []\n{text}")
    assert attempt.training.error == "ValueError: late"
    assert not attempt.done


@pytest.mark.slow
def test_a_run_is_trained_with_ones_own_backward_and_learns_what_the_textbooks_does(tmp_path: Path):
    exercise = find("mlp_fused")
    file = tmp_path / exercise.file_name
    file.write_text(solved(exercise))
    config = TrainConfig(words="municipios", n_hidden=8, steps=20, batch_norm="running")
    engine = engine_of(file)
    own = train(config, out=tmp_path / "own", engine=engine)
    ours = train(config, out=tmp_path / "ours")
    assert own.results == pytest.approx(ours.results, rel=1e-4)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("old", "new"), [("dh = dlogits @ W2.T", "dh = -dlogits @ W2.T"), ("db1 = dhprebn.sum(0)", "db1 = ...")]
)
def test_a_backward_that_is_not_right_trains_nothing_and_its_report_says_why(old, new, tmp_path: Path):
    exercise = find("mlp_fused")
    file = tmp_path / exercise.file_name
    file.write_text(changed(exercise, (old, new)))
    with pytest.raises(WrongGradientError, match=old[:3]):
        engine_of(file)


@pytest.mark.seconds
def test_a_file_that_is_no_language_model_is_refused(tmp_path: Path):
    file = tmp_path / "01_product.py"
    file.write_text(solved(find("product")))
    with pytest.raises(LearnError, match="none of the exercises mlp_fused"):
        engine_of(file)
    with pytest.raises(LearnError, match="is not there"):
        engine_of(tmp_path / "17_mlp_fused.py")


def test_a_backward_of_ones_own_trains_no_other_type(tmp_path: Path) -> None:
    config = RnnConfig(words="municipios", steps=2)
    with pytest.raises(ConfigError, match="not the rnn"):
        train(config, out=tmp_path / "run", engine=lambda *given: given[0])
    assert not (tmp_path / "run").exists()
