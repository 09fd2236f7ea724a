"""What is wrong because of a layer or a function within it is told as that one's, once."""

import linecache
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import backhand
from backhand.checking.running.alarms import patience
from backhand.checking.sources.batches import Options
from backhand.checking.sources.files import check_apart
from backhand.checking.sources.overnumpy import OverNumpy

PAIRS = """
import numpy as np

def affine_forward(x, w, b):
    return x @ w + b, (x, w, b)

def affine_backward(dout, cache):
    x, w, b = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0)

def relu_forward(x):
    return np.maximum(x, 0), x

def relu_backward(dout, cache):
    return dout * (cache > 0)

def affine_relu_forward(x, w, b):
    a, linear = affine_forward(x, w, b)
    out, relu = relu_forward(a)
    return out, (linear, relu)

def affine_relu_backward(dout, cache):
    linear, relu = cache
    return affine_backward(relu_backward(dout, relu), linear)

def softmax_loss(x, y):
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    n = np.arange(len(x))
    loss = -np.log(p[n, y]).mean()
    dx = p.copy()
    dx[n, y] -= 1
    return loss, dx / len(x)

class Net:
    def __init__(self, input_dim=5, hidden_dim=6, num_classes=4):
        self.params = {}
        for i, (m, n) in enumerate([(input_dim, hidden_dim), (hidden_dim, num_classes)], 1):
            self.params[f"W{i}"], self.params[f"b{i}"] = np.random.randn(m, n), np.zeros(n)

    def loss(self, X, y):
        p = self.params
        h, first = affine_relu_forward(X, p["W1"], p["b1"])
        scores, second = affine_forward(h, p["W2"], p["b2"])
        loss, dscores = softmax_loss(scores, y)
        grads = {}
        dh, grads["W2"], grads["b2"] = affine_backward(dscores, second)
        _, grads["W1"], grads["b1"] = affine_relu_backward(dh, first)
        return loss, grads
"""
THROUGH_ITS_LAYERS = """
    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dout):
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return dout
"""
LAYERS = (
    """
import numpy as np

class Linear:
    def __init__(self, n_in, n_out):
        self.W, self.b = np.random.randn(n_in, n_out), np.zeros(n_out)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        self.dW = self.x.T @ dout
        self.db = dout.sum(axis=0)
        return dout @ self.W.T

class Sigmoid:
    def forward(self, x):
        self.out = 1 / (1 + np.exp(-x))
        return self.out

    def backward(self, dout):
        return dout * self.out * (1 - self.out)

class Stack:
    def __init__(self, size):
        self.layers = [Linear(size, size), Sigmoid(), Linear(size, size)]
"""
    + THROUGH_ITS_LAYERS
)

BLOCK = """

class Block:
    def __init__(self, size):
        self.squashed, self.linear, self.out = Sigmoid(), Linear(size, size), Linear(size, size)

    def forward(self, x):
        return self.out.forward(x + self.squashed.forward(self.linear.forward(x)))

    def backward(self, dout):
        d = self.out.backward(dout)
        return d + self.linear.backward(self.squashed.backward(d))
"""


def reports(folder: Path, text: str, *slips: tuple[str, str]) -> dict[str, backhand.Report]:
    for right, wrong in slips:
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    file = folder / "layers.py"
    file.write_text(text)
    checked = check_apart(file, Options(), page=False)
    return {one.name: one.report for one in checked if one.report is not None}


def told(report: backhand.Report) -> list[tuple[str, str]]:
    mistakes = [(row.mistake, row.lines[0].text) for row in report.culprits]
    return [(m.message.partition(":")[0], text) for m, text in mistakes if m is not None]


