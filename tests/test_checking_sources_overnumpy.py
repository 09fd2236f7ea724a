"""Which line of a backward over NumPy is told first, and in which words."""

import re

import numpy as np
import pytest
from torch import Tensor

from altered import from_text
from backhand import Report
from backhand.checking.running.arrays import Tensors
from backhand.checking.sources.layers import layers_of

LAYERS = """
import numpy as np


class Norm:
    def __init__(self, dim):
        self.gain = np.ones(dim)

    def forward(self, x):
        self.mean = x.mean(axis=0)
        self.centred = x - self.mean
        self.scale = 1 / np.sqrt((self.centred**2).mean(axis=0) + 1e-5)
        self.hat = self.centred * self.scale
        return self.hat * self.gain

    def backward(self, grad):
        self.dgain = (grad * self.hat).sum(axis=0)
        dhat = grad * self.gain
        along = (dhat * self.hat).mean(axis=0)
        dcentred = self.scale * (dhat - self.hat * along)
        total = dcentred.sum(axis=0)
        dx = dcentred - total / len(grad)
        return dx


class Cell:
    def __init__(self, n_in, n_out):
        self.W = np.ones((n_in, n_out))
        self.dW = np.zeros((n_in, n_out))

    def forward(self, x):
        self.x = x
        self.h = np.tanh(x @ self.W)
        return self.h * 3.0

    def backward(self, grad):
        dh = grad * 3.0
        da = dh * (1 - self.h**2)
        self.dW += self.x.T @ da
        return da @ self.W.T


class Gate:
    def forward(self, x):
        self.x = x
        return np.log(1 + np.exp(x))

    def backward(self, grad):
        slope = 1 / (1 + np.exp(-self.x))
        dx = grad * slope
        return dx


class Squash:
    def forward(self, x):
        self.y = np.tanh(x)
        return self.y

    def backward(self, grad):
        return grad * (1 - self.y**2)


def gate_forward(x, w):
    a = x * w
    return np.maximum(a, 0), (x, w, a)


def gate_backward(dout, cache):
    x, w, a = cache
    da = dout * (a > 0)
    dx = da * w
    dw = da * x
    return dx, dw


def blur_forward(x):
    rows = x.shape[0] - 1
    out = np.zeros((rows, x.shape[1]))
    for i in range(rows):
        out[i] = x[i : i + 2].mean(axis=0)
    return out, (x, rows)


def blur_backward(dout, cache):
    x, rows = cache
    dx = np.zeros_like(x)
    for i in range(rows):
        share = dout[i] / 2
        dx[i : i + 2] += share
    return dx
"""


def report_on(old: str, new: str) -> Report:
    """Check the layer of which a line reads differently."""
    assert LAYERS.count(old) == 1
    name = re.findall(r"^(?:class|def) (\w+)", LAYERS[: LAYERS.index(old)], re.MULTILINE)[-1]
    (layer,) = [layer for layer in layers_of(from_text(LAYERS.replace(old, new))) if layer.name == name]
    return layer.check()


def test_they_are_right():
    layers = layers_of(from_text(LAYERS))
    assert [layer.name for layer in layers if layer.check().ok] == [layer.name for layer in layers]


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        # what the forward keeps on an attribute has the gradient of that name
        ("da = dh * (1 - self.h**2)", "da = dh", "da = dh"),
        ("dh = grad * 3.0", "dh = self.h", "dh = self.h"),
        ("dhat = grad * self.gain", "dhat = self.gain", "dhat = self.gain"),
        ("da = dout * (a > 0)", "da = a > 0", "da = a > 0"),
        # of a local derivative nothing is known; the line that reads it does nothing but multiply
        ("1 / (1 + np.exp(-self.x))", "1 / (2 + np.exp(-self.x))", "slope = 1 / (2 + np.exp(-self.x))"),
        ("return grad * (1 - self.y**2)", "return grad", "return grad"),
        # what an attribute is given stands where it is given
        ("self.dW += self.x.T", "self.dW -= self.x.T", "self.dW -= self.x.T @ da"),
        ("dx[i : i + 2] +=", "dx[i:i] +=", "dx[i:i] += share"),
        ("share = dout[i] / 2", "share = dout[i] / 4", "share = dout[i] / 4"),
    ],
)
def test_the_line_at_fault_comes_first(old: str, new: str, line: str):
    (row, *_) = report_on(old, new).culprits
    assert row.lines[0].text == line


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("slope = 1 /", "slope = -1 /", "slope = -1 / (1 + np.exp(-self.x))"),
        ("x, w, a = cache\n", "x, w, a = cache\n    w = -w\n", "w = -w"),
    ],
)
def test_a_minus_too_many_is_told_where_it_stands(old: str, new: str, line: str):
    (row,) = report_on(old, new).culprits
    assert (row.lines[0].text, row.mistake and row.mistake.kind) == (line, "sign")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("(dhat * self.hat).mean", "dhat.mean", "the factor self.hat is missing"),
        ("self.scale * (dhat", "(dhat", "the factor self.scale is missing"),
        ("return grad * (1 - self.y**2)", "return grad", "grad is handed on as it is"),
    ],
)
def test_it_is_told_in_the_words_of_the_text(old: str, new: str, words: str):
    (row, *_) = report_on(old, new).culprits
    assert row.mistake is not None
    assert words in row.mistake.message


