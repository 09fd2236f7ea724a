"""Models as functions: forward, cost, and a backward that begins at the cost."""

from pathlib import Path

import pytest

from backhand import check_files

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
    assert "forward_propagation(X, parameters)" in found.problem
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