@pytest.mark.parametrize(
    ("whole", "slip", "place", "line"),
    [
        ("Net", ("x.T @ dout,", "2 * x.T @ dout,"), "affine_backward, dw", "x.T @ dout"),
        ("Net", ("dout * (cache > 0)", "dout * (cache < 0)"), "relu_backward, dx", "cache < 0"),
        ("Net", ("return loss, dx / len(x)", "return loss, dx"), "softmax_loss, dx", "dx[n, y] -= 1"),
        ("Stack", ("self.x.T @ dout", "self.x.T @ dout / 2"), "Linear's backward, dW", "self.x.T @ dout / 2"),
        (
            "Stack",
            ("self.out * (1 - self.out)", "(1 - self.out)"),
            "Sigmoid's backward, dx",
            "(1 - self.out)",
        ),
        ("Stack", ("dout @ self.W.T", "dout.T @ self.W"), "Linear's backward, dx", "dout.T @ self.W"),
    ],
)
def test_what_calls_others_is_wrong_at_the_line_of_the_one_that_is(tmp_path: Path, whole, slip, place, line):
    found = reports(tmp_path, PAIRS if whole == "Net" else LAYERS, slip)[whole]
    ((where, text),) = told(found)
    assert where == f"In {place}"
    assert line in text
    assert {row.verdict for row in found.rows} <= {"right", "wrong", "follows"}


def test_a_function_is_wrong_at_the_line_of_what_it_calls(tmp_path: Path):
    found = reports(tmp_path, PAIRS, ("dout @ w.T", "dout @ w.T / len(x)"))
    ((where, text),) = told(found["affine_relu_backward"])
    assert where == "In affine_backward, dx"
    assert "dout @ w.T / len(x)" in text
    assert found["relu_backward"].ok


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ("d + self.squashed.backward(self.linear.backward(d))", "swapped"),
        ("self.linear.backward(self.squashed.backward(d))", "missing_branch"),
        ("d + self.linear.backward(self.squashed.backward(dout))", "wrong_upstream"),
        ("d + self.linear.backward(d)", None),
    ],
)
def test_what_layers_are_handed_is_one_mistake_of_the_line_that_does(tmp_path: Path, wrong, kind):
    right = "d + self.linear.backward(self.squashed.backward(d))"
    assert reports(tmp_path, LAYERS + BLOCK)["Block"].ok
    found = reports(tmp_path, LAYERS + BLOCK, (right, wrong))["Block"]
    (row,) = found.culprits
    assert row.lines[0].text == f"return {wrong}"
    assert row.mistake is not None
    assert kind in (None, row.mistake.kind)


def test_what_is_wrong_besides_is_said_to_call_what_is_wrong(tmp_path: Path):
    besides = "return loss, grads", "return loss, {**grads, 'b2': 3 * grads['b2']}"
    found = reports(tmp_path, PAIRS, ("x.T @ dout,", "2 * x.T @ dout,"), besides)
    assert "Net calls affine_backward, which is wrong itself: mend it first." in found["Net"].notes
    assert "b2" in {row.name for row in found["Net"].culprits}


def test_layers_that_take_the_mean_which_the_loss_leaves_out_are_not_blamed(tmp_path: Path):
    mean = ("x.T @ dout, dout.sum(axis=0)", "x.T @ dout / len(x), dout.mean(axis=0)"), ("dx / len(x)", "dx")
    assert reports(tmp_path, PAIRS, *mean)["Net"].ok
    found = reports(tmp_path, PAIRS, *mean, ("(cache > 0)", "(cache > 0.5)"))["Net"]
    assert [where for where, _ in told(found)] == ["In relu_backward, dx"]


def test_what_is_called_is_as_it_was_before(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "inner_layers.py").write_text(LAYERS.replace("self.x.T @ dout", "self.x.T @ dout / 2"))
    import inner_layers  # pyright: ignore[reportMissingImports]

    class Shared(inner_layers.Linear):
        pass

    stack = inner_layers.Stack(4)
    stack.layers[0] = Shared(4, 4)

    def methods():
        kinds = inner_layers.Linear, inner_layers.Sigmoid, Shared
        return [(kind, name, f) for kind in kinds for name, f in vars(kind).items() if callable(f)]

    before = methods()
    report = backhand.check_class(stack, lambda rng: [rng.normal(size=(3, 4))])
    assert not report.ok
    assert methods() == before
    assert set(vars(stack.layers[2])) == {"W", "b"}


