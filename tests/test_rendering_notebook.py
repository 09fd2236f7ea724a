"""The extension in a real IPython shell: verdicts after a cell, the sheet on demand, no cell broken."""

import ast
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("IPython")

from IPython.core.interactiveshell import InteractiveShell

import backhand
from backhand.learning.blanking import asked, textbook
from backhand.learning.course import Exercise, course
from backhand.learning.notebooks import as_notebook
from backhand.passes import product

FORWARD = """
import torch
torch.manual_seed(1)
x = torch.randn(6, 3); W = torch.randn(3, 4, requires_grad=True); b = torch.randn(4, requires_grad=True)
z = x @ W + b
h = torch.tanh(z)
p = h * h.sum(1, keepdim=True)
loss = p.mean()
for t in (z, h, p):
    t.retain_grad()
loss.backward()
"""
BACKWARD = """
dp = torch.ones_like(p) / p.numel()
dh = dp * h.sum(1, keepdim=True) + (dp * h).sum(1, keepdim=True)
dz = (1 - h**2) * dh
"""

Run = Callable[[str], str]


@pytest.fixture
def run(capsys) -> Iterator[Run]:
    """Run cells in a shell of one's own; each gives what it showed."""
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False

    def run_cell(text: str) -> str:
        capsys.readouterr()
        shell.run_cell(text, store_history=True)
        return capsys.readouterr().out

    assert run_cell("%load_ext backhand") == ""
    yield run_cell
    run_cell("%unload_ext backhand")
    InteractiveShell.clear_instance()


def test_a_cell_with_gradients_is_followed_by_their_verdicts(run: Run):
    assert run(FORWARD) == ""
    shown = run(BACKWARD)
    assert "right" in shown.splitlines()[0]
    assert "dp" in shown
    assert "dW" not in shown


def test_a_cell_that_runs_again_leaves_what_came_after_it(run: Run):
    run(FORWARD)
    first, *later = BACKWARD.strip().splitlines()
    for line in (first, *later, first):
        run(line)
    shown = run("%backhand")
    assert all(re.search(rf"\b{name} +right", shown) for name in ("dp", "dh", "dz")), shown


def test_a_session_is_judged_at_its_last_loss(run: Run):
    run(FORWARD)
    run(BACKWARD)
    run("loss = (z * z).mean()")
    run("dz = 2 * z / z.numel()")
    shown = run("%backhand")
    assert re.search(r"\bdz +right", shown), shown
    assert not re.search(r"\bdp\b", shown), shown


def test_a_mistake_is_named_with_its_cell_and_mended_by_running_it_again(run: Run):
    run(FORWARD)
    shown = run(BACKWARD.replace("dz = (1 - h**2) * dh", "dz = (1 - z**2) * dh"))
    assert "wrong_point" in shown
    assert "dz = (1 - z**2) * dh" in shown
    assert "1 - z**2" not in run("dz = h * dh")  # the line that it replaces is gone
    assert "right" in run("dz = (1 - h**2) * dh").splitlines()[0]
    later = run("dW = x.T @ dz\ndb = dz")
    assert "unreduced" in later
    assert "dz" not in later.split("gradient ", 1)[1]


def test_only_the_culprit_of_another_cell_is_at_fault(run: Run):
    run(FORWARD)
    run(BACKWARD.replace("dz = (1 - h**2) * dh", "dz = h * dh"))
    shown = run("db = dz.sum(0)")
    assert re.search(r"^In\[4\] +db +follows", shown, re.M)
    assert "dz  wrong point, as told of In[3]" in shown  # what it follows
    assert not re.search(r"dh +right", shown)


def test_the_whole_sheet_comes_on_demand(run: Run):
    run(FORWARD)
    run(BACKWARD)
    shown = run("%backhand")
    assert "dW" in shown
    assert "todo" in shown


def test_another_name_for_the_loss_is_chosen(run: Run):
    run("%backhand loss=my_loss")
    run(FORWARD.replace("loss", "my_loss"))
    assert "right" in run(BACKWARD).splitlines()[0]


def test_off_stops_and_on_goes_on(run: Run):
    run(FORWARD)
    run("%backhand off")
    assert run(BACKWARD) == ""
    run("%backhand on")
    assert "dp" in run(BACKWARD)


