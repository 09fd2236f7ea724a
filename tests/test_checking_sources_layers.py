"""Files of layers over NumPy: what is found in them, with which inputs, and what is told of each."""

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import backhand
from altered import from_text
from backhand import Checked, CheckError
from backhand.checking.running import importing
from backhand.checking.sources.batches import Options
from backhand.checking.sources.coursework import layers_opened
from backhand.checking.sources.declaring import declared
from backhand.checking.sources.guessing import inputs_for
from backhand.checking.sources.layers import layers_of
from backhand.rendering.outcomes import show_several
from backhand.rendering.terminal import summary

RELU = """
def relu_forward(x):
    return np.maximum(0, x), x

def relu_backward(dout, cache):
    dx = dout * (cache > 0)
    return dx
"""
AFFINE = """
def affine_forward(x, w, b):
    return x.reshape(len(x), -1) @ w + b, (x, w, b)

def affine_backward(dout, cache):
    x, w, b = cache
    dx = (dout @ w.T).reshape(x.shape)
    dw = x.reshape(len(x), -1).T @ dout
    db = dout.mean(axis=0)
    return dx, dw, db
"""
BOTH = """
def affine_relu_forward(x, w, b):
    a, linear = affine_forward(x, w, b)
    out, relu = relu_forward(a)
    return out, (linear, relu)

def affine_relu_backward(dout, cache):
    linear, relu = cache
    return affine_backward(relu_backward(dout, relu), linear)
"""


def written(folder: Path, *parts: str, name: str = "layers.py") -> Path:
    file = folder / name
    file.write_text("import numpy as np\n" + "".join(parts))
    return file


def check_layers(file: Path) -> tuple[Checked, ...]:
    return tuple(backhand.check_files([file]))


def states(checked) -> dict[str, object]:
    return {one.name: one.problem or one.report.ok for one in checked}


def test_each_pair_of_a_file_has_a_report_of_its_own(tmp_path: Path):
    checked = check_layers(written(tmp_path, RELU, AFFINE))
    assert states(checked) == {"relu_backward": True, "affine_backward": False}
    assert [row.gradient for row in checked[1].report.culprits] == ["db"]


def test_the_files_own_inputs_come_first(tmp_path: Path):
    cube = """
def cube_forward(p, q):
    return p ** 3 * q["of"], (p, q)

def cube_backward(dout, cache):
    p, q = cache
    dp = 3 * p ** 2 * q["of"] * dout
    return dp
"""
    inputs = """
def inputs(rng):
    return {"p": rng.normal(size=(3, 4)), "q": {"of": 0.5}, "other": 1}
"""
    (unknown,) = check_layers(written(tmp_path, cube))
    assert unknown.problem.startswith(
        "inputs of cube_forward(p, q) are not known: write a function inputs(rng)"
    )
    assert states(check_layers(written(tmp_path, cube, inputs))) == {"": True}


def test_a_backward_that_raises_on_all_that_is_guessed_is_told_with_its_line(tmp_path: Path):
    mixing = """
def mixing_forward(p, q):
    return p @ q, (p, q)

def mixing_backward(dout, cache):
    p, q = cache
    return dout @ q, p.T @ dout
"""
    (unknown,) = check_layers(written(tmp_path, mixing))
    assert "on those tried the backward raised ValueError" in unknown.problem
    assert ": `return dout @ q, p.T @ dout`)" in unknown.problem
    assert states(check_layers(written(tmp_path, mixing.replace("dout @ q,", "dout @ q.T,")))) == {"": True}


def test_a_backward_without_its_forward_is_named(tmp_path: Path):
    (alone,) = check_layers(written(tmp_path, "def gate_backward(dout, cache):\n    return dout\n"))
    assert alone.problem.startswith("gate_backward has no gate_forward")


def test_a_second_way_is_checked_beside_the_same_forward(tmp_path: Path):
    second = RELU.split("def relu_backward")[1].replace("(dout", "def relu_backward_alt(dout", 1)
    checked = check_layers(written(tmp_path, RELU, second))
    assert states(checked) == {"relu_backward": True, "relu_backward_alt": True}