def test_what_calls_a_wrong_one_is_not_looked_at_for_long(tmp_path: Path, monkeypatch):
    seen = {}
    report = OverNumpy.report

    def patient(self: OverNumpy, **options):
        seen.setdefault(self.subject.title, patience())
        return report(self, **options)

    monkeypatch.setattr(OverNumpy, "report", patient)
    monkeypatch.chdir(tmp_path)
    space: dict = {"__name__": "layers"}
    (tmp_path / "layers.py").write_text(PAIRS.replace("x.T @ dout,", "2 * x.T @ dout,"))
    exec(compile((tmp_path / "layers.py").read_text(), "layers.py", "exec"), space)
    inputs = {"x": np.ones((3, 4)), "w": np.ones((4, 2)) / 3, "b": np.ones(2)}
    backhand.check_pair(space["affine_relu_forward"], space["affine_relu_backward"], inputs)
    assert seen == {"affine_relu_backward": 0.0, "affine_backward": 1.0}


STEPS = """
import numpy as np

def step_forward(x, prev_h, Wx, Wh, b):
    next_h = np.tanh(x @ Wx + prev_h @ Wh + b)
    return next_h, (x, prev_h, Wx, Wh, next_h)

def step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, next_h = cache
    dz = dnext_h * (1 - next_h ** 2)
    return dz @ Wx.T, dz @ Wh.T, x.T @ dz, prev_h.T @ dz, dz.sum(axis=0)

def run_forward(x, h0, Wx, Wh, b):
    hs, cache, h = [], [], h0
    for t in range(x.shape[1]):
        h, kept = step_forward(x[:, t], h, Wx, Wh, b)
        hs.append(h)
        cache.append(kept)
    return np.stack(hs, axis=1), cache

def run_backward(dh, cache):
    dx, dprev, dWx, dWh, db = [], 0, 0, 0, 0
    for t in reversed(range(dh.shape[1])):
        dx_t, dprev, dWx_t, dWh_t, db_t = step_backward(dh[:, t] + dprev, cache[t])
        dx.insert(0, dx_t)
        dWx, dWh, db = dWx + dWx_t, dWh + dWh_t, db + db_t
    return np.stack(dx, axis=1), dprev, dWx, dWh, db
"""


SHAPES = {"x": (2, 4, 3), "h0": (2, 5), "Wx": (3, 5), "Wh": (5, 5), "b": (5,)}


def over_time(text: str, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> backhand.Report:
    space: dict = {"__name__": "steps"}
    linecache.cache["steps.py"] = len(text), None, text.splitlines(keepends=True), "steps.py"
    exec(compile(text, "steps.py", "exec"), space)

    def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {name: rng.normal(size=shape) for name, shape in shapes.items()}

    return backhand.check_pair(space["run_forward"], space["run_backward"], inputs)


def test_a_step_that_is_wrong_is_what_is_wrong_in_the_loop():
    assert over_time(STEPS).ok
    ((where, text),) = told(over_time(STEPS.replace("next_h ** 2", "next_h")))
    assert (where, text) == ("In step_backward, dx", "dz = dnext_h * (1 - next_h)")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ("dh[:, t]", "missing_branch"),
        ("dh[:, t] - dprev", "sign"),
        ("2 * (dh[:, t] + dprev)", "scale"),
    ],
)
def test_what_is_handed_to_a_step_is_known_before_it_is(wrong: str, kind: str):
    report = over_time(STEPS.replace("dh[:, t] + dprev", wrong))
    (row,) = report.culprits
    assert row.lines[0].text.endswith(f"step_backward({wrong}, cache[t])")
    assert row.mistake is not None
    assert row.mistake.kind == kind
    assert f"step_backward({wrong}, cache[t])`" in row.mistake.message


