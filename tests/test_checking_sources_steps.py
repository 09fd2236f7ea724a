import textwrap
from pathlib import Path

import numpy as np
import pytest

from backhand import check_files
from backhand.checking.sources.parts import loss_alone, with_step

RNN = """
    class Letters:
        def __init__(self, hidden_size, vocab_size):
            self.size, self.h = vocab_size, np.zeros((hidden_size, 1))
            self.Wx = np.random.randn(hidden_size, vocab_size) * 0.1
            self.Wh = np.random.randn(hidden_size, hidden_size) * 0.1
            self.Wy = np.random.randn(vocab_size, hidden_size) * 0.1
            self.mWx = np.zeros_like(self.Wx)

        def train_step(self, inputs, targets, learning_rate):
            xs, hs, ps, loss = {}, {-1: np.copy(self.h)}, {}, 0
            for t in range(len(inputs)):
                xs[t] = np.zeros((self.size, 1))
                xs[t][inputs[t]] = 1
                hs[t] = np.tanh(self.Wx @ xs[t] + self.Wh @ hs[t - 1])
                y = self.Wy @ hs[t]
                ps[t] = np.exp(y) / np.exp(y).sum()
                loss += -np.log(ps[t][targets[t], 0])
            dWx, dWh, dWy = np.zeros_like(self.Wx), np.zeros_like(self.Wh), np.zeros_like(self.Wy)
            dhnext = np.zeros_like(self.h)
            for t in reversed(range(len(inputs))):
                dy = np.copy(ps[t])
                dy[targets[t]] -= 1
                dWy += dy @ hs[t].T
                dh = self.Wy.T @ dy + dhnext
                draw = (1 - hs[t] ** 2) * dh
                dWx += draw @ xs[t].T
                dWh += draw @ hs[t - 1].T
                dhnext = self.Wh.T @ draw
            for param, dparam, memory in ((self.Wx, dWx, self.mWx),):
                np.clip(dparam, -5, 5, out=dparam)
                memory += dparam * dparam
                param -= learning_rate * dparam / np.sqrt(memory + 1e-8)
            self.h = hs[len(inputs) - 1]
            return loss
"""

PERCEPTRON = """
    class Perceptron:
        def __init__(self, n_in, n_out):
            self.W, self.b = np.random.randn(n_in, n_out), np.zeros(n_out)

        def fit(self, X, y, epochs=1000, lr=0.1):
            for epoch in range(epochs):
                out = 1 / (1 + np.exp(-(X @ self.W + self.b)))
                loss = 0.5 * ((out - y) ** 2).sum()
                delta = (out - y) * out * (1 - out)
                dW = X.T @ delta
                db = delta.sum(axis=0)
                self.W -= lr * dW
                self.b -= lr * db
"""


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("text", "old", "new", "tensors"),
    [
        (RNN, "dhnext = self.Wh.T @ draw", "dhnext = self.Wh @ draw", {"Wx", "Wh", "Wy"}),
        (PERCEPTRON, "delta = (out - y) * out * (1 - out)", "delta = (out - y) * out", {"W", "b"}),
    ],
)
def test_a_class_that_trains_in_one_method_is_judged_without_its_step(
    tmp_path: Path, text: str, old: str, new: str, tensors: set[str]
):
    file = tmp_path / "training.py"
    whole = "import numpy as np\n\n\n" + textwrap.dedent(text)
    file.write_text(whole)
    (checked,) = check_files([file])
    assert checked.report is not None
    assert checked.report.ok
    assert {row.name for row in checked.report.rows} == tensors
    file.write_text(whole.replace(old, new))
    (checked,) = check_files([file])
    assert checked.report is not None
    assert checked.report.culprits[0].lines[0].text == new


def test_a_class_without_a_loss_of_its_own_does_not_train_in_one():
    class Plain:
        def step(self, x):
            dW = x * 2
            self.W = self.W - dW

    assert with_step(Plain) is None


def squared(w, x, y):
    error = x @ w - y
    loss = (error**2).sum()
    dw = 2 * x @ error
    return loss, dw


def test_the_loss_alone_needs_no_line_of_the_gradients():
    alone = loss_alone(squared)
    assert alone is not None
    w, x, y = np.ones(3), np.arange(12.0).reshape(4, 3), np.ones(4)
    assert alone(w, x, y) == (((x @ w - y) ** 2).sum(), None)


@pytest.mark.seconds
def test_a_loss_whose_gradient_raises_is_told_with_that_line(tmp_path: Path):
    file = tmp_path / "losses.py"
    text = """
        import numpy as np


        def softmax_loss(W, X, y, reg):
            n, scores = X.shape[0], X @ W
            p = np.exp(scores - scores.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            loss = -np.log(p[np.arange(n), y]).mean() + reg * np.sum(W * W)
            p[np.arange(n), y] -= 1
            dW = X @ p / n + 2 * reg * W
            return loss, dW


        class Net:
            def __init__(self, n_in, n_out):
                self.params = {"W": np.random.randn(n_in, n_out), "b": np.zeros(n_out)}

            def loss(self, X, y):
                error = X @ self.params["W"] + self.params["b"] - y
                grads = {"b": error.sum(axis=0)}
                grads["W"] = X @ error
                return 0.5 * np.sum(error**2), grads
    """
    file.write_text(textwrap.dedent(text))
    told = {}
    for checked in check_files([file]):
        assert checked.report is not None
        (row,) = checked.report.culprits
        told[checked.name] = row.mistake and row.mistake.kind, row.lines[0].text
    assert told["softmax_loss"] == ("transposed", "dW = X @ p / n + 2 * reg * W")
    assert told["Net"] == ("transposed", 'grads["W"] = X @ error')