def test_a_loss_with_its_gradient_is_found(tmp_path: Path):
    loss = """
def svm_loss(x, y):
    n = len(x)
    margins = np.maximum(0, x - x[np.arange(n), y][:, None] + 1.0)
    margins[np.arange(n), y] = 0
    loss = margins.sum() / n
    dx = (margins > 0).astype(float)
    dx[np.arange(n), y] -= dx.sum(axis=1)
    dx /= n
    return loss, dx

def accuracy(x, y):
    return (x.argmax(1) == y).mean()
"""
    assert states(check_layers(written(tmp_path, loss))) == {"": True}


def test_a_file_finds_its_package_and_its_neighbours(tmp_path: Path):
    package = tmp_path / "course"
    package.mkdir()
    (package / "__init__.py").write_text("")
    written(package, RELU, AFFINE)
    file = written(package, "from course.layers import *\n", BOTH, name="utils.py")
    assert states(check_layers(file)) == {"": False}
    file = written(package, "from .layers import *\n", BOTH, name="utils.py")
    assert states(check_layers(file)) == {"": False}
    assert "course" not in sys.modules


def test_a_file_that_raises_is_told_and_what_it_has_judged(tmp_path: Path):
    judged, file = check_layers(written(tmp_path, RELU, "1 / 0\n"))
    assert judged.report is not None
    assert judged.report.ok
    assert "raised ZeroDivisionError" in file.problem


def test_one_file_with_many_layers_is_no_single_pass(tmp_path: Path):
    with pytest.raises(CheckError, match="check_files judges each"):
        backhand.check_file(written(tmp_path, RELU, AFFINE))


def test_a_file_with_nothing_to_judge_is_never_right(tmp_path: Path):
    interface = """
class Layer:
    def forward(self, x):
        raise NotImplementedError

    def backward(self, dout):
        raise NotImplementedError
"""
    (nothing,) = check_layers(written(tmp_path, interface))
    assert (nothing.state, nothing.report) == ("not judged", None)
    assert "has no backward that computes something" in nothing.problem


def test_a_script_over_torch_is_one_whatever_it_has_over_numpy(tmp_path: Path):
    script = """
import torch

def gate_backward(dout, cache):
    return np.asarray(dout) * cache

x = torch.randn(4, 3, requires_grad=True)
loss = (x * x).sum()
dx = -2 * x
"""
    report = backhand.check_file(written(tmp_path, script, name="script.py"))
    assert report["x"].mistake.kind == "sign"


def test_layers_are_judged_in_the_precision_that_they_have(tmp_path: Path):
    (refused,) = backhand.check_files([written(tmp_path, RELU)], rtol=1e-3)
    assert refused.problem.endswith("dtype, rtol and atol are for a pass or a custom Function.")


def test_what_is_only_missing_is_not_counted_as_wrong(tmp_path: Path, capsys: pytest.CaptureFixture):
    missing = RELU.replace("dout * (cache > 0)", "None")
    (checked,) = backhand.check_files([written(tmp_path, missing)])
    assert checked.state == "todo"
    with pytest.raises(SystemExit) as left:
        show_several([checked], json=False)
    assert left.value.code == 1
    assert "dx        todo" in capsys.readouterr().out
    assert summary(Counter([checked.state])) == "1 checked: 1 todo."


def test_a_type_within_a_method_call_is_no_method_of_tensors(tmp_path: Path):
    cast = RELU.replace("np.maximum(0, x)", "(x > 0).astype(float) * x")
    (checked,) = backhand.check_files(
        [written(tmp_path, cast.replace("(cache > 0)", "(cache > 0).astype(float)"))]
    )
    assert checked.state == "right"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backhand", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_line_shows_a_line_each_and_the_wrong_ones_in_full(tmp_path: Path):
    file = written(tmp_path, RELU, AFFINE)
    done = run(file)
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        f"{file}: relu_backward: right. 1 gradient agrees with autograd.",
        f"{file}: affine_backward: wrong. 1 at fault.",
    ]
    assert any(line.endswith("| db = dout.mean(axis=0)") for line in lines)
    assert lines[-1] == "2 checked: 1 right, 1 wrong."
    assert done.returncode == 1