def test_gradients_without_a_loss_are_told_in_one_line(run: Run):
    run("import torch\nx = torch.randn(3)")
    shown = run("dx = x")
    assert shown.startswith("backhand: ")
    assert len(shown.splitlines()) == 1


def test_names_that_only_begin_with_d_are_let_alone(run: Run):
    run(FORWARD)
    assert run("data = 3; device = 'cpu'; d = {}") == ""
    assert run("def dh():\n    dz = 1") == ""
    assert run("1 / 0").count("backhand:") == 0
    assert run("dz = (").count("backhand:") == 0


def test_a_training_loop_and_a_cell_without_gradients_are_not_judged(run: Run):
    run(FORWARD)
    run(BACKWARD)
    loop = "for i in range(50):\n    loss = torch.tanh(x @ W + b).mean()\n    dW = x.T @ (x @ W)\n"
    assert run(loop) == ""
    assert run("total = x.sum()\nmore = total * 2") == ""


def test_a_shell_that_loads_it_late_judges_by_the_live_graph(run: Run):
    run("%unload_ext backhand")
    run(FORWARD.replace("loss.backward()", "loss.backward(retain_graph=True)"))
    run("%load_ext backhand")
    assert "right" in run(BACKWARD).splitlines()[0]


@pytest.mark.parametrize("exercise", course(), ids=lambda e: e.name)
def test_every_exercise_is_a_notebook_in_which_its_solution_is_right(run: Run, exercise: Exercise):
    notebook = json.loads(as_notebook(exercise))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    blanks = [c for c in cells if " = ...  # (" in c]
    assert [f"{name} = ..." in "\n".join(blanks) for name in asked(exercise)] == [True] * len(asked(exercise))
    for text in cells[: cells.index(blanks[0])]:
        shown = run(text)
        assert "Error" not in shown
        assert "wrong" not in shown
    assert all(run(text) == "" for text in blanks)
    solution = textbook(exercise).function("backward").body[1:-1]
    run("from torch.nn import functional as F")
    shown = run("\n".join(ast.unparse(s) for s in solution))
    assert ": right." in shown, shown


def test_a_culprit_of_another_cell_is_told_at_length_once(run: Run):
    run(FORWARD)
    first = run("dp = torch.ones_like(p)")
    assert "the right gradient times" in first
    assert "|" in first
    second = run("dh = dp * h.sum(1, keepdim=True) + (dp * h).sum(1, keepdim=True)")
    assert "dp  scale, as told of In[" in second
    assert "the right gradient times" not in second
    assert " | " not in second
    assert second.count("as told of") == 1
    assert "follows" in second


def test_a_cell_that_raises_is_followed_by_its_own_error_alone(run: Run):
    run(FORWARD)
    assert "backhand" not in run("dp = torch.ones_like(p) / p.numel()\ndh = nowhere")
    assert ": right." in run(BACKWARD)


EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*_live.py"))


def shows_what_it_says(cell: str, shown: str) -> None:
    assert "Error" not in shown
    assert "backhand: " not in shown
    expected = re.findall(r"# shows: (.*)", cell)
    assert all(words in shown for words in expected), shown
    assert bool(expected) == ("verdict" in shown or "print(" in cell), shown


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_run_live(run: Run, path: Path):
    cells = [c for c in path.read_text().split("# %%")[1:] if not c.startswith(" [markdown]")]
    assert any("# shows: " in cell for cell in cells)
    for cell in cells:
        shows_what_it_says(cell, run(re.sub("^# %", "%", cell, flags=re.M)))  # a magic is kept in a comment


def executed(path: Path) -> list[tuple[str, list[dict]]]:
    """Run a notebook that is kept as text in a kernel; return its code cells, each with what it displayed."""
    jupytext = pytest.importorskip("jupytext")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = jupytext.read(path)
    client.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    return [(c.source, [o.get("data", {"text/plain": o.get("text")}) for o in c.outputs]) for c in cells]


@pytest.mark.seconds
@pytest.mark.filterwarnings("default")  # of zmq and its event loop
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] if "lecture_2" not in p.stem else []) for p in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_a_kernel_shows_verdicts_as_html_and_as_text(path: Path):
    for source, outputs in executed(path):
        shows_what_it_says(source, "".join(data["text/plain"] for data in outputs))
        for data in outputs:
            if "verdict" in data["text/plain"]:
                assert "</table>" in data["text/html"] or 'class="backhand"' in data["text/html"]