def test_a_gradient_that_no_line_leaves_shows_no_line_of_another():
    (row,) = report_on("        self.dW += self.x.T @ da\n", "").culprits
    assert [line.text for line in row.lines] == ["return da @ self.W.T"]


STRIDED = """
import numpy as np


def conv_forward(x, w, b, conv_param):
    s, p, (k, m) = conv_param["stride"], conv_param["pad"], w.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    height, width = (padded.shape[2] - k) // s + 1, (padded.shape[3] - m) // s + 1
    out = np.zeros((len(x), len(w), height, width))
    for i in range(height):
        for j in range(width):
            part = padded[:, :, i * s : i * s + k, j * s : j * s + m]
            out[:, :, i, j] = np.tensordot(part, w, axes=([1, 2, 3], [1, 2, 3])) + b
    return out, (padded, w, s, p)


def conv_backward(dout, cache):
    padded, w, s, p = cache
    k, m = w.shape[2:]
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for i in range(dout.shape[2]):
        for j in range(dout.shape[3]):
            top, left = i * s, j * s
            d = dout[:, :, i, j]
            dw += np.tensordot(d, padded[:, :, top : top + k, left : left + m], axes=([0], [0]))
            dpadded[:, :, top : top + k, left : left + m] += np.tensordot(d, w, axes=([1], [0]))
    return dpadded[:, :, p:-p, p:-p], dw, dout.sum(axis=(0, 2, 3))
"""


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("i * s, j * s\n            d", "i, j * s\n            d", "top, left = i, j * s"),
        ("+= np.tensordot(d, w,", "= np.tensordot(d, w,", "dpadded[:, :, top : top + k, left : left + m] ="),
    ],
)
def test_a_convolution_that_forgets_its_stride_or_its_sum_is_wrong(old: str, new: str, line: str):
    assert STRIDED.count(old) == 1
    (right,), (wrong,) = (layers_of(from_text(text)) for text in (STRIDED, STRIDED.replace(old, new)))
    assert right.check().ok
    culprits = wrong.check().culprits
    assert culprits[0].lines[0].text.startswith(line)


def test_what_is_put_into_a_list_within_a_tuple_is_seen_the_next_time() -> None:
    tensors, held = Tensors(), ([], np.ones(2))
    assert tensors.of(held)[0] == []
    held[0].append(np.zeros(3))
    assert isinstance(tensors.of(held)[0][0], Tensor)
    plain = np.ones(2), np.zeros(3)
    assert tensors.of(plain) is tensors.of(plain)


FORGETFUL = """
import numpy as np

RUNS = []

def step_backward(dh, dc, step, w, u):
    x, h, c, gate, a, made = step
    dc = dc + dh * gate * (1 - np.tanh(made) ** 2)
    da = (dh * np.tanh(made) + dc * c) * gate * (1 - gate) + dc * (1 - np.tanh(a) ** 2)
    return da @ w.T, da @ u.T, dc * gate, x.T @ da, h.T @ da

def memory_forward(x, w, u):
    h = c = np.zeros((len(x), u.shape[1]))
    hs, steps = np.zeros((*x.shape[:2], u.shape[1])), []
    for t in range(x.shape[1]):
        a = x[:, t] @ w + h @ u
        gate = 1 / (1 + np.exp(-a))
        made = gate * c + np.tanh(a)
        steps.append((x[:, t], h, c, gate, a, made))
        c, h = made, gate * np.tanh(made)
        hs[:, t] = h
    return hs, (steps, w, u)

def memory_backward(dhs, cache):
    steps, w, u = cache
    RUNS.append(1)
    dw, du, dx = np.zeros_like(w), np.zeros_like(u), np.zeros((*dhs.shape[:2], len(w)))
    dh = dc = np.zeros_like(dhs[:, 0])
    for t in reversed(range(dhs.shape[1])):
        dx[:, t], dh, dc, dw_t, du_t = step_backward(dhs[:, t] + dh, 0 * dc, steps[t], w, u)
        dw += dw_t
        du += du_t
    return dx, dw, du

def inputs(rng):
    return {"x": rng.normal(size=(2, 4, 3)), "w": rng.normal(size=(3, 5)), "u": rng.normal(size=(5, 5))}
"""