@pytest.mark.slow
def test_the_exit_status_tells_right_from_not_judged(tmp_path: Path):
    assert run(written(tmp_path, RELU)).returncode == 0
    assert run(written(tmp_path, RELU, "def gate_backward(dout, cache):\n    return dout\n")).returncode == 2
    found = json.loads(run("--json", written(tmp_path, RELU, AFFINE)).stdout)
    assert [(one["name"], one["ok"]) for one in found] == [
        ("relu_backward", True),
        ("affine_backward", False),
    ]


def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b):
    size = prev_h.shape[1]
    a = x @ Wx + prev_h @ Wh + b
    gates = 1 / (1 + np.exp(-a[:, : 3 * size]))
    i, f, o = gates[:, :size], gates[:, size : 2 * size], gates[:, 2 * size :]
    next_c = f * prev_c + i * np.tanh(a[:, 3 * size :])
    return o * np.tanh(next_c), next_c, (x, prev_h, prev_c, Wx, Wh, a, next_c)


def conv_forward(x, w, b, conv_param):
    stride, pad = conv_param["stride"], conv_param["pad"]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows = (padded.shape[2] - w.shape[2]) // stride + 1
    columns = (padded.shape[3] - w.shape[3]) // stride + 1
    out = np.zeros((len(x), len(w), rows, columns))
    for r in range(rows):
        for c in range(columns):
            part = padded[:, :, r * stride : r * stride + w.shape[2], c * stride : c * stride + w.shape[3]]
            out[:, :, r, c] = np.tensordot(part, w, axes=([1, 2, 3], [1, 2, 3])) + b
    return out, (padded, w, b, conv_param)


@pytest.mark.parametrize("forward", [lstm_step_forward, conv_forward])
def test_the_courses_layers_have_inputs(forward):
    draw = inputs_for(forward)
    drawn = draw(np.random.default_rng(0))
    again = draw(np.random.default_rng(1))
    name = next(n for n, v in drawn.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f")
    assert not np.array_equal(drawn[name], again[name])
    forward(**drawn)


def test_parameters_are_drawn_and_sizes_differ():
    def batchnorm_forward(x, gamma, beta, bn_param):
        return gamma * x + beta, None

    drawn = inputs_for(batchnorm_forward)(np.random.default_rng(0))
    assert not np.allclose(drawn["gamma"], 1)
    assert drawn["bn_param"] == {"mode": "train"}
    assert len(set(drawn["x"].shape)) == 2


def test_a_file_that_uses_torch_as_well_is_one_of_layers(tmp_path: Path):
    relu = RELU.replace("dout * (cache > 0)", "np.multiply(dout, cache > 0)")
    file = written(tmp_path, "import torch\n", relu)
    assert states(check_layers(file)) == {"": True}
    assert declared(ast.parse(file.read_text())).layers
    kernel = "import torch\n\nclass Double(torch.autograd.Function):\n    pass\n"
    assert not declared(ast.parse(f"import numpy as np\n{kernel}")).layers


def test_a_file_that_is_no_python_is_refused(tmp_path: Path):
    (file,) = check_layers(written(tmp_path, "def relu_backward(:\n"))
    assert "line 2: invalid syntax" in file.problem


def test_a_program_of_a_chapter_finds_what_lies_beside_its_folder(tmp_path: Path):
    for folder in ("common", "chapter"):
        (tmp_path / folder).mkdir()
    (tmp_path / "common" / "__init__.py").write_text("")
    written(tmp_path / "common", RELU, AFFINE)
    file = written(tmp_path / "chapter", "from common.layers import *\n", BOTH, name="net.py")
    assert states(check_layers(file)) == {"": False}


def test_what_is_called_as_nobody_else_does_is_tried_with_the_simplest_inputs(tmp_path: Path):
    layers = """
class Multiply:
    def forward(self, left, right):
        self.left, self.right = left, right
        return left * right

    def backward(self, dout):
        return dout * self.right, dout * self.right

def distance_forward(guess, which):
    rows = np.arange(len(guess))
    return -guess[rows, which], (guess.shape, which)

def distance_backward(dout, cache):
    shape, which = cache
    dguess = np.zeros(shape)
    dguess[np.arange(shape[0]), which] = -dout
    return dguess
"""
    found = states(check_layers(written(tmp_path, layers)))
    assert found == {"Multiply": False, "distance_backward": True}


def test_what_another_file_lacks_is_no_mistake_of_the_backward(tmp_path: Path):
    fast = "def relu_back(dout, x):\n    return compiled_relu(dout, x)\n"
    written(tmp_path, fast, name="fast.py")
    relu = RELU.replace("dout * (cache > 0)", "relu_back(dout, cache)")
    (found,) = check_layers(written(tmp_path, "from fast import relu_back\n", relu))
    assert found.state == "not judged"
    assert "name 'compiled_relu' is not defined (fast.py, line 3:" in found.problem


def test_a_package_goes_up_as_far_as_its_folders_say(tmp_path: Path):
    (tmp_path / "net" / "layers").mkdir(parents=True)
    (tmp_path / "net" / "parts").mkdir()
    for folder in ("net", "net/layers", "net/parts"):
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "net" / "parts" / "__init__.py").write_text("from ..numbers import floor\n")
    (tmp_path / "net" / "numbers.py").write_text("floor = 0\n")
    (tmp_path / "__init__.py").write_text("")
    text = "from .base import floor\n" + RELU.replace("np.maximum(0, x)", "np.maximum(floor, x)")
    file = written(tmp_path / "net" / "layers", text)
    (tmp_path / "net" / "layers" / "base.py").write_text("from ..parts import floor\n")
    assert states(check_layers(file)) == {"": True}


