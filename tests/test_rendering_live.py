"""`watch`: verdicts when a backward is called, in any program."""

import types

import numpy as np
import pytest

from altered import from_text
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


RECURRENT = """
import numpy as np

def step_forward(x, h, W, U):
    after = np.tanh(x @ W + h @ U)
    return after, (x, h, W, U, after)

def step_backward(dafter, cache):
    x, h, W, U, after = cache
    da = dafter * (1 - after**2)
    return da @ W.T, da @ U.T, x.T @ da, h.T @ da

def loop_forward(xs, h0, W, U):
    h, hs, caches = h0, [], []
    for t in range(xs.shape[1]):
        h, cache = step_forward(xs[:, t], h, W, U)
        hs.append(h)
        caches.append(cache)
    return np.stack(hs, axis=1), caches

def loop_backward(dhs, caches):
    dxs, dW, dU, dnext = [], 0, 0, np.zeros(dhs[:, 0].shape)
    for t in reversed(range(len(caches))):
        dx, dnext, dw, du = step_backward(dhs[:, t], caches[t])
        dxs.insert(0, dx)
        dW += dw
        dU += du
    return np.stack(dxs, axis=1), dnext, dW, dU
"""


def test_what_a_watched_function_calls_is_looked_into_though_it_is_watched_too(capsys):
    module = from_text(RECURRENT)
    stop = watch(module)
    rng = np.random.default_rng(0)
    sizes = (2, 4, 3), (2, 3), (3, 3), (3, 3)
    hs, caches = module.loop_forward(*(rng.normal(size=size) for size in sizes))
    module.loop_backward(rng.normal(size=hs.shape), caches)
    shown = capsys.readouterr().out
    assert "step_backward: right" in shown
    assert "loop_backward: wrong. 1 at fault, 3 follows." in shown
    assert "the term dnext is missing" in shown
    assert hasattr(module.step_backward, "__wrapped__")  # it is watched further
    stop()
    assert not any(hasattr(f, "__wrapped__") for f in vars(module).values())


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