def test_in_jupyter_a_table_is_text_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    text = str(backhand.check(product))
    assert "da" in text
    assert len(text.splitlines()) > 3


LAYERS = """
import numpy as np

def affine_forward(x, w, b):
    return x.reshape(x.shape[0], -1) @ w + b, (x, w, b)

def affine_backward(dout, cache):
    x, w, b = cache
    dx = (dout @ w.T).reshape(x.shape)
    dw = x.reshape(x.shape[0], -1).T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db

def square_loss(x, y):
    dx = 2 * (x - y)
    return np.sum((x - y) ** 2), dx
"""
WRONG = LAYERS.replace("db = dout.sum(axis=0)", "db = dout.mean(axis=0)")
CALLS = """
rng = np.random.default_rng(0)
x, w, b, y = rng.normal(size=(4, 2, 3)), rng.normal(size=(6, 5)), rng.normal(size=5), rng.normal(size=(4, 5))
out, cache = affine_forward(x, w, b)
for _ in range(100):
    dx, dw, db = affine_backward(2 * (out - y), cache)
"""


def imported(tmp_path: Path, monkeypatch, name: str, text: str) -> str:
    """Write a module, and return the cell that imports all of it."""
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return f"from {name} import *"


def test_a_numpy_backward_that_a_cell_calls_is_judged_once(run: Run, tmp_path: Path, monkeypatch):
    assert run(imported(tmp_path, monkeypatch, "layers_wrong", WRONG)) == ""
    shown = run(CALLS)
    assert shown.count("affine_backward: wrong") == 1
    assert "db = dout.mean(axis=0)" in shown
    assert re.search(r"\bdw +right", shown)


def test_a_numpy_backward_is_judged_in_the_cell_that_defines_or_imports_it(
    run: Run, tmp_path: Path, monkeypatch
):
    assert "affine_backward: wrong" in run(WRONG + CALLS)
    assert "affine_backward: right" in run(imported(tmp_path, monkeypatch, "layers_at_once", LAYERS) + CALLS)


def test_a_cell_that_unloads_the_extension_may_define_what_it_likes(run: Run):
    assert run("%unload_ext backhand\n" + LAYERS + "print(np.ones(2))") == "[1. 1.]\n"


def test_imports_from_the_future_stay_at_the_beginning_of_a_cell(run: Run):
    shown = run("%%time\nfrom __future__ import annotations\nfrom __future__ import division\nprint(1)")
    assert shown.startswith("1\n")


def test_a_definition_at_the_end_of_a_cell_is_all_that_it_shows(run: Run):
    assert run("import numpy as np\nnp.ones(2)\ndef f(x): return x") == ""


def test_a_numpy_backward_that_is_mended_is_judged_anew(run: Run, tmp_path: Path, monkeypatch):
    run(imported(tmp_path, monkeypatch, "layers_mended", WRONG))
    assert "affine_backward: wrong" in run(CALLS)
    run(LAYERS)
    assert "affine_backward: right" in run(CALLS)


def test_a_numpy_loss_with_its_gradients_is_judged_on_the_users_numbers(run: Run):
    run(LAYERS.replace("dx = 2 * (x - y)", "dx = x - y"))
    run(CALLS)
    shown = run("loss, dx = square_loss(out, y)")
    assert "square_loss: wrong" in shown
    assert "dx = x - y" in shown
    assert re.search(r"\(4, 5\)", shown)


def test_a_cell_that_raises_after_its_numpy_backward_is_judged(run: Run):
    run(WRONG)
    assert "affine_backward: wrong" in run(CALLS + "1 / 0")


def test_functions_are_the_users_own_again_after_unloading(run: Run):
    run(WRONG)
    run("%unload_ext backhand")
    assert run("print(hasattr(affine_backward, '__wrapped__'))") == "False\n"
    assert "wrong" not in run(CALLS)


def test_a_module_that_autoreload_has_changed_is_judged_by_its_new_text(
    run: Run, tmp_path: Path, monkeypatch
):
    run("%load_ext autoreload\n%autoreload 2")
    run(imported(tmp_path, monkeypatch, "layers_reloaded", LAYERS))
    assert "affine_backward: right" in run(CALLS)
    file = tmp_path / "layers_reloaded.py"
    file.write_text(WRONG)
    os.utime(file, (time.time() + 10,) * 2)  # a clock's tick may be longer than the test
    shown = run(CALLS)
    assert re.search(r"\bdb +wrong", shown)
    assert "11 | db = dout.mean(axis=0)" in shown