def test_a_module_that_has_whatever_it_is_asked_for_is_no_obstacle(tmp_path: Path):
    (tmp_path / "anything.py").write_text("def __getattr__(name): return lambda *args: None\n")
    assert states(check_layers(written(tmp_path, "import anything\n", RELU))) == {"": True}


def test_a_gradient_without_a_name_is_none_of_the_labels(tmp_path: Path):
    layers = """
class SquaredLoss:
    def forward(self, y_true, y_pred):
        return ((y_pred - y_true) ** 2).sum()

    def backward(self, y_true, y_pred):
        return 2 * (y_pred - y_true)
"""
    (file,) = check_layers(written(tmp_path, layers))
    assert file.report is not None
    assert [(row.gradient, row.verdict) for row in file.report.rows] == [("dy_pred", "right")]


# Word vectors as CS224n sets them: indices as numbers, a corpus that samples words.
WORDS = """
import numpy as np

def negSamplingLossAndGradient(centerWordVec, outsideWordIdx, outsideVectors, dataset, K=4):
    others = [dataset.sampleTokenIdx() for _ in range(K)]
    rows = [outsideWordIdx, *others]
    sign = np.array([1.0] + [-1.0] * K)
    probs = 1 / (1 + np.exp(-sign * (outsideVectors[rows] @ centerWordVec)))
    loss = -np.log(probs).sum()
    back = -sign * (1 - probs)
    gradCenterVec = outsideVectors[rows].T @ back
    gradOutsideVecs = np.zeros_like(outsideVectors)
    np.add.at(gradOutsideVecs, rows, np.outer(back, centerWordVec))
    return loss, gradCenterVec, gradOutsideVecs
"""


def test_word_vectors_with_sampled_words_are_judged_on_the_same_ones_twice(tmp_path: Path):
    assert states(check_layers(written(tmp_path, WORDS))) == {"": True}
    wrong = WORDS.replace("np.add.at(gradOutsideVecs, rows, ", "gradOutsideVecs[rows] += (")
    (file,) = check_layers(written(tmp_path, wrong))
    assert file.report is not None
    (culprit,) = file.report.culprits
    assert culprit.gradient == "gradOutsideVecs"


OLD = """
def clip_forward(x):
    rows = np.int(x.shape[0])
    return np.minimum(x, 0), x[:rows]

def clip_backward(dout, cache):
    return dout * (cache < 0)
"""


def test_what_this_numpy_lacks_is_told_with_its_line_and_not_laid_on_the_inputs(tmp_path: Path):
    (one,) = check_layers(written(tmp_path, OLD))
    assert one.problem.startswith("clip_forward raised AttributeError: module 'numpy' has no attribute 'int'")
    assert "layers.py, line 4: `rows = np.int(x.shape[0])`" in one.problem
    assert "inputs(rng)" not in one.problem


