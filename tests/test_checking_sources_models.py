"""Whole models over NumPy: the gradients that a loss gives of all parameters."""

from pathlib import Path

import numpy as np
import pytest

from altered import from_text
from backhand import check_class, check_files
from backhand.checking.sources.layers import layers_of


class Model:
    """As CS231n has it."""

    def __init__(self, input_dim=3072, hidden_dim=100, num_classes=10, reg=0.0):
        self.reg = reg
        self.params = {
            "W1": 1e-3 * np.ones((input_dim, hidden_dim)),
            "b1": np.zeros(hidden_dim),
            "W2": 1e-3 * np.ones((hidden_dim, num_classes)),
            "b2": np.zeros(num_classes),
        }

    def loss(self, X, y=None):
        W1, b1, W2, b2 = (self.params[n] for n in ("W1", "b1", "W2", "b2"))
        h = np.maximum(0, X @ W1 + b1)
        scores = h @ W2 + b2
        if y is None:
            return scores
        n = len(X)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(n), y]).mean() + 0.5 * self.reg * (np.sum(W1**2) + np.sum(W2**2))
        grads = {}
        dscores = p.copy()
        dscores[np.arange(n), y] -= 1
        dscores /= n
        grads["W2"] = h.T @ dscores + self.reg * W2
        grads["b2"] = dscores.sum(axis=0)
        dh = dscores @ W2.T * (h > 0)
        grads["W1"] = X.T @ dh + self.reg * W1
        grads["b1"] = dh.sum(axis=0)
        return loss, grads


class Apart:
    """As Saito has it: a loss, and the gradients by a method of their own."""

    def __init__(self, input_size, output_size):
        self.params = {"W": np.ones((input_size, output_size))}

    def loss(self, x, t):
        self.x, self.t = x, t
        self.y = x @ self.params["W"]
        return np.sum((self.y - t) ** 2)

    def gradient(self, x, t):
        self.loss(x, t)
        grads = {}
        grads["W"] = x.T @ (2 * (self.y - t))
        return grads


def batch(rng):
    return {"X": rng.normal(size=(3, 5)), "y": rng.integers(0, 4, size=3)}


def pairs(rng):
    return {"x": rng.normal(size=(3, 5)), "t": rng.normal(size=(3, 4))}


def test_a_models_gradients_are_judged_beside_its_parameters():
    report = check_class(Model(5, 6, 4, reg=0.1), batch)
    assert report.ok
    assert {row.name for row in report.rows} == {"W1", "b1", "W2", "b2"}
    report = check_class(Apart(5, 4), pairs)
    assert report.ok
    assert [row.name for row in report.rows] == ["W"]


def test_the_line_of_the_loss_that_spoils_one_is_told():
    class Wrong(Apart):
        def gradient(self, x, t):
            self.loss(x, t)
            grads = {}
            dy = self.y - t
            grads["W"] = x.T @ dy
            return grads

    (row,) = check_class(Wrong(5, 4), pairs).culprits
    assert row.mistake.kind == "scale"
    assert "dy = self.y - t" in [line.text for line in row.lines[:3]]


WRONG = "self.reg * W1", "W1"


@pytest.mark.parametrize(("old", "new", "ok"), [("", "", True), (*WRONG, False)])
def test_a_file_with_a_model_is_judged_on_a_small_one(tmp_path: Path, old: str, new: str, ok: bool):
    text = Path(__file__).read_text().partition("class Model:")[2].partition("class Apart:")[0]
    file = tmp_path / "fc_net.py"
    file.write_text(f"import numpy as np\n\n\nclass Model:{text.replace(old, new) if old else text}")
    (checked,) = check_files([file])
    assert checked.report is not None
    assert checked.report.ok is ok
    assert checked.report["W1"].shape == (5, 6)
    if not ok:
        assert 'grads["W1"]' in checked.report["W1"].lines[0].text