OVER_TIME = """

class Cell:
    def __init__(self, W):
        self.W, self.dW = W, np.zeros_like(W)

    def forward(self, x, h):
        self.x, self.h = x, h
        self.out = np.tanh(x + h @ self.W)
        return self.out

    def backward(self, dout):
        dz = dout * (1 - self.out ** 2)
        self.dW[...] = self.h.T @ dz
        return dz, dz @ self.W.T

class OverTime:
    def __init__(self, size):
        self.W = np.random.randn(size, size).astype("f")
        self.dW = np.zeros_like(self.W)

    def forward(self, xs):
        N, T, D = xs.shape
        h, hs = np.zeros((N, D), dtype="f"), np.empty((N, T, D), dtype="f")
        self.cells = [Cell(self.W) for _ in range(T)]
        for t, cell in enumerate(self.cells):
            hs[:, t] = h = cell.forward(xs[:, t], h)
        return hs

    def backward(self, dhs):
        dxs = np.empty(dhs.shape, dtype="f")
        dh, dW = 0, 0
        for t in reversed(range(len(self.cells))):
            cell = self.cells[t]
            dxs[:, t], dh = cell.backward(dhs[:, t] + dh)
            dW = dW + cell.dW
        self.dW[...] = dW
        return dxs
"""


def test_cells_that_compute_in_float32_are_right_as_far_as_that_tells(tmp_path: Path):
    assert reports(tmp_path, LAYERS + OVER_TIME)["OverTime"].ok
    found = reports(tmp_path, LAYERS + OVER_TIME, ("dhs[:, t] + dh", "dhs[:, t]"))["OverTime"]
    ((_, line),) = told(found)
    assert line == "dxs[:, t], dh = cell.backward(dhs[:, t])"
    assert not any("wrong itself" in note for note in found.notes)
    found = reports(tmp_path, LAYERS + OVER_TIME, ("self.out ** 2", "self.out"))["OverTime"]
    assert told(found)[0][1] == "dz = dout * (1 - self.out)"


MEMORY = """
import numpy as np

def step_forward(x, prev_h, prev_c, W):
    next_c = prev_c * x + prev_h @ W
    next_h = np.tanh(next_c)
    return next_h, next_c, (x, prev_h, prev_c, W, next_h)

def step_backward(dnext_h, dnext_c, cache):
    x, prev_h, prev_c, W, next_h = cache
    dc = dnext_c + dnext_h * (1 - next_h ** 2)
    return dc * prev_c, dc @ W.T, dc * x, prev_h.T @ dc

def run_forward(x, h0, W):
    hs, cache, h, c = [], [], h0, np.zeros_like(h0)
    for t in range(x.shape[1]):
        h, c, kept = step_forward(x[:, t], h, c, W)
        hs.append(h)
        cache.append(kept)
    return np.stack(hs, axis=1), cache

def run_backward(dh, cache):
    dx, dprev_h, dprev_c, dW = np.zeros_like(dh), 0, np.zeros_like(dh[:, 0]), 0
    for t in reversed(range(dh.shape[1])):
        dx[:, t], dprev_h, dprev_c, dW_t = step_backward(dh[:, t] + dprev_h, dprev_c, cache[t])
        dW = dW + dW_t
    return dx, dprev_h, dW
"""
MEMORY_SHAPES = {"x": (2, 4, 3), "h0": (2, 3), "W": (3, 3)}


@pytest.mark.parametrize("wrong", ["np.zeros_like(dprev_c)", "0 * dprev_c"])
def test_what_one_turn_hands_to_the_next_is_known_though_zeros_stand_there(wrong: str):
    assert over_time(MEMORY, MEMORY_SHAPES).ok
    (row,) = over_time(
        MEMORY.replace("dprev_h, dprev_c, cache", f"dprev_h, {wrong}, cache"), MEMORY_SHAPES
    ).culprits
    assert row.lines[0].text.endswith(f"step_backward(dh[:, t] + dprev_h, {wrong}, cache[t])")
    assert row.mistake is not None
    assert row.mistake.kind != "unexplained"