OVER_TORCH = """
import torch

def margin_loss(W, X, y, reg):
    scores = X.mm(W)
    right = scores[torch.arange(len(y)), y].view(-1, 1)
    margins = (scores - right + 1).clamp(min=0)
    margins[torch.arange(len(y)), y] = 0
    loss = margins.sum() / len(y) + reg * (W * W).sum()
    counts = (margins > 0).to(W.dtype)
    counts[torch.arange(len(y)), y] = -counts.sum(dim=1)
    dW = X.t().mm(counts) / len(y) + {twice} * reg * W
    return loss, dW

def forward_backward(params, X, y=None, reg=0.0):
    h = torch.tanh(X.mm(params["W1"]) + params["b1"])
    scores = h.mm(params["W2"]) + params["b2"]
    if y is None:
        return scores
    logs = torch.log_softmax(scores, dim=1)
    loss = -logs[torch.arange(len(y)), y].mean()
    grads = {}
    dscores = logs.exp()
    dscores[torch.arange(len(y)), y] -= 1
    dscores /= len(y)
    grads["W2"], grads["b2"] = h.t().mm(dscores), dscores.sum(dim=0)
    dh = dscores.mm(params["W2"].t()) * (1 - h{squared})
    grads["W1"], grads["b1"] = X.t().mm(dh), dh.sum(dim=0)
    return loss, grads
"""


@pytest.mark.parametrize(("twice", "squared", "ok"), [("2", "**2", True), ("1", "", False)])
def test_losses_over_torch_that_give_their_gradients_are_judged(
    tmp_path: Path, twice: str, squared: str, ok: bool, recwarn
):
    (file := tmp_path / "net.py").write_text(
        OVER_TORCH.replace("{twice}", twice).replace("{squared}", squared)
    )
    margin, whole = check_layers(file)
    assert (margin.report.ok, whole.report.ok) == (ok, ok)
    assert {row.name for row in whole.report.rows} == {"W1", "b1", "W2", "b2"}
    if not ok:
        assert whole.report.culprits[0].lines[0].text.startswith("dh = ")
    assert not recwarn


def test_a_term_that_a_default_of_zero_switches_off_is_judged(tmp_path: Path):
    text = OVER_TORCH.replace("loss = -logs[torch.arange(len(y)), y].mean()", "loss = LOSS").replace(
        "LOSS", "-logs[torch.arange(len(y)), y].mean() + reg * (params['W2'] ** 2).sum()"
    )
    (file := tmp_path / "net.py").write_text(text.replace("{twice}", "2").replace("{squared}", "**2"))
    _, whole = check_layers(file)
    assert [row.name for row in whole.report.culprits] == ["W2"]


BUILT = """
import numpy as np
try:
    from a_module_that_is_built_first import sum_rows, mean_rows
except ImportError:
    print("build it first")

def total_forward(x):
    return x.sum(axis=0), x

def total_backward(dout, cache):
    return spread(dout, cache)

def spread(dout, x):
    return sum_rows(dout, x.shape)
"""


def test_what_uses_a_module_that_could_not_be_imported_is_not_wrong(tmp_path: Path):
    (file,) = backhand.check_files([written(tmp_path, BUILT)])
    assert file.report is None
    assert "total_backward uses sum_rows, which is not there: line " in file.problem
    assert "`from a_module_that_is_built_first import sum_rows, mean_rows`" in file.problem


def test_a_name_that_nothing_binds_is_wrong_where_it_stands(tmp_path: Path):
    (file,) = backhand.check_files(
        [written(tmp_path, RELU.replace("dout * (cache > 0)", "dou * (cache > 0)"))]
    )
    assert file.state == "wrong"
    assert file.report.culprits[0].lines[0].text == "dx = dou * (cache > 0)"


def test_a_forward_that_raises_on_the_usual_inputs_is_told_with_its_line(tmp_path: Path):
    halved = AFFINE.replace(
        "x.reshape(len(x), -1) @ w + b", "np.zeros(len(x) / 2) + x.reshape(len(x), -1) @ w + b"
    )
    (file,) = backhand.check_files([written(tmp_path, halved)])
    assert "on the usual ones it raised TypeError" in file.problem
    assert "Mend that, or write a function inputs(rng)" in file.problem


