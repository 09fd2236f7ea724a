"""Models as functions: forward, cost, and a backward that begins at the cost."""

from pathlib import Path

import pytest

from backhand import check_files
from backhand.checking.report import Report

SHALLOW = """
import numpy as np


def forward_propagation(X, parameters):
    A1 = np.tanh(parameters["W1"] @ X + parameters["b1"])
    A2 = 1 / (1 + np.exp(-(parameters["W2"] @ A1 + parameters["b2"])))
    return A2, {"A1": A1, "A2": A2}


def compute_cost(A2, Y):
    return float(-np.sum(Y * np.log(A2) + (1 - Y) * np.log(1 - A2)) / Y.shape[1])


def backward_propagation(parameters, cache, X, Y):
    m = X.shape[1]
    A1, A2 = cache["A1"], cache["A2"]
    dZ2 = A2 - Y
    dW2 = dZ2 @ A1.T / m
    db2 = dZ2.sum(axis=1, keepdims=True) / m
    dZ1 = parameters["W2"].T @ dZ2 * (1 - A1**2)
    dW1 = dZ1 @ X.T / m
    db1 = dZ1.sum(axis=1, keepdims=True) / m
    return {"dW1": dW1, "db1": db1, "dW2": dW2, "db2": db2}
"""

DEEP = """
import numpy as np


def linear_forward(A, W, b):
    return W @ A + b, (A, W, b)


def linear_backward(dZ, cache):
    A_prev, W, b = cache
    m = A_prev.shape[1]
    dW = dZ @ A_prev.T / m
    db = dZ.sum(axis=1, keepdims=True) / m
    return W.T @ dZ, dW, db


def model_forward(X, parameters):
    caches, A = [], X
    for i in range(1, len(parameters) // 2 + 1):
        Z, cache = linear_forward(A, parameters[f"W{i}"], parameters[f"b{i}"])
        A = 1 / (1 + np.exp(-Z))
        caches.append((cache, A))
    return A, caches


def compute_cost(AL, Y):
    return -np.mean(Y * np.log(AL) + (1 - Y) * np.log(1 - AL))


def model_backward(AL, Y, caches):
    grads = {}
    dA = (1 - Y) / (1 - AL) - Y / AL
    for i in reversed(range(len(caches))):
        cache, A = caches[i]
        dZ = dA * A * (1 - A)
        dA, grads[f"dW{i + 1}"], grads[f"db{i + 1}"] = linear_backward(dZ, cache)
    return grads
"""


def states(folder: Path, text: str) -> dict[str, bool]:
    file = folder / "model.py"
    file.write_text(text)
    return {one.name: one.report.ok for one in check_files([file]) if one.report is not None}


def test_the_gradients_of_a_dictionary_of_parameters_are_judged(tmp_path: Path):
    assert states(tmp_path, SHALLOW) == {"": True}


def test_the_line_of_the_backward_is_told(tmp_path: Path):
    file = tmp_path / "model.py"
    file.write_text(SHALLOW.replace("(1 - A1**2)", "(1 - A1)"))
    (checked,) = check_files([file])
    assert checked.report is not None
    (row,) = checked.report.culprits
    assert "dZ1 = " in " ".join(line.text for line in row.lines[:2])
    assert checked.report["W2"].verdict == "right"


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", {"linear_backward": True, "model_backward": True}),
        # the pair alone does not know who takes the mean, the model does
        (" / m", "", {"linear_backward": True, "model_backward": False}),
        ("A * (1 - A)", "A", {"linear_backward": True, "model_backward": False}),
    ],
)
def test_a_mean_is_the_layers_or_the_losses(tmp_path: Path, old: str, new: str, expected: dict[str, bool]):
    assert states(tmp_path, DEEP.replace(old, new) if old else DEEP) == expected