UNUSED = (
    LAYERS
    + """

class Scaled:
    def __init__(self, size):
        self.linear, self.gain = Linear(size, size), np.ones(size)

    def forward(self, x):
        return self.linear.forward(x)

    def backward(self, dout):
        self.dgain = np.zeros_like(self.gain)
        return self.linear.backward(dout)
"""
)


def test_a_parameter_that_changes_nothing_keeps_no_other_from_being_right(tmp_path: Path):
    ((where, _),) = told(reports(tmp_path, UNUSED, ("self.x.T @ dout", "self.x.T @ dout / 2"))["Scaled"])
    assert where == "In Linear's backward, dW"


ATTENTION = (
    LAYERS
    + """

class Dropout:
    def __init__(self, rate=0.4):
        self.rate = rate

    def forward(self, x):
        self.mask = (np.random.rand(*x.shape) > self.rate) / (1 - self.rate)
        return x * self.mask

    def backward(self, dout):
        return dout * self.mask

class Attention:
    def __init__(self, size):
        self.query, self.key, self.value = (Linear(size, size) for _ in range(3))
        self.dropout = Dropout()

    def forward(self, x):
        self.q, self.k, self.v = (one.forward(x) for one in (self.query, self.key, self.value))
        a = np.exp(self.q @ self.k.T / 2)
        self.a = a / a.sum(axis=1, keepdims=True)
        self.kept = self.dropout.forward(self.a)
        return self.kept @ self.v

    def backward(self, dout):
        dv = self.kept.T @ dout
        da = self.dropout.backward(dout @ self.v.T)
        ds = self.a * (da - (da * self.a).sum(axis=1, keepdims=True)) / 2
        dx = self.query.backward(ds @ self.k) + self.key.backward(ds.T @ self.q)
        return dx + self.value.backward(dv)

class Blocks:
    def __init__(self, size):
        self.linear, self.attention = Linear(size, size), Attention(size)

    def forward(self, x):
        return self.attention.forward(self.linear.forward(x))

    def backward(self, dout):
        return self.linear.backward(self.attention.backward(dout))
"""
)


@pytest.mark.seconds
def test_a_layer_is_judged_by_the_mask_that_it_had(tmp_path: Path):
    assert all(report.ok for report in reports(tmp_path, ATTENTION).values())
    ((where, _),) = told(reports(tmp_path, ATTENTION, ("self.kept.T @ dout", "self.a.T @ dout"))["Blocks"])
    assert where == "In Attention's backward, dx"


def test_a_gradient_that_is_zero_but_for_rounding_makes_no_layer_wrong(tmp_path: Path):
    slip = "ds.T @ self.q)", "ds.T @ self.q) / 2"
    found = reports(tmp_path, ATTENTION, slip)["Attention"]  # the bias of the keys has none
    assert not any("wrong itself" in note for note in found.notes)
    (row,) = found.culprits
    assert slip[1] in row.lines[0].text


