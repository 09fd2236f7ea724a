"""`watch`: verdicts when a backward is called, in any program."""

import types

import numpy as np
import pytest

from backhand import CheckError, check_class, check_pair, watch
from backhand.checking.running.alarms import time_left
from backhand.checking.sources import watching
from backhand.checking.sources.paired import Functions
from backhand.checking.sources.watching import Seen, judged_in_time


class Affine:
    def __init__(self):
        self.W = np.arange(15.0).reshape(5, 3)
        self.b = np.zeros(3)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        self.dW = self.x.T @ dout
        self.db = dout.mean(axis=0)
        self.dx = dout @ self.W.T
        return self.dx


def test_a_layer_is_judged_once_when_it_is_called_and_is_itself_again_afterwards(capsys):
    before = Affine.forward, Affine.backward
    layer, x = Affine(), np.random.default_rng(0).normal(size=(4, 5))
    layer.backward(layer.forward(x))  # what it keeps of a call is no parameter
    stop = watch(Affine)
    for _ in range(3):
        layer.backward(layer.forward(x))
    shown = capsys.readouterr().out
    assert shown.count("Affine: wrong. 1 at fault.") == 1
    assert "self.db = dout.mean(axis=0)" in shown
    stop()
    assert (Affine.forward, Affine.backward) == before


def wrong_pair() -> types.ModuleType:
    module = types.ModuleType("mine")
    text = (
        "def scale_forward(x, w): return x * w, (x, w)\n"
        "def scale_backward(dout, cache): return dout * cache[1], dout * cache[1]"
    )
    exec(text, vars(module))
    return module


def test_the_pairs_of_a_module_are_judged_when_they_are_called(capsys):
    module = wrong_pair()
    stop = watch(module)
    out, cache = module.scale_forward(np.arange(3.0) + 1, np.array([1.0, -2.0, 0.5]))
    module.scale_backward(out, cache)
    assert "scale_backward: wrong" in capsys.readouterr().out
    stop()
    assert not hasattr(module.scale_backward, "__wrapped__")


def test_what_a_check_calls_is_no_call_of_the_users(capsys):
    module = wrong_pair()
    inputs = [np.arange(3.0) + 1, np.array([1.0, -2.0, 0.5])]
    stop, end = watch(module), watch(Affine)
    report = check_pair(module.scale_forward, module.scale_backward, inputs)
    assert [row.name for row in report.culprits] == ["w"]
    report = check_class(Affine(), [np.random.default_rng(0).normal(size=(4, 5))])
    assert [row.gradient for row in report.culprits] == ["db"]
    assert not capsys.readouterr().out
    module.scale_backward(*module.scale_forward(*inputs))
    assert "scale_backward: wrong" in capsys.readouterr().out
    stop()
    end()


def test_nothing_that_has_no_backward_is_watched():
    with pytest.raises(CheckError, match="no module and no class"):
        watch(int)


def test_a_verdict_at_a_prompt_is_not_kept_back_for_a_name() -> None:
    def shift_forward(x, w):
        return x * w, (x, w)

    def shift_backward(dout, cache):
        x, w = cache
        left.append(time_left())
        return dout * w, dout * x

    left: list[float] = []
    pair = Functions.of(shift_forward, shift_backward)
    inputs = {"x": np.arange(3.0) + 1, "w": np.ones(3)}
    assert judged_in_time(Seen(pair, inputs, {"dout": np.ones(3)})).ok
    assert left
    assert max(left) <= watching.SOON
