"""A mean over the batch that the layers take, not the loss: no fault of a layer alone, unless it is one."""

import numpy as np
import pytest

from altered import from_text
from backhand import check_class, check_pair


def linear_forward(A, W, b):
    return W @ A + b, (A, W, b)


def inputs(rng):
    return {"A": rng.normal(size=(5, 4)), "W": rng.normal(size=(3, 5)), "b": rng.normal(size=(3, 1))}


def test_parameters_alone_divided_by_the_batch_are_right_and_the_report_says_so():
    def backward(dZ, cache):
        A, W, _ = cache
        m = A.shape[1]
        return W.T @ dZ, dZ @ A.T / m, dZ.sum(axis=1, keepdims=True) / m

    report = check_pair(linear_forward, backward, inputs)
    assert report.ok
    assert any("divided by A.shape[1]" in note for note in report.notes)


def test_where_one_parameter_alone_is_divided_both_lines_are_told():
    def backward(dZ, cache):
        A, W, _ = cache
        m = A.shape[1]
        dW = dZ @ A.T
        db = np.sum(dZ, axis=1, keepdims=True) / m
        return W.T @ dZ, dW, db

    report = check_pair(linear_forward, backward, inputs)
    (culprit,) = report.culprits
    assert [line.text.split(" = ")[0] for line in culprit.lines[:2]] == ["db", "dW"]
    assert "divided by A.shape[1], and dW is not" in culprit.mistake.hint


def test_another_mistake_is_told_beside_the_convention():
    def backward(dZ, cache):
        A, W, _ = cache
        m = A.shape[1]
        dW = dZ @ A.T / m
        db = -np.sum(dZ, axis=1, keepdims=True) / m
        return W.T @ dZ, dW, db

    report = check_pair(linear_forward, backward, inputs)
    assert [(row.gradient, row.mistake.kind) for row in report.culprits] == [("db", "sign")]


@pytest.mark.parametrize(
    "factors",
    [
        (1 / 4, 1 / 4, 1 / 4),  # the upstream gradient was divided
        (1, 1 / 4, 1),  # one of two: a mean for a sum
        (1, 1 / 5, 1 / 5),  # not by the batch: 5 are the features
        (1, 4, 4),
    ],
)
def test_other_factors_are_wrong(factors: tuple[float, float, float]):
    def backward(dZ, cache):
        A, W, _ = cache
        dA, dW, db = W.T @ dZ, dZ @ A.T, dZ.sum(axis=1, keepdims=True)
        return factors[0] * dA, factors[1] * dW, factors[2] * db

    assert not check_pair(linear_forward, backward, inputs).ok


def test_a_gradient_that_a_layer_keeps_is_told_where_it_is_put():
    report = check_class(Halved(3, 4), {"x": np.ones((5, 3))})
    (culprit,) = report.culprits
    assert [line.text.split(" = ")[0] for line in culprit.lines[:2]] == ["self.db", "self.dW"]
    assert [line.text.split(" = ")[0] for line in report["W"].lines] == ["self.dW"]


class Halved:
    def __init__(self, n_in, n_out):
        self.W = np.random.default_rng(0).normal(size=(n_in, n_out))
        self.b = np.zeros((1, n_out))

    def forward(self, x):
        self.x = x
        return np.dot(x, self.W) + self.b

    def backward(self, dout):
        m = self.x.shape[0]
        self.dW = np.dot(self.x.T, dout)
        self.db = np.sum(dout, axis=0, keepdims=True) / m
        return np.dot(dout, self.W.T)


def test_a_stack_of_layers_that_returns_nothing_takes_the_mean_as_its_layers_do():
    class Linear:
        def __init__(self, wide, narrow):
            self.W, self.b = np.ones((narrow, wide)), np.ones((narrow, 1))

        def forward(self, x):
            self.x = x
            return x @ self.W.T + self.b.T

        def backward(self, dout):
            self.dW = dout.T @ self.x / len(self.x)
            self.db = dout.sum(axis=0)[:, None] / len(self.x)
            return dout @ self.W

    class Stack:
        def __init__(self):
            self.layers = [Linear(2, 3), Linear(3, 2)]

        def forward(self, x):
            self.hidden = self.layers[0].forward(x)
            return self.layers[1].forward(np.maximum(self.hidden, 0))

        def backward(self, dout):
            self.layers[0].backward(self.layers[1].backward(dout) * (self.hidden > 0))

    report = check_class(Stack(), lambda rng: [rng.normal(size=(3, 2))])  # as large as a layer
    assert report.ok
    assert any("divided by x.shape[0]" in note for note in report.notes)


def test_one_wrong_line_above_all_parameters_is_one_culprit_beside_the_convention():
    def forward(A, W, b):
        Z = A @ W + b
        return np.tanh(Z), (A, W, Z)

    def backward(dA, cache):
        A, W, Z = cache
        dZ = dA * (1 - np.tanh(Z))
        return dZ @ W.T, A.T @ dZ / len(A), dZ.sum(axis=0) / len(A)

    def inputs(rng):
        return {"A": rng.normal(size=(4, 5)), "W": rng.normal(size=(5, 3)), "b": rng.normal(size=3)}

    report = check_pair(forward, backward, inputs)
    (culprit,) = report.culprits
    assert culprit.lines[0].text.strip() == "dZ = dA * (1 - np.tanh(Z))"
    assert [row.verdict for row in report.rows].count("follows") == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("m = A.shape[0]", "another axis belongs in `A.shape[0]`"),
        ("m = A.shape[1] + 2", "a term is off at `A.shape[1] + 2`"),
    ],
)
def test_one_wrong_number_by_which_all_parameters_are_divided_is_one_culprit(line: str, words: str):
    text = """
import numpy as np

def linear_forward(A, W, b):
    return W @ A + b, (A, W, b)

def linear_backward(dZ, cache):
    A, W, _ = cache
    m = A.shape[1]
    dW = dZ @ A.T / m
    db = np.sum(dZ, axis=1, keepdims=True) / m
    return W.T @ dZ, dW, db
"""
    module = from_text(text.replace("m = A.shape[1]", line))
    report = check_pair(module.linear_forward, module.linear_backward, inputs)
    (culprit,) = report.culprits
    assert culprit.lines[0].text == line
    assert words in culprit.mistake.message
    assert any("judged divided by A.shape[1]" in note for note in report.notes)
