"""Layers that leave all on themselves, move their parameters on the spot, or begin at their own cost."""

import copy
from pathlib import Path

import numpy as np
import pytest

from backhand import check_class, check_files


def seen(layer, inputs):
    report = check_class(layer, inputs)
    return {row.gradient: row.verdict for row in report.rows}, report


class Moving:
    """A layer of columns that takes a step at once."""

    def __init__(self, inputs=5, outputs=3):
        self.w = np.ones((outputs, inputs))
        self.b = np.ones((outputs, 1))

    def forward(self, x):
        self.x = x
        return self.w @ x + self.b

    def backward(self, dout, learning_rate):
        slope = dout @ self.x.T
        dx = self.w.T @ dout
        self.w -= learning_rate * slope
        self.b = self.b - learning_rate * dout.sum(axis=1, keepdims=True)
        return dx


def columns(rng):
    return {"x": rng.normal(size=(5, 4))}


def test_what_a_backward_moves_is_judged_by_its_step():
    verdicts, report = seen(Moving(), columns)
    assert verdicts == {"dx": "right", "slope": "right", "db": "right"}
    assert "backward moves w and b and keeps no gradient of it: the step is judged" in report.notes[-1]


def test_a_wrong_step_is_told_at_the_line_of_its_gradient():
    class Wrong(Moving):
        def backward(self, dout, learning_rate):
            slope = dout @ -self.x.T
            dx = self.w.T @ dout
            self.w -= learning_rate * slope
            self.b = self.b - learning_rate * -dout.sum(axis=1, keepdims=True)
            return dx

    verdicts, report = seen(Wrong(), columns)
    assert verdicts == {"dx": "right", "slope": "wrong", "db": "wrong"}
    assert [r.lines[0].text.strip() for r in report.culprits] == [
        "slope = dout @ -self.x.T",
        "self.b = self.b - learning_rate * -dout.sum(axis=1, keepdims=True)",
    ]
    assert "begun" not in str(report)


def test_steps_of_an_optimiser_are_not_taken_for_gradients():
    class Normed(Moving):
        def backward(self, dout, learning_rate):
            slope = dout @ self.x.T
            dx = self.w.T @ dout
            self.w -= learning_rate * slope / np.abs(slope)
            return dx

    verdicts, report = seen(Normed(), columns)
    assert verdicts == {"dx": "right"}
    assert any("no gradient of it is found: w, b" in note for note in report.notes)


class Step:
    def update(self, weights, gradient):
        return weights - 0.01 * gradient


class Passing:
    """A layer whose methods have longer names, which an optimiser is handed to."""

    def __init__(self, n_units, input_shape=None):
        self.n_units, self.input_shape = n_units, input_shape

    def initialize(self, optimizer):
        self.W = np.ones((self.input_shape[0], self.n_units))
        self.W_step = copy.copy(optimizer)

    def forward_pass(self, X, training=True):
        self.X = X
        return X @ self.W

    def backward_pass(self, accum_grad):
        before = self.W
        dW = self.X.T @ accum_grad
        self.W = self.W_step.update(self.W, dW)
        return accum_grad @ before.T


@pytest.mark.seconds
def test_a_layer_that_is_handed_an_optimiser_is_made_and_judged(tmp_path: Path):
    text = Path(__file__).read_text()
    own = text[text.index("class Step") : text.index("@pytest.mark.seconds\ndef test_a_layer")]
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text("import copy\nimport numpy as np\n\n" + own)
    wrong.write_text(right.read_text().replace("self.X.T @ accum_grad", "self.X.T @ accum_grad / 2"))
    checked = [found.report for found in check_files([right, wrong])]
    assert [[row.gradient for row in r.rows] for r in checked if r] == [["dX", "dW"], ["dX", "dW"]]
    assert [[row.gradient for row in r.culprits] for r in checked if r] == [[], ["dW"]]


class Leaving:
    """A layer that returns nothing: its output and its gradients stand on itself."""

    def __init__(self):
        self.weights = np.ones((5, 3))

    def forward(self, inputs, training=True):
        self.inputs = inputs
        self.output = inputs @ self.weights

    def backward(self, dvalues):
        self.dweights = self.inputs.T @ dvalues
        self.dinputs = dvalues @ self.weights.T


def test_outputs_and_gradients_that_are_left_on_a_layer_are_judged():
    given = {"inputs": np.random.default_rng(0).normal(size=(4, 5))}
    assert seen(Leaving(), given)[0] == {"dweights": "right", "dinputs": "right"}

    class Wrong(Leaving):
        def backward(self, dvalues):
            self.dweights = self.inputs.T @ dvalues
            self.dinputs = dvalues @ (self.weights.T * 2)

    verdicts, report = seen(Wrong(), given)
    assert verdicts == {"dweights": "right", "dinputs": "wrong"}
    assert report["dinputs"].lines[0].text.strip() == "self.dinputs = dvalues @ (self.weights.T * 2)"