# A forward that takes the labels and gives its cost; a cost with a penalty, whose forward is the plain one.
OTHERS = (
    SHALLOW.replace("(X, parameters):", "(X, Y, parameters):")
    .replace('    return A2, {"A1"', '    return compute_cost(A2, Y), {"A1"')
    .replace("def compute_cost", "def mean_entropy")
    .replace("compute_cost", "mean_entropy"),
    SHALLOW.replace(
        "def backward_propagation(parameters, cache, X, Y)",
        "def backward_propagation_with_decay(parameters, cache, X, Y, lambd)",
    )
    .replace("A1.T / m\n", "A1.T / m + lambd * parameters['W2']\n")
    .replace("X.T / m\n", "X.T / m + lambd * parameters['W1']\n")
    + """

def cost_with_decay(A2, Y, parameters, lambd):
    squares = sum(np.sum(parameters[name] ** 2) for name in ("W1", "W2"))
    return compute_cost(A2, Y) + lambd / 2 * squares
""",
)


@pytest.mark.parametrize("text", OTHERS)
def test_a_cost_may_be_the_forwards_own_or_that_of_the_backwards_name(text: str, tmp_path: Path) -> None:
    assert judged(text, tmp_path) == {"W1": "right", "b1": "right", "W2": "right", "b2": "right"}
    wrong = text.replace("db1 = dZ1", "db1 = 4 * dZ1")
    assert judged(wrong, tmp_path) == {"W1": "right", "b1": "wrong", "W2": "right", "b2": "right"}


def judged(text: str, folder: Path) -> dict[str, str]:
    (folder / "model.py").write_text(text)
    (found,) = check_files([folder / "model.py"])
    assert found.report is not None, found.problem
    return {row.name: row.verdict for row in found.report.rows}


def test_why_a_model_does_not_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(SHALLOW.replace("np.tanh", "squash"))
    (found,) = check_files([tmp_path / "model.py"])
    assert found.problem.startswith("forward_propagation raised NameError")
    assert "NameError: name 'squash' is not defined" in found.problem


def test_a_line_is_found_though_only_the_last_ones_take_the_mean(tmp_path: Path) -> None:
    wrong = SHALLOW.replace(" * (1 - A1**2)", "")
    (tmp_path / "model.py").write_text(wrong)
    (found,) = check_files([tmp_path / "model.py"])
    assert found.report is not None
    (culprit,) = found.report.culprits
    assert culprit.lines[0].text.strip() == 'dZ1 = parameters["W2"].T @ dZ2'
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "wrong_point"


# A network that begins at a cost which is written nowhere, and returns its gradients in two lists.
WITHOUT_COST = """
import numpy as np

def squash(z):
    return 1 / (1 + np.exp(-z))

class Net:
    def __init__(self, sizes):
        self.offsets = [np.random.randn(n, 1) for n in sizes[1:]]
        self.weights = [np.random.randn(n, m) for m, n in zip(sizes[:-1], sizes[1:])]

    def feedforward(self, a):
        for b, w in zip(self.offsets, self.weights):
            a = squash(w @ a + b)
        return a

    def backprop(self, x, y):
        steps = [x]
        for b, w in zip(self.offsets, self.weights):
            steps.append(squash(w @ steps[-1] + b))
        nabla_o = [np.zeros(b.shape) for b in self.offsets]
        nabla_w = [np.zeros(w.shape) for w in self.weights]
        delta = steps[-1] - y
        for i in range(1, len(self.weights) + 1):
            if i > 1:
                back = self.weights[-i + 1].T @ delta
                delta = back * steps[-i] * (1 - steps[-i])
            nabla_o[-i] = delta
            nabla_w[-i] = delta @ steps[-i - 1].T
        return nabla_o, nabla_w
"""


def check_text(folder: Path, text: str) -> Report:
    file = folder / "network.py"
    file.write_text(text)
    (found,) = check_files([file])
    assert found.report is not None, found.problem
    return found.report