MADE_ON_THE_WAY = (
    LAYERS
    + """

class Cell:
    def __init__(self, W):
        self.params, self.grads = [W], [np.zeros_like(W)]

    def forward(self, x, h, c):
        (W,) = self.params
        c_next = c + np.tanh(x + h @ W)
        h_next = np.tanh(c_next)
        self.cache = x, h, c, c_next, h_next
        return h_next, c_next

    def backward(self, dh, dc):
        (W,) = self.params
        x, h, c, c_next, h_next = self.cache
        dc = dc + dh * (1 - h_next ** 2)
        dz = dc * (1 - (c_next - c) ** 2)
        self.grads[0][...] = h.T @ dz
        return dz, dz @ W.T, dc

class Cells:
    def __init__(self, size):
        self.params = [np.random.randn(size, size)]
        self.grads, self.layers = [np.zeros((size, size))], None

    def forward(self, xs):
        n, steps, d = xs.shape
        self.layers, h, c, hs = [], np.zeros((n, d)), np.zeros((n, d)), np.empty(xs.shape)
        for t in range(steps):
            layer = Cell(*self.params)
            h, c = layer.forward(xs[:, t], h, c)
            hs[:, t] = h
            self.layers.append(layer)
        return hs

    def backward(self, dhs):
        dxs, dh, dc, grad = np.empty(dhs.shape), 0, 0, 0
        for t in reversed(range(dhs.shape[1])):
            dxs[:, t], dh, dc = self.layers[t].backward(dhs[:, t] + dh, dc)
            grad = grad + self.layers[t].grads[0]
        self.grads[0][...] = grad
        return dxs

class Reader:
    def __init__(self, size):
        self.linear, self.cells = Linear(size, size), Cells(size)

    def forward(self, xs):
        n, t, d = xs.shape
        return self.cells.forward(self.linear.forward(xs.reshape(n * t, d)).reshape(n, t, d))

    def backward(self, dhs):
        n, t, d = dhs.shape
        return self.linear.backward(self.cells.backward(dhs).reshape(n * t, d)).reshape(n, t, d)
"""
)


@pytest.mark.seconds
def test_a_cell_that_the_forward_makes_is_the_one_that_is_wrong_in_all_that_hold_it(tmp_path: Path):
    assert all(report.ok for report in reports(tmp_path, MADE_ON_THE_WAY).values())
    found = reports(tmp_path, MADE_ON_THE_WAY, ("(c_next - c) ** 2", "c_next ** 2"))
    for whole in ("Cells", "Reader"):
        ((where, line),) = told(found[whole])
        assert (where, line) == ("In Cell's backward, dz", "dz = dc * (1 - c_next ** 2)")


WITH_PENALTY = """
import numpy as np

def affine_forward(x, w):
    return x @ w, (x, w)

def affine_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout

class Net:
    def __init__(self, sizes=(5, 6, 4), reg=0.3):
        self.reg, self.params = reg, {}
        for i, (m, n) in enumerate(zip(sizes, sizes[1:]), 1):
            self.params[f"W{i}"] = np.random.randn(m, n)

    def loss(self, X, y):
        h, caches = X, {}
        for i in (1, 2):
            h, caches[i] = affine_forward(h, self.params[f"W{i}"])
        d = h - np.eye(h.shape[1])[y]
        loss = 0.5 * np.mean(np.sum(d * d, axis=1))
        loss += 0.5 * self.reg * np.sum([np.sum(W * W) for W in self.params.values()])
        d, grads = d / len(d), {}
        for i in (2, 1):
            d, dW = affine_backward(d, caches[i])
            grads[f"W{i}"] = dW + self.reg * self.params[f"W{i}"]
        return loss, grads
"""


def test_a_sum_over_a_list_is_followed_by_autograd(tmp_path: Path):
    found = reports(tmp_path, WITH_PENALTY)["Net"]
    assert found.ok
    assert found.truth == "autograd"


def test_the_text_of_a_key_is_no_place_for_a_slip(tmp_path: Path):
    found = reports(tmp_path, WITH_PENALTY, ("x.T @ dout", "dout.T @ x"))["Net"]  # in a line beside f"W{i}"
    ((where, line),) = told(found)
    assert where.startswith("In affine_backward")
    assert "dout.T @ x" in line


HANDED_ON = (
    LAYERS
    + """

class Embedding:
    def __init__(self, num_embeddings, size):
        self.W = np.random.randn(num_embeddings, size).astype("f")

    def forward(self, idx):
        self.idx = idx
        return self.W[idx]

    def backward(self, dout):
        self.dW = np.zeros_like(self.W)
        np.add.at(self.dW, self.idx, dout)

class Encoder:
    def __init__(self, num_embeddings, size):
        self.embed, self.linear = Embedding(num_embeddings, size), Linear(size, size)

    def forward(self, idx):
        return self.linear.forward(self.embed.forward(idx))

    def backward(self, dout):
        dx = self.linear.backward(dout)
        dx = self.embed.backward(dx)
        return dx
"""
)


