"""Functions whose parameters are global variables of their module."""

from pathlib import Path

import numpy as np
import pytest

import backhand
from backhand.checking.report import Report
from backhand.checking.sources.batches import Checked, check_files

HEAD = """
import numpy as np

text = open("corpus.txt").read()
letters = sorted(set(text))
number = {letter: i for i, letter in enumerate(letters)}
size, units = len(letters), 9

U = 0.01 * np.random.randn(units, size)
W = 0.01 * np.random.randn(units, units)
V = 0.01 * np.random.randn(size, units)
b = np.zeros((units, 1))
c = np.zeros((size, 1))
"""
STEP = """
def steps(inputs, targets, before):
    xs, hs, ps = {}, {-1: np.copy(before)}, {}
    loss = 0
    for t in range(len(inputs)):
        xs[t] = np.zeros((size, 1))
        xs[t][inputs[t]] = 1
        hs[t] = np.tanh(U @ xs[t] + W @ hs[t - 1] + b)
        ys = V @ hs[t] + c
        ps[t] = np.exp(ys) / np.exp(ys).sum()
        loss += -np.log(ps[t][targets[t], 0])
    dU, dW, dV = np.zeros_like(U), np.zeros_like(W), np.zeros_like(V)
    db, dc = np.zeros_like(b), np.zeros_like(c)
    later = np.zeros_like(hs[0])
    for t in reversed(range(len(inputs))):
        dy = np.copy(ps[t])
        dy[targets[t]] -= 1
        dV += dy @ hs[t].T
        dc += dy
        dh = V.T @ dy + later
        da = (1 - hs[t] ** 2) * dh
        db += da
        dU += da @ xs[t].T
        dW += da @ hs[t - 1].T
        later = W.T @ da
    for gradient in (dU, dW, dV, db, dc):
        np.clip(gradient, -0.2, 0.2, out=gradient)
    return loss, dU, dW, dV, db, dc, hs[len(inputs) - 1]
"""
TRAINING = """
state, at = np.zeros((units, 1)), 0
while True:
    xs, ys = ([number[letter] for letter in text[at + i : at + i + 8]] for i in (0, 1))
    loss, dU, dW, dV, db, dc, state = steps(xs, ys, state)
    for value, gradient in ((U, dU), (W, dW), (V, dV), (b, db), (c, dc)):
        value -= 0.1 * gradient
    at = (at + 8) % (len(text) - 10)
"""
# Its functions apart, the gradients in global variables.
APART = """
import numpy as np

W, b = np.random.randn(4, 3), np.zeros((4, 1))
V = np.random.randn(2, 4)

def forward(x):
    h = np.tanh(W @ x + b)
    return V @ h, h

def backward(dout, x, h):
    global dV, dW, db
    dV = dout @ h.T
    da = (V.T @ dout) * (1 - h**2)
    dW = da @ x.T
    db = da.sum(axis=1, keepdims=True)
    return W.T @ da
"""
# Parameters as objects, each with its value and its gradient.
OBJECTS = """
import numpy as np

class Parameter:
    def __init__(self, *shape):
        self.value = np.random.randn(*shape)
        self.grad = np.zeros(shape)

class All:
    def __init__(self):
        self.W, self.b = Parameter(3, 2), Parameter(2)

net = All()

def loss_and_gradients(x, y):
    out = x @ net.W.value + net.b.value
    loss = 0.5 * np.sum((out - y) ** 2)
    dout = out - y
    dx = dout @ net.W.value.T
    net.W.grad = x.T @ dout
    net.b.grad = dout.sum(axis=0)
    return loss, dx
"""


def checked(folder: Path, text: str) -> Checked:
    file = folder / "network.py"
    file.write_text(text)
    (found,) = check_files([file])
    return found


def report(folder: Path, text: str) -> Report:
    found = checked(folder, text)
    assert found.report is not None, found.problem
    return found.report


def test_weights_that_are_global_variables_are_inputs(tmp_path: Path):
    found = report(tmp_path, HEAD + STEP + TRAINING)
    assert found.ok
    assert [row.gradient for row in found.rows] == ["dU", "dW", "dV", "db", "dc"]
    notes = " ".join(found.notes)
    assert "corpus.txt is not there" in notes
    assert "left after its first calls" in notes
    assert "np.clip(…, -0.2, 0.2) in the backward was left out" in notes
    assert "not judged, for no gradient of it is returned: before" in notes


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("old", "new", "kind", "line", "words"),
    [
        ("V.T @ dy + later", "V.T @ dy", "missing_branch", "dh = V.T @ dy", "the term later is missing"),
        ("W.T @ da", "W @ da", "transposed", "later = W @ da", ""),
    ],
    ids=["a state that is not handed back", "a transposed weight"],
)
def test_a_wrong_line_of_the_loop_is_one_culprit(
    tmp_path: Path, old: str, new: str, kind: str, line: str, words: str
):
    (culprit,) = report(tmp_path, HEAD + STEP.replace(old, new) + TRAINING).culprits
    assert culprit.mistake is not None
    assert (culprit.mistake.kind, culprit.lines[0].text) == (kind, line)
    assert words in culprit.mistake.message


def test_inputs_are_found_where_nothing_calls_the_function(tmp_path: Path):
    found = report(tmp_path, HEAD + STEP)
    assert found.ok
    assert len(found.rows) == 5


def test_a_forward_and_a_backward_may_share_global_weights(tmp_path: Path):
    right = report(tmp_path, APART)
    assert right.ok
    assert {row.gradient for row in right.rows} == {"dx", "dV", "dW", "db"}
    wrong = report(tmp_path, APART.replace("(1 - h**2)", "(1 - h)"))
    assert wrong.culprits[0].lines[0].text == "da = (V.T @ dout) * (1 - h)"


def test_parameters_may_be_objects_with_a_value_and_a_gradient(tmp_path: Path):
    right = report(tmp_path, OBJECTS)
    assert right.ok
    assert len(right.rows) == 3
    wrong = report(tmp_path, OBJECTS.replace("dout.sum(axis=0)", "dout.mean(axis=0)"))
    (culprit,) = wrong.culprits
    assert culprit.lines[0].text == "net.b.grad = dout.mean(axis=0)"


def test_a_statement_that_raises_does_not_hide_the_functions(tmp_path: Path):
    file = tmp_path / "network.py"
    file.write_text(HEAD + STEP + TRAINING.replace("np.zeros((units, 1)), 0", "missing, 0"))
    judged, told = check_files([file])
    assert judged.report is not None
    assert judged.report.ok
    assert "raised" in told.problem


def test_nobody_has_to_read_the_gradient_of_a_loss(tmp_path: Path):
    """Two lines that are wrong at once may have no name, but not one that is wrong of any code."""
    text = HEAD + STEP.replace("(1 - hs[t] ** 2) * dh", "hs[t] * dh").replace("V.T @ dy + later", "V.T @ dy")
    found = report(tmp_path, text + TRAINING)
    assert not found.ok
    assert not any("dloss" in row.mistake.message for row in found.rows if row.mistake is not None)


def test_a_clip_that_belongs_to_the_derivative_is_none_of_gradients():
    def forward(x):
        return np.clip(x, -1, 1), x

    def backward(dout, x):
        return dout * (np.clip(x, -1, 1) == x)

    found = backhand.check_pair(forward, backward, lambda rng: {"x": 2 * rng.normal(size=(4, 5))})
    assert found.ok, str(found)
    assert not any("np.clip" in note for note in found.notes)