class CrossEntropy:
    """A loss for each row, whose backward is given the predictions."""

    def forward(self, predicted, labels):
        return -np.log(predicted[range(len(predicted)), labels])

    def backward(self, dvalues, labels):
        self.dinputs = -np.eye(dvalues.shape[1])[labels] / dvalues / len(dvalues)


class SoftmaxCrossEntropy:
    """A softmax with its loss, whose backward is given the probabilities that the forward left."""

    def forward(self, scores, labels):
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        self.output = e / e.sum(axis=1, keepdims=True)
        return CrossEntropy().forward(self.output, labels).mean()

    def backward(self, dvalues, labels):
        self.dinputs = dvalues.copy()
        self.dinputs[range(len(labels)), labels] -= 1
        self.dinputs = self.dinputs / len(labels)


@pytest.mark.parametrize("loss", [CrossEntropy, SoftmaxCrossEntropy])
def test_a_backward_that_asks_for_the_labels_begins_at_the_loss(loss):
    rng = np.random.default_rng(0)
    given = {"labels": np.array([0, 2, 1, 1])}
    name = "predicted" if loss is CrossEntropy else "scores"
    given[name] = rng.uniform(0.2, 0.8, size=(4, 3))
    verdicts, report = seen(loss(), given)
    assert verdicts == {"dinputs": "right"}
    assert any("their mean is judged" in note for note in report.notes) == (loss is CrossEntropy)


class Model:
    """A whole model as one class, with a cost of its own."""

    def __init__(self, input_size, output_size, learning_rate=0.1):
        self.lr = learning_rate
        self.W = np.ones((input_size, output_size))
        self.V = np.ones((output_size, output_size))

    def forward(self, X):
        self.h = np.tanh(X @ self.W)
        return self.h @ self.V

    def compute_loss(self, y_hat, y):
        return 0.5 * np.sum((y_hat - y) ** 2) / len(y)

    def backward(self, X, y, y_hat):
        dout = (y_hat - y) / len(y)
        dV = self.h.T @ dout
        dz = dout @ self.V.T * (1 - self.h**2)
        dW = X.T @ dz
        self.V -= self.lr * dV
        self.W -= self.lr * dW


@pytest.mark.seconds
def test_a_model_with_a_cost_of_its_own_is_judged_from_there(tmp_path: Path):
    text = Path(__file__).read_text()
    own = text[text.index("class Model") : text.index("@pytest.mark.seconds\ndef test_a_model")]
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text("import numpy as np\n\n" + own)
    wrong.write_text(right.read_text().replace("(1 - self.h**2)", "(1 - self.h)"))
    checked = [found.report for found in check_files([right, wrong])]
    assert [{row.gradient: row.verdict for row in r.rows} for r in checked if r] == [
        {"dV": "right", "dW": "right"},
        {"dV": "right", "dW": "wrong"},
    ]
    assert checked[1] is not None
    assert "dz = dout" in checked[1]["dW"].lines[0].text


LISTED = """
import numpy as np

class Affine:
    def __init__(self, n_in, n_out):
        self.W = np.ones((n_in, n_out))
        self.b = np.ones(n_out)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        dW, db = self.x.T @ dout, {db}
        return dout @ self.W.T, [dW, db]

class Stepping:
    def __init__(self, n_in, n_out):
        self.W = np.ones((n_in, n_out))

    def forward(self, x):
        self.x = x
        return x @ self.W

    def backprop(self, dout, learn_rate):
        dx = dout @ self.W.T
        self.W -= learn_rate * (self.x.T @ dout)
        return dx

class Dropped:
    def __init__(self, rate=0.5):
        self.rate = rate

    def forward(self, x, training=False):
        self.mask = np.random.rand(*x.shape) > self.rate if training else np.ones(x.shape)
        return x * self.mask / (1 - self.rate)

    def backward(self, dout):
        return dout * {mask}
"""


@pytest.mark.parametrize(
    ("db", "mask", "wrong"),
    [
        ("dout.sum(axis=0)", "self.mask / (1 - self.rate)", {}),
        ("dout.mean(axis=0)", "1 / (1 - self.rate)", {"Affine": {"db"}, "Dropped": {"dx"}}),
    ],
)
def test_gradients_in_a_written_list_steps_of_a_learn_rate_and_training_by_default_off(
    tmp_path: Path, db: str, mask: str, wrong: dict
):
    (file := tmp_path / "layers.py").write_text(LISTED.replace("{db}", db).replace("{mask}", mask))
    found = {one.name: one.report for one in check_files([file])}
    assert {r.gradient for r in found["Affine"].rows} == {"dx", "dW", "db"}
    assert len(found["Stepping"].rows) == 2
    assert {n: {c.gradient for c in r.culprits} for n, r in found.items() if not r.ok} == wrong


