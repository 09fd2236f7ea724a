"""Which inputs a layer over NumPy is given that no test calls: those on which its two halves fit."""

import pytest

from altered import from_text
from backhand import CheckError, Report
from backhand.checking.sources.layers import layers_of

LAYERS = """
import numpy as np


class DropChannels2d:
    def __init__(self, p=0.4):
        self.p = p

    def forward(self, a):
        self.mask = np.random.binomial(1, 1 - self.p, a.shape[:2])
        while self.mask.ndim < 4:
            self.mask = self.mask[..., None]
        return a * self.mask / (1 - self.p)

    def backward(self, dLda):
        return dLda * self.mask / (1 - self.p)


class Weighted:
    def forward(self, hs, a):
        n, t, h = hs.shape
        self.hs, self.a = hs, a.reshape(n, t, 1)
        return np.sum(hs * self.a, axis=1)

    def backward(self, dc):
        n, t, h = self.hs.shape
        dar = dc.reshape(n, 1, h) * self.hs
        dhs, da = dc.reshape(n, 1, h) * self.a, dar.sum(axis=2)
        return dhs, da


class MeanPool2d:
    def __init__(self, kernel, stride):
        self.kernel, self.stride = kernel, stride

    def forward(self, A):
        self.shape = A.shape
        rows, columns = ((n - self.kernel) // self.stride + 1 for n in A.shape[2:])
        out = np.zeros((*A.shape[:2], rows, columns))
        for i in range(rows):
            for j in range(columns):
                out[:, :, i, j] = A[self._at(i, j)].mean(axis=(2, 3))
        return out

    def _at(self, i, j):
        k, s = self.kernel, self.stride
        return slice(None), slice(None), slice(i * s, i * s + k), slice(j * s, j * s + k)

    def backward(self, dLdZ):
        dLdA = np.zeros(self.shape)
        for i in range(dLdZ.shape[2]):
            for j in range(dLdZ.shape[3]):
                dLdA[self._at(i, j)] += dLdZ[:, :, i, j][:, :, None, None] / self.kernel**2
        return dLdA


class ConvLayer:  # the channels last
    def __init__(self, in_channels, out_channels, filter_size, padding):
        self.W = np.random.randn(filter_size, filter_size, in_channels, out_channels)
        self.size, self.padding = filter_size, padding

    def forward(self, X):
        p = self.padding
        self.padded = np.pad(X, ((0, 0), (p, p), (p, p), (0, 0)))
        rows, columns = (n + 2 * p - self.size + 1 for n in X.shape[1:3])
        out = np.zeros((len(X), rows, columns, self.W.shape[-1]))
        for r in range(rows):
            for c in range(columns):
                part = self.padded[:, r : r + self.size, c : c + self.size]
                out[:, r, c] = np.tensordot(part, self.W, axes=([1, 2, 3], [0, 1, 2]))
        return out

    def backward(self, d_out):
        d_padded, self.dW, p = np.zeros_like(self.padded), np.zeros_like(self.W), self.padding
        for r in range(d_out.shape[1]):
            for c in range(d_out.shape[2]):
                part = self.padded[:, r : r + self.size, c : c + self.size]
                self.dW += np.tensordot(part, d_out[:, r, c], axes=(0, 0))
                window = d_padded[:, r : r + self.size, c : c + self.size]
                window += np.einsum("no,ijco->nijc", d_out[:, r, c], self.W)
        return d_padded[:, p:-p, p:-p]


class Weighing:
    def forward(self, hs, h):
        self.cache = hs, h
        return (hs * h[:, None, :]).sum(axis=2)

    def backward(self, ds):
        hs, h = self.cache
        return ds[:, :, None] * h[:, None, :], (ds[:, :, None] * hs).sum(axis=1)


class CrossEntropyLoss:
    def forward(self, prediction, label):
        self.prediction = prediction
        return -(label * np.log(prediction)).sum()

    def backward(self, label):
        return -label / self.prediction


class BinaryCrossEntropy:
    def forward(self, y_true, y_pred):
        self.clipped = np.clip(y_pred, 1e-12, 1 - 1e-12)
        return -np.mean(y_true * np.log(self.clipped) + (1 - y_true) * np.log(1 - self.clipped))

    def backward(self, y_true, y_pred):
        return (self.clipped - y_true) / (self.clipped * (1 - self.clipped)) / len(y_true)


class SoftmaxCriterion:
    def forward(self, x, y):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.p, self.y = e / e.sum(axis=1, keepdims=True), y
        return -(y * np.log(self.p)).sum(axis=1).mean()

    def backward(self):
        return (self.p - self.y) / len(self.y)


class Sigmoid:
    def forward(self, z):
        self.a = 1 / (1 + np.exp(-z))
        return self.a

    def backward(self):
        return self.a * (1 - self.a)


class Softmax:
    def forward(self, z):
        e = np.exp(z - z.max(axis=1, keepdims=True))
        self.p = e / e.sum(axis=1, keepdims=True)
        return self.p

    def backward(self):
        return self.p * (1 - self.p)
"""


