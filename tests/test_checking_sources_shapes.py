"""Shapes of inputs that no course has: the forward asks for them one after the other."""

import inspect
from pathlib import Path

import numpy as np
import pytest

from backhand import check_files, check_pair
from backhand.checking.sources.layers import layers_of
from backhand.checking.sources.modules import module_of
from backhand.checking.sources.shapes import Search, drawn

GATED = """
import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cell_forward(x, h_prev, Wz, Uz, bz, Wn, Un, bn):
    z = sigmoid(x @ Wz + h_prev @ Uz + bz)
    n = np.tanh(x @ Wn + h_prev @ Un + bn)
    return (1 - z) * h_prev + z * n, (x, h_prev, Wz, Uz, Wn, Un, z, n)


def cell_backward(dh, cache):
    x, h_prev, Wz, Uz, Wn, Un, z, n = cache
    da = dh * (n - h_prev) * z * (1 - z)
    dc = dh * z * (1 - n**2)
    dx = da @ Wz.T + dc @ Wn.T
    dh_prev = dh * (1 - z) + da @ Uz.T + dc @ Un.T
    dbz, dbn = da.sum(axis=0, keepdims=True), dc.sum(axis=0, keepdims=True)
    return dx, dh_prev, x.T @ da, h_prev.T @ da, dbz, x.T @ dc, h_prev.T @ dc, dbn
"""

HOLDING = """
import numpy as np


def step_forward(xt, a_prev, parameters):
    Wax, Waa, ba = parameters["Wax"], parameters["Waa"], parameters["ba"]
    a_next = np.tanh(np.dot(Wax, xt) + np.dot(Waa, a_prev) + ba)
    return a_next, (a_next, a_prev, xt, parameters)


def step_backward(da_next, cache):
    a_next, a_prev, xt, parameters = cache
    dz = da_next * (1 - a_next**2)
    gradients = {"dxt": np.dot(parameters["Wax"].T, dz), "dWax": np.dot(dz, xt.T)}
    gradients["da_prev"] = np.dot(parameters["Waa"].T, dz)
    gradients["dWaa"] = np.dot(dz, a_prev.T)
    gradients["dba"] = np.sum(dz, axis=1, keepdims=True)
    return gradients
"""

PLAIN = """
import numpy as np


def forward(X, params):
    h = np.maximum(X @ params["W1"] + params["b1"], 0)
    return h @ params["W2"] + params["b2"], (X, h)


def backward(dout, cache, params):
    X, h = cache
    dh = dout @ params["W2"].T * (h > 0)
    return {"W1": X.T @ dh, "b1": dh.sum(axis=0), "W2": h.T @ dout, "b2": dout.sum(axis=0)}
"""


def judged(path: Path, text: str):
    path.write_text(text)
    (subject,) = layers_of(module_of(path))
    return subject.check()


@pytest.mark.parametrize(("text", "count"), [(GATED, 8), (HOLDING, 5), (PLAIN, 4)])
def test_weights_of_any_names_and_those_of_a_dictionary_are_judged(tmp_path, text, count):
    report = judged(tmp_path / "cells.py", text)
    assert [row.verdict for row in report.rows] == ["right"] * count
    assert "The inputs were guessed" in report.notes[-1]
    sizes = {row.shape for row in report.rows if len(row.shape) == 2} - {(1, 6), (6, 1)}
    assert any(a != b for a, b in sizes)  # an exchanged axis would not pass


@pytest.mark.parametrize(
    ("text", "old", "new", "gradient"),
    [
        (GATED, "(1 - n**2)", "(1 - n)", "dWn"),
        (HOLDING, "np.dot(dz, a_prev.T)", "np.dot(dz, a_next.T)", "dWaa"),
        (PLAIN, "* (h > 0)", "", "dW1"),
    ],
)
def test_a_slip_beside_guessed_inputs_is_found(tmp_path, text, old, new, gradient):
    report = judged(tmp_path / "cells.py", text.replace(old, new))
    told = next(r for r in report.rows if r.gradient in (gradient, gradient[1:]))
    assert told.verdict in ("wrong", "follows")


def test_arrays_of_a_dictionary_that_is_given_are_inputs():
    def forward(x, params):
        return x * params["gain"] + params["shift"], (x, params)

    def backward(dout, cache):
        x, params = cache
        return dout * params["gain"], {"gain": (dout * x).sum(axis=0), "shift": dout.mean(axis=0)}

    rng = np.random.default_rng(0)
    given = {
        "x": rng.normal(size=(4, 3)),
        "params": {"gain": rng.normal(size=3), "shift": rng.normal(size=3)},
    }
    report = check_pair(forward, backward, given)
    assert {row.gradient: row.verdict for row in report.rows} == {
        "dx": "right",
        "dgain": "right",
        "dshift": "wrong",
    }


def test_a_name_that_is_not_there_is_told_though_all_shapes_are_guessed(tmp_path):
    text = PLAIN.replace("np.maximum", "ramp").replace("X @", "np.abs(X) @")
    (tmp_path / "cells.py").write_text(text)
    (one,) = check_files([tmp_path / "cells.py"])
    assert "forward raised NameError: name 'ramp' is not defined (cells.py, line 6" in one.problem


def shapes_found(right) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return the first shapes that fit, on which a backward is wrong, and those that are taken.

    `right` tells of other shapes whether it is right on them.
    """
    fitting: list[dict[str, tuple[int, ...]]] = []

    def accepts(given: dict[str, np.ndarray]) -> bool | None:
        fitting.append({n: v.shape for n, v in given.items()})
        return True if len(fitting) > 1 and right(fitting[-1]) else None

    asked = list(inspect.signature(lambda p, q: None).parameters.values())
    found = Search(asked, lambda given: given["p"] @ given["q"], accepts, {}).found()
    return fitting[0], {n: v.shape for n, v in drawn(found).items()}


def test_other_shapes_are_taken_where_a_backward_is_wrong_on_the_first_that_fit():
    first, taken = shapes_found(lambda shapes: True)
    assert taken != first


def test_shapes_that_hide_more_are_not_taken():
    first, taken = shapes_found(lambda shapes: 1 in shapes["p"] or 1 in shapes["q"])
    assert taken == first