def rewritten(file: Path, text: str) -> None:
    """Change a module's file, so that its time is another one as well."""
    file.write_text(text)
    os.utime(file, (file.stat().st_mtime + 10,) * 2)  # a clock's tick may be longer than the test


@pytest.mark.parametrize("reloads", [False, True])
def test_all_cells_may_be_run_again_with_those_that_import(run: Run, tmp_path: Path, monkeypatch, reloads):
    if reloads:
        run("%load_ext autoreload\n%autoreload 2")
    name = f"layers_again_{reloads}"
    cell = imported(tmp_path, monkeypatch, name, LAYERS)
    run(cell)
    assert "affine_backward: right" in run(CALLS)
    if reloads:
        rewritten(tmp_path / f"{name}.py", WRONG)
    run(cell)
    assert f"affine_backward: {'wrong' if reloads else 'right'}" in run(CALLS)


def test_a_forward_that_is_defined_again_is_watched_with_the_backward_beside_it(run: Run):
    run(LAYERS)
    run(CALLS)
    forward = LAYERS[LAYERS.index("def affine_forward") : LAYERS.index("def affine_backward")]
    run(forward)
    shown = run(CALLS.replace("size=(4, 2, 3)", "size=(3, 2, 3)").replace("size=(4, 5)", "size=(3, 5)"))
    assert "affine_backward: right" in shown
    assert "(3, 2, 3)" in shown


def test_what_a_decorator_does_is_done_in_a_watched_function_too(run: Run):
    counted = "import functools\nimport numpy as np\ncalls = []\ndef counted(f):\n    @functools.wraps(f)\n"
    counted += "    def g(*args):\n        calls.append(1)\n        return f(*args)\n    return g\n"
    run(counted + LAYERS.replace("def affine_forward", "@counted\ndef affine_forward"))
    run(CALLS)
    assert run("print(len(calls) > 0)") == "True\n"


LAYER = """
import numpy as np

class Affine:
    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        self.dW = self.x.T @ dout
        self.db = dout.sum(0)
        return dout @ self.W.T
"""
LAYER_CALLS = """
rng = np.random.default_rng(0)
layer = Affine(rng.normal(size=(3, 5)), rng.normal(size=5))
out = layer.forward(rng.normal(size=(4, 3)))
dx = layer.backward(rng.normal(size=(4, 5)))
"""


@pytest.mark.parametrize("imports_again", [False, True])
def test_a_class_that_autoreload_has_changed_does_what_it_says_now_and_is_judged(
    run: Run, tmp_path: Path, monkeypatch, imports_again
):
    run("%load_ext autoreload\n%autoreload 2")
    name = f"layer_reloaded_{imports_again}"
    cell = imported(tmp_path, monkeypatch, name, LAYER)
    run(cell)
    assert "Affine: right" in run(LAYER_CALLS)
    for text, verdict in ((LAYER.replace("dout.sum(0)", "dout.mean(0)"), "wrong"), (LAYER, "right")):
        rewritten(tmp_path / f"{name}.py", text)
        if imports_again:
            run(cell)
        shown = run(LAYER_CALLS)
        assert f"Affine: {verdict}" in shown
        assert ("14 | self.db = dout.mean(0)" in shown) is (verdict == "wrong")
    run("%unload_ext backhand")
    assert run("print(hasattr(Affine.backward, '__wrapped__'))") == "False\n"


def test_a_loss_that_gives_its_gradient_only_since_autoreload_is_judged(
    run: Run, tmp_path: Path, monkeypatch
):
    run("%load_ext autoreload\n%autoreload 2")
    blank = LAYERS.replace("return np.sum((x - y) ** 2), dx", "return np.sum((x - y) ** 2)")
    run(imported(tmp_path, monkeypatch, "losses_reloaded", blank))
    run(CALLS)
    assert run("loss = square_loss(out, y)") == ""
    rewritten(tmp_path / "losses_reloaded.py", LAYERS)
    assert "square_loss: right" in run("loss, dx = square_loss(out, y)")