def judged(name: str, old: str = "", new: str = "") -> Report:
    module = from_text(LAYERS.replace(old, new) if old else LAYERS)
    (layer,) = [layer for layer in layers_of(module) if layer.name == name]
    return layer.check()


RIGHT = (
    "DropChannels2d",
    "MeanPool2d",
    "Weighing",
    "CrossEntropyLoss",
    "BinaryCrossEntropy",
    "SoftmaxCriterion",
    "Sigmoid",
    "ConvLayer",
)


@pytest.mark.parametrize("name", RIGHT)
def test_right_layers_are_given_what_they_are_made_for(name: str) -> None:
    report = judged(name)
    assert report.ok
    assert all(row.verdict == "right" for row in report.rows)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("MeanPool2d", "+= dLdZ", "-= dLdZ"),
        ("Weighing", "h[:, None, :], (ds", "hs[:, :1, :], (ds"),
        ("CrossEntropyLoss", "-label /", "label /"),
        ("BinaryCrossEntropy", " / len(y_true)", ""),
        ("SoftmaxCriterion", "(self.p - self.y) / len(self.y)", "self.p - self.y"),
        ("Sigmoid", "self.a * (1 - self.a)", "1 - self.a**2"),
    ],
)
def test_wrong_ones_are_wrong(name: str, old: str, new: str) -> None:
    assert not judged(name, old, new).ok


def test_guessed_shapes_are_told() -> None:
    (note,) = judged("Weighing").notes
    assert "were guessed: hs (3, 4, 6) and h (3, 6)" in note


def test_a_derivative_that_is_not_element_by_element_is_not_judged() -> None:
    with pytest.raises(CheckError, match=r"Softmax takes no upstream gradient, .* shape \(3, 8\)"):
        judged("Softmax")


def test_weights_that_are_summed_over_are_no_labels() -> None:
    with pytest.raises(CheckError, match=r"inputs of Weighted\(hs, a\) are not known"):
        judged("Weighted", "return dhs, da", "return dhs, dar")


def test_what_a_backward_raises_on_all_that_was_tried_is_told() -> None:
    with pytest.raises(CheckError, match="on those tried the backward raised ValueError: operands"):
        judged("Weighted", "return dhs, da", "return dhs * dhs.T, da")


NORM = """
import numpy as np


class BatchNorm:
    def __init__(self, dim=4):
        self.gamma, self.beta = np.ones(dim), np.zeros(dim)

    def forward(self, x):
        self.xc = x - x.mean(axis=0)
        self.std = np.sqrt((self.xc**2).mean(axis=0) + 1e-5)
        self.xhat = self.xc / self.std
        return self.gamma * self.xhat + self.beta

    def backward(self, dout):
        self.dbeta = dout.sum(axis=0)
        self.dgamma = (dout * self.xhat).sum(axis=0)
        dxhat = dout * self.gamma
        return (dxhat - dxhat.mean(axis=0) - self.xhat * (dxhat * self.xhat).mean(axis=0)) / self.std


class Lookup:
    def __init__(self, rows=7, dim=4):
        self.params, self.grads = [np.random.normal(size=(rows, dim))], [np.zeros((rows, dim))]

    def forward(self, idx):
        self.idx = idx
        return self.params[0][idx]

    def backward(self, dout):
        (dW,) = self.grads
        dW[...] = 0
        np.add.at(dW, self.idx, dout)
        didx = 0.0 * dout[..., 0]
        return didx
"""


def of_norm(name: str, old: str = "", new: str = "") -> Report:
    module = from_text(NORM.replace(old, new) if old else NORM)
    (layer,) = [layer for layer in layers_of(module) if layer.name == name]
    return layer.check()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" - dxhat.mean(axis=0)", ""),
        ("(dxhat - dxhat.mean", "(dxhat + dxhat.mean"),
        (") / self.std\n", ")\n"),
    ],
)
def test_a_wrong_gradient_is_not_left_out_by_whole_numbers_for_which_nothing_is_judged(
    old: str, new: str
) -> None:
    assert {row.name for row in of_norm("BatchNorm").rows} == {"x", "gamma", "beta"}
    assert [row.name for row in of_norm("BatchNorm", old, new).culprits] == ["x"]


def test_what_is_returned_for_whole_numbers_is_said_not_to_be_judged() -> None:
    report = of_norm("Lookup")
    assert report.ok
    assert "not judged, for idx holds whole numbers: didx" in report.notes


def test_a_line_that_fills_a_gradient_by_another_name_is_told() -> None:
    (row,) = of_norm("Lookup", "np.add.at(dW, self.idx, dout)", "dW[self.idx] += dout").culprits
    assert row.lines[0].text == "dW[self.idx] += dout"