UNKNOWN = """
import numpy as np

class Picked:
    def __init__(self, incoming, answers):
        self.weights = np.ones((incoming, answers))

    def forward(self, row):
        self.row = row.flatten()
        self.scores = np.exp(self.row @ self.weights)
        return self.scores / self.scores.sum()

    def backprop(self, upstream, learn_rate):
        for i, one in enumerate(upstream):
            if one == 0:
                continue
            total = self.scores.sum()
            slope = -self.scores[i] * self.scores / total**2
            slope[i] {sign}= self.scores[i] / total
            dscores = one * slope
            drow = self.weights @ dscores
            self.weights -= learn_rate * np.outer(self.row, dscores)
            return drow

class RecurrentRNN:
    def __init__(self, wide, narrow, hidden_size=7):
        self.U = np.ones((hidden_size, wide))
        self.V = np.ones((hidden_size, hidden_size))
        self.O = np.ones((narrow, hidden_size))

    def forward(self, columns):
        state = np.zeros((self.V.shape[0], 1))
        self.columns, self.states = columns, [state]
        for column in columns:
            state = np.tanh(self.U @ column + self.V @ state)
            self.states.append(state)
        return self.O @ state, state

    def backprop(self, d_answer, learn_rate=0.02):
        dO = d_answer @ self.states[-1].T
        dU, dV = np.zeros_like(self.U), np.zeros_like(self.V)
        dstate = self.O.T @ d_answer
        for i in reversed(range(len(self.columns))):
            inner = (1 - self.states[i + 1] ** 2) * dstate
            dU += inner @ self.columns[i].T
            dV += inner @ self.states[i].T
            dstate = self.V{turned} @ inner
        for d in (dO, dU, dV):
            np.clip(d, -1, 1, out=d)
        self.O -= learn_rate * dO
        self.U -= learn_rate * dU
        self.V -= learn_rate * dV
"""


@pytest.mark.parametrize(("sign", "turned", "ok"), [("+", ".T", True), ("-", "", False)])
def test_sizes_that_no_course_asks_for_are_guessed_and_steps_of_clipped_gradients_judged(
    tmp_path: Path, sign: str, turned: str, ok: bool
):
    (file := tmp_path / "net.py").write_text(UNKNOWN.replace("{sign}", sign).replace("{turned}", turned))
    found = {one.name: one.report for one in check_files([file])}
    assert [report.ok for report in found.values()] == [ok, ok]
    assert "made with sizes that are guessed, of incoming and answers." in found["Picked"].notes
    assert any("np.clip" in note for note in found["RecurrentRNN"].notes)
    if ok:
        assert (
            "Right where one element alone of upstream is not zero, and only there." in found["Picked"].notes
        )
    else:
        texts = [row.lines[0].text for row in found["RecurrentRNN"].culprits]
        assert texts == ["dstate = self.V @ inner"]


def test_what_cannot_be_made_of_any_sizes_is_refused(tmp_path: Path):
    class_of_a_function = UNKNOWN.split("class RecurrentRNN")[0].replace(
        "np.ones((incoming", "incoming((answers"
    )
    (file := tmp_path / "net.py").write_text(class_of_a_function.replace("{sign}", "+"))
    (one,) = check_files([file])
    assert "how to make Picked(incoming, answers) is not known" in one.problem


HELPED = """
import numpy as np

class ConvOne:
    def __init__(self, in_channels, num_filters):
        self.W = np.ones((num_filters, in_channels))

    def places(self, x_shape):
        n, channels, height, width = x_shape
        return np.arange(height * width)

    def forward(self, x):
        self.x = x
        columns = x.reshape(len(x), x.shape[1], -1)[:, :, self.places(x.shape)]
        return np.einsum("oc,ncp->nop", self.W, columns).reshape(len(x), -1, *x.shape[2:])

    def backward(self, dout):
        self.dW = np.einsum("nohw,nchw->oc", dout, self.x)
        return np.einsum("oc,nohw->nchw", self.W, dout)
"""


def test_a_helper_that_asks_for_a_shape_is_no_step_of_making_a_layer(tmp_path: Path):
    (file := tmp_path / "layers.py").write_text(HELPED)
    (one,) = check_files([file])
    assert one.report is not None, one.problem
    assert one.report.ok


def test_a_letter_that_is_a_backward_s_only_argument_is_what_arrives_and_no_rate():
    class Rectifier:
        def forward(self, x):
            self.on = x > 0
            return x * self.on

        def backward(self, eta):
            eta[~self.on] = 0
            return eta

    verdicts, _ = seen(Rectifier(), columns)
    assert verdicts == {"dx": "right"}