def test_a_layer_over_time_is_run_once_for_all_that_would_put_the_same_tensors_there() -> None:
    module = from_text(FORGETFUL)
    (layer,) = (layer for layer in layers_of(module) if layer.name == "memory_backward")
    (culprit,) = layer.check().culprits
    assert "0 * dc" in culprit.lines[0].text
    assert len(module.RUNS) < 400  # 226; one for each name under which a tensor is known were 576


ATTENTION = """
import numpy as np


def weigh_forward(x, w, b, v):
    keys = x @ w + b
    scores = keys @ np.ones(keys.shape[1])
    e = np.exp(scores - scores.max())
    p = e / e.sum()
    return p @ (x * v), (x, w, v, p)


def weigh_backward(dy, cache):
    x, w, v, p = cache
    dp = (x * v) @ dy
    dscores = p * (dp - (dp * p).sum())
    dkeys = np.outer(dscores, np.ones(w.shape[1]))
    dw = x.T @ dkeys
    db = dkeys.sum(axis=0)
    dxv = np.outer(p, dy)
    dx = dkeys @ w.T + dxv * v
    dv = (dxv * x).sum(axis=0)
    return dx, dw, db, dv


def inputs(rng):
    x, w, b, v = (rng.normal(size=size) for size in ((4, 3), (3, 5), 5, 3))
    return {"x": x, "w": w, "b": b, "v": v}
"""


@pytest.mark.parametrize(
    ("old", "new"), [("dp = (x * v) @ dy", "dp = 2 * (x * v) @ dy"), ("dp = (x * v) @ dy", "dp = x @ dy")]
)
def test_a_gradient_that_is_zero_whatever_is_wrong_acquits_no_line(old: str, new: str):
    (layer,) = layers_of(from_text(ATTENTION))
    assert layer.check().ok
    (layer,) = layers_of(from_text(ATTENTION.replace(old, new)))
    report = layer.check()
    assert {row.name: row.verdict for row in report.rows}["b"] == "vacuous"
    (row,) = report.culprits
    assert row.lines[0].text == new


SCORED = """
import numpy as np


class Scored:
    def forward(self, x, t):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.y, self.t = e / e.sum(axis=1, keepdims=True), t
        return -np.log(self.y[np.arange(len(t)), t] + 1e-7).mean()

    def backward(self, dout=1):
        n = -self.t.shape[0]
        dx = self.y.copy()
        dx[np.arange(n), self.t] -= 1
        dx /= n
        return dx


def inputs(rng):
    return {"x": rng.normal(size=(3, 5)), "t": rng.integers(5, size=3)}
"""


def test_a_number_that_lets_another_line_raise_is_told_beside_a_tiny_constant_of_the_forward():
    (layer,) = layers_of(from_text(SCORED))
    (row,) = layer.check().culprits
    assert row.lines[0].text == "n = -self.t.shape[0]"
    assert row.mistake is not None
    assert "(line 14 raises IndexError" in row.mistake.message


ON_AN_OBJECT = """
import numpy as np


class Scale:
    def __init__(self, n_in, n_out):
        self.W, self.b = np.random.randn(n_in, n_out), np.zeros(n_out)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        rows = -self.x.reshape(-1, self.x.shape[-1])
        drows = dout.reshape(-1, dout.shape[-1])
        self.dW = rows.T @ drows
        self.db = drows.sum(axis=0)
        return dout @ self.W.T
"""


def test_what_is_left_on_an_object_acquits_no_line_that_makes_something_else_there():
    (layer,) = layers_of(from_text(ON_AN_OBJECT))
    (row,) = layer.check().culprits
    assert (row.gradient, row.lines[0].text) == ("dW", "rows = -self.x.reshape(-1, self.x.shape[-1])")
