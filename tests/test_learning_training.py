"""The exercise that trains: the loss curve is autograd's, or it is not done."""

from pathlib import Path

from attempting import changed, judged
from backhand.learning.blanking import solved
from backhand.learning.course import find


def test_training_with_ones_own_backward_gives_autograds_curve(tmp_path: Path):
    training = judged(tmp_path, find("mlp_fused"), solved(find("mlp_fused"))).training
    assert training.matches
    assert training.losses[0] > 3
    assert sum(training.losses[-20:]) / 20 < 2.9


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