def test_a_cost_that_is_written_nowhere_is_the_one_that_fits(tmp_path: Path):
    entropy = check_text(tmp_path, WITHOUT_COST)
    assert entropy.ok
    assert len(entropy.rows) == 4
    assert "judged as the gradient of -y * log(output) - (1 - y) * log(1 - output)" in " ".join(entropy.notes)
    slope = "(steps[-1] - y) * steps[-1] * (1 - steps[-1])"
    squares = check_text(tmp_path, WITHOUT_COST.replace("steps[-1] - y", slope))
    assert squares.ok
    assert "judged as the gradient of 0.5 * (output - y)**2, summed" in " ".join(squares.notes)


def test_a_wrong_line_below_the_cost_is_found_all_the_same(tmp_path: Path):
    report = check_text(tmp_path, WITHOUT_COST.replace("back * steps[-i] * (1", "back * (1"))
    (culprit,) = report.culprits
    assert culprit.lines[0].text == "delta = back * (1 - steps[-i])"


def test_a_cost_that_nothing_fits_is_asked_for(tmp_path: Path):
    file = tmp_path / "network.py"
    file.write_text(WITHOUT_COST.replace("steps[-1] - y", "(steps[-1] - y) ** 3"))
    (found,) = check_files([file])
    assert "write a method cost(output, y)" in found.problem


# A network that holds its data, or is handed them, and steps at once by the difference from the labels.
ON_ITSELF = """
import numpy as np

def squash(z):
    return 1 / (1 + np.exp(-z))

class Net:
    def __init__(self, x, y):
        self.x, self.y = x, y
        self.first, self.second = np.random.rand(x.shape[1], 4), np.random.rand(4, 1)

    def feedforward(self):
        self.hidden = squash(self.x @ self.first)
        self.output = squash(self.hidden @ self.second)

    def backprop(self):
        error = 2 * (self.y - self.output) * self.output * (1 - self.output)
        below = error @ self.second.T * self.hidden * (1 - self.hidden)
        self.second += self.hidden.T @ error
        self.first += self.x.T @ below
"""
HANDED = """
import numpy as np

X, y = np.random.rand(5, 3), np.random.rand(5, 1)

class Net:
    def __init__(self):
        self.W, self.V = np.random.rand(3, 4), np.random.rand(4, 1)

    def forward(self, X):
        self.h = np.tanh(X @ self.W)
        return np.tanh(self.h @ self.V)

    def backward(self, X, y, out):
        delta = (y - out) * (1 - out**2)
        below = delta @ self.V.T * (1 - self.h**2)
        self.W += X.T @ below
        self.V += self.h.T @ delta

net = Net()
for step in range(1000):
    net.backward(X, y, net.forward(X))
"""
WITH_PRIME = """
import numpy as np

class Net:
    def __init__(self):
        self.W, self.V = np.random.randn(2, 3), np.random.randn(3, 1)

    def forward(self, X):
        self.h = np.tanh(X @ self.W)
        return self.h @ self.V

    def costFunction(self, X, y):
        return 0.5 * sum((y - self.forward(X)) ** 2)

    def costFunctionPrime(self, X, y):
        delta = self.forward(X) - y
        dJdV = self.h.T @ delta
        dJdW = X.T @ (delta @ self.V.T * (1 - self.h**2))
        return dJdW, dJdV
"""


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        (ON_ITSELF, "self.second.T * self.hidden * (1", "self.second.T * (1"),
        (HANDED, "(1 - self.h**2)", "(1 - self.h)"),
        (WITH_PRIME, "(1 - self.h**2)", "(1 - self.h)"),
    ],
)
def test_networks_that_begin_at_the_difference_from_the_labels(
    tmp_path: Path, text: str, right: str, wrong: str
):
    report = check_text(tmp_path, text)
    assert report.ok
    assert len(report.rows) == 2
    (culprit,) = check_text(tmp_path, text.replace(right, wrong)).culprits
    assert wrong in culprit.lines[0].text