class Affine:
    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        self.dW, self.db = self.x.T @ dout, dout.sum(axis=0)
        return dout @ self.W.T


class SharingNet:
    """Its parameters stand in a dictionary, and on the layers."""

    def __init__(self):
        self.params = {"W": np.ones((5, 3)), "b": np.zeros(3)}
        self.layers = {"affine": Affine(self.params["W"], self.params["b"])}
        self.last = Scored()

    def loss(self, x, t):
        return self.last.forward(self.layers["affine"].forward(x), t)

    def gradient(self, x, t):
        self.loss(x, t)
        layer = self.layers["affine"]
        layer.backward(self.last.backward())
        return {"W": layer.dW, "b": layer.db}


class Scored:
    def forward(self, x, t):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.y, self.t = e / e.sum(axis=1, keepdims=True), t
        return -np.log(self.y[np.arange(len(t)), t] + 1e-7).mean()

    def backward(self):
        dx = self.y.copy()
        dx[np.arange(len(self.t)), self.t] -= 1
        return dx / len(self.t)


def test_a_parameter_that_a_layer_holds_too_is_one():
    rng = np.random.default_rng(0)
    report = check_class(
        SharingNet(), {"x": rng.normal(size=(4, 5)), "t": rng.integers(0, 3, size=4)}, draws=2
    )
    assert report.ok, report
    assert [row.name for row in report.rows] == ["W", "b"]
    assert report.truth == "autograd"
    assert "1e-07" in report.notes[-2] + report.notes[-1]


LAYERS = """
import numpy as np


def affine(x, w):
    return x @ w, x.T
"""
BY_STAR = """
from ..layers import *


class Net:
    def __init__(self, input_dim=12, num_classes=10):
        self.params = {"W": np.ones((input_dim, num_classes))}

    def loss(self, X, y=None):
        scores, turned = affine(X, self.params["W"])
        if y is None:
            return scores
        rows = np.arange(len(X))
        loss = -np.sum(scores[rows, y])
        dscores = np.zeros_like(scores)
        dscores[rows, y] = -1
        grads = {"W": turned @ dscores}
        return loss, grads
"""


def test_a_model_two_folders_deep_finds_the_layers_above_it_and_numpy_through_them(tmp_path: Path):
    folder = tmp_path / "course" / "classifiers"
    folder.mkdir(parents=True)
    (folder.parent / "layers.py").write_text(LAYERS)
    (folder / "net.py").write_text(BY_STAR)
    (checked,) = check_files([folder / "net.py"])
    assert checked.state == "right", checked.problem


COLUMNS = """
class Columns:
    def __init__(self, sizes):
        few, some, many = sizes
        self.net = {"A": np.ones((some, few)), "B": np.ones((many, some))}

    def feed_forward(self, rows):
        self.rows = rows
        self.inner = np.tanh(self.net["A"] @ rows.T)
        scores = np.exp(self.net["B"] @ self.inner)
        return scores / scores.sum(axis=0)

    def back_propagate(self, labels, output):
        error = (output - labels.T) / len(labels)
        dB = error @ self.inner.T
        dA = self.net["B"].T @ error * (1 - self.inner**2) @ self.rows
        self.grads = {"A": dA, "B": dB}
        return self.grads

    def cross_entropy(self, labels, output):
        return -np.sum(labels.T * np.log(output)) / len(labels)

    cost = cross_entropy
"""


def test_labels_of_a_formula_of_arrays_are_rows_with_a_one_not_numbers_of_classes(tmp_path: Path):
    (file := tmp_path / "net.py").write_text("import numpy as np\n" + COLUMNS)
    (one,) = check_files([file])
    assert one.report is not None
    assert {row.name: row.verdict for row in one.report.rows} == {"A": "right", "B": "right"}


