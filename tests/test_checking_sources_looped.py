"""Loops over NumPy that train and stand in no function."""

import json
from pathlib import Path

import pytest

import backhand

FITTED = """import numpy as np
rng = np.random.default_rng(5)
X, Y = rng.normal(size=(7, 4)), rng.normal(size=(7, 3))
V1, V2 = rng.normal(size=(4, 5)), rng.normal(size=(5, 3))
shift = float(rng.normal())
for step in range(400):
    hidden = np.tanh(X @ V1)
    error = hidden @ V2 + shift - Y
    loss = (error**2).mean()
    if step % 50 == 0:
        print("step", step, loss)
    derror = 2 * error / error.size
    dV2 = hidden.T @ derror
    dshift = derror.sum()
    dhidden = derror @ V2.T
    dV1 = X.T @ (dhidden * (1 - hidden**2))
    V1 -= 0.1 * dV1
    V2 -= 0.1 * dV2
    shift -= 0.1 * dshift
"""


def _written(folder: Path, text: str, name: str = "fit.py") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_a_loop_over_numpy_that_stands_in_no_function_is_judged_by_its_first_turn(tmp_path):
    report = backhand.check_file(_written(tmp_path, FITTED))

    assert report.ok
    assert {row.gradient for row in report.rows} == {"dV1", "dV2", "dshift"}
    assert "line 6: the loop is judged by its first turn." in report.notes


def test_its_wrong_line_is_told_where_it_stands_in_the_file(tmp_path):
    wrong = FITTED.replace("(1 - hidden**2)", "(1 - hidden)")
    report = backhand.check_file(_written(tmp_path, wrong))

    assert [(r.gradient, r.lines[0].number) for r in report.culprits] == [("dV1", 16)]
    assert report.culprits[0].lines[0].text == "dV1 = X.T @ (dhidden * (1 - hidden))"


def test_a_weight_that_is_moved_before_it_has_been_used_is_a_fault(tmp_path):
    early = FITTED.replace("    dhidden =", "    V2 -= 0.1 * dV2\n    dhidden =")
    report = backhand.check_file(_written(tmp_path, early))

    assert {row.gradient: row.verdict for row in report.rows} == {
        "dV2": "right",
        "dshift": "right",
        "dV1": "wrong",
    }


def test_a_loop_within_a_loop_is_judged_on_the_rows_that_the_outer_one_draws(tmp_path):
    lines = FITTED.splitlines()
    inner = ["    for step in (0, 1):", *(f"    {line}".replace("X ", "Xb ") for line in lines[6:])]
    inner = [line.replace("X.T", "Xb.T").replace("- Y", "- Yb") for line in inner]
    outer = ["for epoch in range(9):", "    rows = rng.permutation(7)[:5]", "    Xb, Yb = X[rows], Y[rows]"]
    report = backhand.check_file(_written(tmp_path, "\n".join([*lines[:5], *outer, *inner])))

    assert report.ok
    assert len(report.rows) == 3


def test_a_notebook_whose_cell_trains_over_numpy_is_judged_likewise(tmp_path):
    parts = FITTED.split("for step", 1)
    cells = [parts[0], "for step" + parts[1].replace("2 * error /", "error /")]
    written = [{"cell_type": "code", "source": c, "metadata": {}, "outputs": []} for c in cells]
    notebook = {"cells": written, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    report = backhand.check_file(_written(tmp_path, json.dumps(notebook), "fit.ipynb"))

    assert "scale" in {row.mistake.kind for row in report.culprits}


def test_a_script_that_raises_above_its_loop_says_so(tmp_path):
    broken = FITTED.replace("shift = ", "shift = absent + ")
    with pytest.raises(backhand.CheckError, match=r"fit\.py, line 5, raised NameError: name 'absent'"):
        backhand.check_file(_written(tmp_path, broken))