def test_what_an_imported_file_imports_may_lie_in_a_folder_above(tmp_path: Path):
    package = tmp_path / "library" / "nn"
    package.mkdir(parents=True)
    (tmp_path / "library" / "numbers_of_ours.py").write_text("FACTOR = 2.0\n")
    (package / "helpers.py").write_text("from numbers_of_ours import FACTOR\n")
    file = written(
        package,
        "from helpers import FACTOR\n",
        "def scale_forward(x):\n    return FACTOR * x, None\n",
        "def scale_backward(dout, cache):\n    return FACTOR * dout\n",
    )
    (one,) = check_layers(file)
    assert one.state == "right"
    assert "numbers_of_ours" not in sys.modules
    assert not [finder for finder in sys.meta_path if "backhand" in type(finder).__module__]


def test_a_folder_of_data_above_is_no_module(tmp_path: Path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "loss.txt").write_text("")
    (tmp_path / "library").mkdir()
    optional = "try:\n    import figures\nexcept ImportError:\n    figures = None\n"
    relu = RELU.replace("    return np.max", "    assert figures is None\n    return np.max")
    (one,) = check_layers(written(tmp_path / "library", optional, relu))
    assert one.state == "right"


def test_what_is_installed_within_the_project_stays_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    environment = tmp_path / ".venv"
    environment.mkdir()
    (environment / "installed_there.py").write_text("")
    (tmp_path / "lies_above.py").write_text("import installed_there\n")
    (tmp_path / "library").mkdir()
    monkeypatch.setattr(importing, "installed", lambda file: str(environment) in file)
    monkeypatch.syspath_prepend(environment)
    with layers_opened(written(tmp_path / "library", "import lies_above\n", RELU), Options()) as (one,):
        assert one.check().ok
    assert "lies_above" not in sys.modules
    assert sys.modules.pop("installed_there")


CALLED = """
class Linear:
    def __init__(self, n_in, n_out):
        self.W = np.random.randn(n_in, n_out)
        self.x = 0

    def __call__(self, x):
        self.x = x
        return self.forward(x)

    def forward(self, x):
        return x @ self.W

    def backward(self, dout):
        self.dW = self.x.T @ dout
        return dout @ self.W.T
"""


def test_a_layer_whose_call_keeps_its_input_is_called(tmp_path: Path):
    (one,) = check_layers(written(tmp_path, CALLED))
    assert [(row.gradient, row.verdict) for row in one.report.rows] == [("dx", "right"), ("dW", "right")]
    (one,) = check_layers(written(tmp_path, CALLED.replace("self.x.T @ dout", "-self.x.T @ dout")))
    assert [(row.gradient, row.mistake.kind) for row in one.report.culprits] == [("dW", "sign")]


def test_a_call_that_takes_whatever_its_forward_takes_does_not_stand_for_that(tmp_path: Path):
    base = """
class Base:
    def __call__(self, *inputs):
        self.given = inputs
        return self.forward(*inputs)

class Scale(Base):
    def forward(self, x):
        self.x = x
        return 3 * x

    def backward(self, dout):
        return 3 * dout
"""
    assert [one.state for one in check_layers(written(tmp_path, base))] == ["right"]


def test_what_a_constructor_raises_is_told(tmp_path: Path):
    wrong = CALLED.replace("self.x = 0", "self.dW = np.zeros(None)")
    (one,) = check_layers(written(tmp_path, wrong))
    assert "how to make Linear(n_in, n_out) is not known, and with likely ones it raised" in one.problem
    assert "self.dW = np.zeros(None)" in one.problem


def test_a_constructor_may_ask_for_what_draws_its_parameters(tmp_path: Path):
    drawn = CALLED.replace("n_out):", "n_out, weight_init_fn):").replace(
        "np.random.randn(n", "weight_init_fn(n"
    )
    (one,) = check_layers(written(tmp_path, drawn))
    assert one.state == "right"