CAPTIONS = """
class Captioner:
    def __init__(self, word_to_idx, input_dim=512, wordvec_dim=128, hidden_dim=128, dtype=np.float32):
        self.null = word_to_idx["<NULL>"]
        sizes = {"A": (input_dim, hidden_dim), "E": (len(word_to_idx), wordvec_dim)}
        sizes |= {"U": (wordvec_dim, hidden_dim), "V": (hidden_dim, len(word_to_idx))}
        self.params = {n: np.ones(s).astype(dtype) for n, s in sizes.items()}

    def loss(self, features, captions):
        A, E, U, V = (self.params[n] for n in "AEUV")
        read, asked = captions[:, :-1], captions[:, 1:]
        mask = (asked != self.null).astype(float)
        h = np.tanh((features @ A)[:, None] + E[read] @ U)
        p = np.exp(h @ V)
        p /= p.sum(axis=2, keepdims=True)
        i, j = np.indices(asked.shape)
        loss = -np.sum(mask * np.log(p[i, j, asked])) / len(captions)
        dscores = p.copy()
        dscores[i, j, asked] -= 1
        dscores *= mask[:, :, None] / len(captions)
        grads = {"V": np.einsum("nth,ntv->hv", h, dscores)}
        dh = dscores @ V.T * (1 - h**2)
        grads["A"] = features.T @ dh.{over}(axis=1)
        grads["U"] = np.einsum("ntw,nth->wh", E[read], dh)
        grads["E"] = np.zeros_like(E)
        np.add.at(grads["E"], read, dh @ U.T)
        return loss, grads
"""


@pytest.mark.parametrize(("over", "wrong"), [("sum", set()), ("mean", {"A"})])
def test_a_model_of_captions_is_made_and_judged(tmp_path: Path, over: str, wrong: set):
    (file := tmp_path / "rnn.py").write_text("import numpy as np\n" + CAPTIONS.replace("{over}", over))
    (one,) = check_files([file])
    assert one.report is not None, one.problem
    assert {row.name for row in one.report.rows} == {"A", "E", "U", "V"}
    assert {row.name for row in one.report.culprits} == wrong


DEEP = """
import numpy as np


class Deep:
    def __init__(self, dims=(5, 6, 4, 3), reg=0.1):
        self.reg, self.depth, self.params = reg, len(dims) - 1, {}
        for i in range(self.depth):
            self.params[f"W{i}"] = np.random.randn(dims[i], dims[i + 1])
            self.params[f"b{i}"] = np.zeros(dims[i + 1])

    def loss(self, X, y):
        h, kept, loss = X, [], 0.0
        for i in range(self.depth):
            kept.append(h)
            h = np.tanh(h @ self.params[f"W{i}"] + self.params[f"b{i}"])
            loss += 0.5 * self.reg * np.sum(self.params[f"W{i}"] ** 2)
        n = len(X)
        p = np.exp(h - h.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss -= np.log(p[np.arange(n), y]).mean()
        grads, dh = {}, p.copy()
        dh[np.arange(n), y] -= 1
        dh /= n
        for i in reversed(range(self.depth)):
            da = dh * (1 - h**2)
            h = kept[i]
            grads[f"W{i}"] = h.T @ da + self.reg * self.params[f"W{i}"]
            grads[f"b{i}"] = da.sum(axis=0)
            dh = da @ self.params[f"W{i}"].T
        return loss, grads
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (' + self.reg * self.params[f"W{i}"]', "", 'grads[f"W{i}"] = h.T @ da'),
        ("= da.sum(axis=0)", "= da.mean(axis=0)", 'grads[f"b{i}"] = da.mean(axis=0)'),
    ],
)
def test_one_line_of_a_loop_over_layers_of_different_widths_is_one_culprit(old: str, new: str, line: str):
    (layer,) = layers_of(from_text(DEEP))
    assert layer.check().ok
    (layer,) = layers_of(from_text(DEEP.replace(old, new)))
    (row,) = layer.check().culprits
    assert row.lines[0].text == line