@pytest.mark.parametrize("wrong", ["-self.linear.backward(dout)", "2 * self.linear.backward(dout)"])
def test_what_a_layer_is_handed_is_shown_beside_the_call_that_hands_it(tmp_path: Path, wrong: str):
    assert reports(tmp_path, HANDED_ON)["Encoder"].ok
    found = reports(tmp_path, HANDED_ON, ("dx = self.linear.backward(dout)", f"dx = {wrong}"))["Encoder"]
    (row,) = found.culprits
    assert [line.text for line in row.lines] == ["dx = self.embed.backward(dx)", f"dx = {wrong}"]
    assert not any("wrong itself" in note for note in found.notes)  # an embedding of float32


POOLED = (
    LAYERS
    + """

class Relu:
    def forward(self, x):
        self.on = x > 0
        return x * self.on

    def backward(self, dout):
        return dout * self.on

class Largest:
    def forward(self, x):
        self.shape, self.at = x.shape, x.shape[1] - 1 - x[:, ::-1].argmax(axis=1)  # the last
        return x.max(axis=1)

    def backward(self, dout):
        dx = np.zeros(self.shape)
        dx[np.arange(len(dx)), self.at] = dout
        return dx

class Features:
    def __init__(self, n_in, n_out):
        self.linear, self.relu, self.largest = Linear(n_in, n_out), Relu(), Largest()

    def forward(self, x):
        n, d = x.shape
        self.several = self.relu.forward(self.linear.forward(x).repeat(2, axis=1) - 0.5)
        return self.largest.forward(self.several)

    def backward(self, dout):
        d = self.relu.backward(self.largest.backward(dout))
        return self.linear.backward(d[:, ::2] + d[:, 1::2])
"""
)


def test_a_maximum_is_not_wrong_for_its_choice_between_equal_ones(tmp_path: Path):
    found = reports(tmp_path, POOLED, ("self.x.T @ dout", "self.x @ dout"))["Features"]  # it raises
    assert ["Linear" in where for where, _ in told(found)] == [True]
    assert not any("Largest" in note for note in found.notes)


@pytest.mark.parametrize("given", ["layers", "*layers"])
def test_a_class_that_is_made_of_layers_goes_through_them_in_turn(tmp_path: Path, given: str):
    text = f"""
import numpy as np

class Sequential:
    def __init__(self, {given}):
        self.layers = layers
{THROUGH_ITS_LAYERS}"""
    right = reports(tmp_path, text)[""]
    assert right.ok
    assert "made of two layers of the checker's own." in right.notes
    (row,) = reports(tmp_path, text, ("reversed(self.layers)", "self.layers"))[""].culprits
    assert row.lines[0].text == "dout = layer.backward(dout)"


def test_what_a_wrong_part_spoils_is_told_beside_what_is_wrong_besides(tmp_path: Path):
    besides = "return loss, grads", "return loss, {**grads, 'b2': 3 * grads['b2']}"
    found = reports(tmp_path, PAIRS, ("x.T @ dout,", "2 * x.T @ dout,"), besides)["Net"]
    where = {row.name: row.mistake.message for row in found.culprits if row.mistake is not None}
    assert sorted(where) == ["W2", "b2"]
    assert where["W2"].startswith("In affine_backward, dw:")
    assert found["W1"].verdict == "follows"


TWICE_PAST = """


class Past:
    def __init__(self, size):
        self.one, self.two = Linear(size, size), Linear(size, size)

    def forward(self, x):
        self.h = x + self.one.forward(x)
        return self.h + self.two.forward(self.h)

    def backward(self, dout):
        dh = dout + self.two.backward(dout)
        dx = dh + self.one.backward(dh)
        return dx
"""