def test_a_class_over_torch_is_told_what_to_do(tmp_path: Path):
    file = written(tmp_path, CALLED.replace("np.random", "torch").replace("class", "import torch\nclass", 1))
    file.write_text(file.read_text().replace("import numpy as np\n", ""))
    (one,) = check_layers(file)
    assert "Linear is a class over torch with a backward; classes are judged over NumPy. Write" in one.problem


HEIGHT_FOR_WIDTH = """
class Upsample2d:
    def forward(self, A):
        Z = np.zeros((*A.shape[:2], 2 * A.shape[3] - 1, 2 * A.shape[2] - 1))
        for i in range(A.shape[2]):
            Z[:, :, 2 * i, ::2] = A[:, :, i]
        return Z

    def backward(self, dLdZ):
        return dLdZ[:, :, ::2, ::2]
"""


def test_what_takes_the_height_for_the_width_is_judged_on_squares(tmp_path: Path):
    (one,) = check_layers(written(tmp_path, HEIGHT_FOR_WIDTH))
    assert one.state == "right"
    assert any("square" in note for note in one.report.notes)


def test_labels_that_say_they_are_one_hot_are(tmp_path: Path):
    loss = """
def entropy(logits, y_onehot):
    assert logits.shape == y_onehot.shape
    z = logits - logits.max(axis=1, keepdims=True)
    return np.mean(-np.sum(y_onehot * (z - np.log(np.exp(z).sum(axis=1, keepdims=True))), axis=1))

def entropy_backward(logits, y_onehot):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True) - y_onehot) / len(logits)
"""
    (one,) = check_layers(written(tmp_path, loss.replace("entropy(", "entropy_forward(")))
    assert one.state == "right"


def test_a_class_whose_methods_use_what_could_not_be_imported_is_not_wrong(tmp_path: Path):
    missing = "from not_installed_here import product\n"
    helped = CALLED.replace("        return dout", "        self.keep(dout)\n        return dout")
    helped += "\n    def keep(self, dout):\n        self.dW = product(self.x.T, dout)\n"
    (one, _) = check_layers(written(tmp_path, missing, helped))
    assert "Linear uses product, which is not there: line 2, `from not_installed_here" in one.problem
    plots = CALLED + "\n    def plot(self):\n        product(self.W, self.W)\n"
    (one, _) = check_layers(written(tmp_path, missing, plots))
    assert one.state == "right"


def test_a_size_that_was_guessed_and_is_called_is_no_mistake_of_the_backward(tmp_path: Path):
    layer = """
class Elementwise:
    def __init__(self, way, back):
        self.way, self.back = way, back

    def forward(self, x):
        self.x = x
        return x + 0.0 * self.way

    def backward(self, dout):
        return dout * self.back(self.x)
"""
    (one,) = check_layers(written(tmp_path, layer))
    assert "how to make Elementwise(way, back) is not known" in one.problem


def test_a_class_of_tests_is_no_layer(tmp_path: Path):
    tests = """
import unittest

class TestLinear(unittest.TestCase):
    def test_forward(self):
        assert Linear(3, 2)(np.ones((2, 3))).shape == (2, 2)

    def test_backward(self):
        layer = Linear(3, 2)
        layer(np.ones((2, 3)))
        assert layer.backward(np.ones((2, 2))).shape == (2, 3)
"""
    assert [one.name for one in check_layers(written(tmp_path, CALLED, tests))] == [""]


OVER_TIME = """
class Cell:
    def __init__(self, W, U):
        self.params = [W, U]
        self.grads = [np.zeros_like(W), np.zeros_like(U)]

    def forward(self, x, h):
        W, U = self.params
        self.cache = x, h, np.tanh(x @ W + h @ U)
        return self.cache[-1]

    def backward(self, dh_next):
        W, U = self.params
        x, h, h_next = self.cache
        dz = dh_next * (1 - h_next**2)
        self.grads[0][...] = x.T @ dz
        self.grads[1][...] = h.T @ dz
        return dz @ W.T, dz @ U.T

class TimeCell:
    def __init__(self, Wx, Wh):
        self.params = [Wx, Wh]
        self.grads = [np.zeros_like(Wx), np.zeros_like(Wh)]
        self.layers = None

    def forward(self, xs):
        self.layers, h, hs = [], np.zeros((len(xs), self.params[1].shape[0])), []
        for t in range(xs.shape[1]):
            cell = Cell(*[p.copy() for p in self.params])
            h = cell.forward(xs[:, t], h)
            self.layers.append(cell)
            hs.append(h)
        return np.stack(hs, axis=1)

    def backward(self, dhs):
        dxs, dh = np.zeros((*dhs.shape[:2], self.params[0].shape[0])), 0.0
        for grad in self.grads:
            grad[...] = 0
        for t in reversed(range(dhs.shape[1])):
            dxs[:, t], dh = self.layers[t].backward(dhs[:, t] + dh)
            for own, grad in zip(self.grads, self.layers[t].grads):
                own += grad
        return dxs
"""


def test_copies_of_parameters_that_each_call_makes_are_none(tmp_path: Path):
    one = next(o for o in check_layers(written(tmp_path, OVER_TIME)) if o.name == "TimeCell")
    verdicts = [(row.gradient, row.verdict) for row in one.report.rows]
    assert verdicts == [("dxs", "right"), ("grads_0", "right"), ("grads_1", "right")]


def test_a_function_that_returns_nothing_in_a_list_is_no_loss(tmp_path: Path):
    (one,) = check_layers(written(tmp_path, RELU, "def similar(words):\n    return []\n"))
    assert one.state == "right"


def test_a_slice_that_cuts_all_away_without_padding_is_told(tmp_path: Path):
    layer = """
class Pad:
    def __init__(self, padding=0):
        self.padding = padding

    def forward(self, x):
        self.padded = np.pad(x, ((0, 0), (self.padding, self.padding)))
        return 2 * self.padded

    def backward(self, dout):
        p = self.padding
        dpadded = 2 * dout
        dx = dpadded[:, p:-p]
        return dx
"""
    (one,) = check_layers(written(tmp_path, layer))
    (row,) = one.report.culprits
    assert "`p:-p` is empty, for p is 0" in row.mistake.message
    assert row.lines[0].text == "dx = dpadded[:, p:-p]"
    wide = layer.replace("padding=0", "padding=3").replace("2 * dout", "2 * dout[:, :5]")
    (one,) = check_layers(written(tmp_path, wide))
    assert "for p is 0" not in one.report.culprits[0].mistake.message


def test_gradients_on_a_layer_that_are_exchanged_are_told_where_they_are_put(tmp_path: Path):
    layer = """
class Scale:
    def __init__(self, n):
        self.W = np.ones((1, n))
        self.b = np.zeros((1, n))

    def forward(self, x):
        self.x = x
        return x * self.W + self.b

    def backward(self, dout):
        self.dW = np.sum(dout, axis=0, keepdims=True)
        self.db = np.sum(dout * self.x, axis=0, keepdims=True)
        dx = dout * self.W
        return dx
"""
    (one,) = check_layers(written(tmp_path, layer))
    (row,) = one.report.culprits
    assert (row.gradient, row.mistake.kind) == ("dW", "swapped")
    assert "it is db: the two stand in each other's place" in row.mistake.message
    assert row.lines[0].text == "self.dW = np.sum(dout, axis=0, keepdims=True)"


def test_the_loss_is_what_is_called_so_beside_another_number() -> None:
    text = """
import numpy as np

def softmax_loss(x, y):
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    n = np.arange(len(y))
    accuracy = np.mean(p.argmax(axis=1) == y)
    loss = -np.log(p[n, y]).mean()
    dx = p.copy()
    dx[n, y] -= 1
    dx /= len(y)
    return accuracy, loss, dx

class Net:
    def __init__(self, size=5, classes=4):
        self.params = {"W": np.random.randn(size, classes)}

    def loss(self, X, y):
        accuracy, loss, dscores = softmax_loss(X @ self.params["W"], y)
        return accuracy, loss, {"W": X.T @ dscores}
"""
    for right, wrong in (("", ""), ("X.T @ dscores", "X.T @ dscores / 2")):
        by_name = {layer.name: layer.check() for layer in layers_of(from_text(text.replace(right, wrong)))}
        assert by_name["softmax_loss"].ok
        assert by_name["Net"].ok is not bool(right)
        assert by_name["Net"]["W"].verdict == ("wrong" if right else "right")