@pytest.mark.parametrize(
    ("slips", "lines"),
    [
        ([("dh = dout + ", "dh = ")], ["dh = self.two.backward(dout)"]),
        ([("dx = dh + ", "dx = ")], ["dx = self.one.backward(dh)"]),
        (
            [("dh = dout + ", "dh = "), ("dx = dh + ", "dx = ")],
            ["dx = self.one.backward(dh)", "dh = self.two.backward(dout)"],
        ),
    ],
)
def test_each_way_past_a_layer_that_is_missing_is_told_on_its_line(tmp_path: Path, slips, lines):
    text = TWICE_PAST
    for old, new in slips:
        text = text.replace(old, new)
    assert reports(tmp_path, LAYERS + TWICE_PAST)["Past"].ok
    found = reports(tmp_path, LAYERS + text)["Past"]
    assert [row.lines[0].text for row in found.culprits] == lines
    assert found.culprits[-1].mistake is not None
    assert found.culprits[-1].mistake.kind == "missing_branch"


EXCHANGED = """
import numpy as np


def dense_forward(x, w, b):
    return x @ w + b, (x, w)


def dense_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0)


def skip_forward(x, w1, b1, w2, b2):
    h, first = dense_forward(x, w1, b1)
    a, second = dense_forward(np.tanh(h), w2, b2)
    return x + a, (h, first, second)


def skip_backward(dout, cache):
    h, first, second = cache
    dt, dw2, db2 = dense_backward(dout, second)
    dh = dt * (1 - np.tanh(h) ** 2)
    dx, db1, dw1 = dense_backward(dh, first)
    return dx + dout, dw1, db1, dw2, db2
"""


def test_inputs_are_found_for_a_backward_that_exchanges_gradients_of_different_shapes(tmp_path: Path):
    found = reports(tmp_path, EXCHANGED)["skip_backward"]
    (row,) = found.culprits
    assert row.lines[0].text == "dx, db1, dw1 = dense_backward(dh, first)"


def test_inputs_are_found_for_a_backward_of_which_one_gradient_has_another_shape(tmp_path: Path):
    text = EXCHANGED.replace("dx, db1, dw1 =", "dx, dw1, db1 =").replace("db1, dw2, db2", "db1, dt, db2")
    found = reports(tmp_path, text)["skip_backward"]
    (row,) = found.culprits
    assert (row.name, row.lines[0].text) == ("w2", "return dx + dout, dw1, db1, dt, db2")


TWO_DENSE = """
import numpy as np


def dense_forward(x, w, b):
    return x @ w + b, (x, w)


def dense_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0)


class TwoDense:
    def __init__(self, size):
        self.w1, self.b1 = np.random.randn(size, size), np.zeros(size)
        self.w2, self.b2 = np.random.randn(size, size), np.zeros(size)

    def forward(self, x):
        a, self.first = dense_forward(x, self.w1, self.b1)
        self.h = np.tanh(a)
        out, self.second = dense_forward(self.h, self.w2, self.b2)
        return out

    def backward(self, dout):
        dh, self.dw2, self.db2 = dense_backward(dout, self.second)
        da = dh * (1 - self.h**2)
        dx, self.dw1, self.db1 = dense_backward(da, self.first)
        return dx
"""


@pytest.mark.parametrize("handed", ["dh", "3 * da"])
def test_what_a_call_is_handed_wrongly_is_told_on_the_line_of_the_call_in_its_own_text(
    tmp_path: Path, handed
):
    assert reports(tmp_path, TWO_DENSE)["TwoDense"].ok
    found = reports(tmp_path, TWO_DENSE, ("dense_backward(da,", f"dense_backward({handed},"))["TwoDense"]
    (row,) = found.culprits
    line = f"dx, self.dw1, self.db1 = dense_backward({handed}, self.first)"
    assert row.lines[0].text == line
    assert row.mistake is not None
    assert f"in `{line}`" in row.mistake.message
