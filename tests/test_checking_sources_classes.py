"""Layers over NumPy that are classes: where their gradients lie, and which line is told."""

import functools
from pathlib import Path

import numpy as np
import pytest

from altered import from_text
from backhand import CheckError, check_class, check_files
from backhand.checking.sources.layers import layers_of


class Affine:
    def __init__(self, inputs=5, outputs=3):
        self.W = np.ones((inputs, outputs))
        self.b = np.zeros(outputs)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout):
        self.dW = self.x.T @ dout
        self.db = dout.sum(axis=0)
        return dout @ self.W.T


class InLists(Affine):
    def __init__(self):
        super().__init__()
        self.params = [self.W, self.b]
        self.grads = [np.zeros_like(self.W), np.zeros_like(self.b)]

    def backward(self, dout):
        self.grads[0][...] = self.x.T @ dout
        self.grads[1] = dout.sum(axis=0)
        return dout @ self.W.T


class InDictionaries:
    def __init__(self):
        self.params = {"W": np.ones((5, 3)), "b": np.zeros(3)}
        self.grads = {}

    def forward(self, x):
        self.x = x
        return x @ self.params["W"] + self.params["b"]

    def backward(self, dout):
        self.grads["W"] = self.x.T @ dout
        self.grads["b"] = dout.sum(axis=0)
        return dout @ self.params["W"].T


class InPairs(Affine):
    def __init__(self):
        self.W = {"val": np.ones((5, 3)), "grad": np.zeros((5, 3))}
        self.b = {"val": np.zeros(3), "grad": np.zeros(3)}

    def forward(self, x):
        self.x = x
        return x @ self.W["val"] + self.b["val"]

    def backward(self, dout):
        self.W["grad"] = self.x.T @ dout
        self.b["grad"] = dout.sum(axis=0)
        return dout @ self.W["val"].T, self.W["grad"], self.b["grad"]


def test_a_value_and_its_gradient_may_be_kept_in_a_dictionary():
    report = check_class(InPairs(), lambda rng: {"x": rng.normal(size=(4, 5))})
    assert {row.gradient: row.verdict for row in report.rows} == {
        "dx": "right",
        "W_grad": "right",
        "b_grad": "right",
    }


class Parameter:
    def __init__(self, value):
        self.value = value
        self.grad = np.zeros_like(value)


class InObjects:
    def __init__(self):
        self.W = Parameter(np.ones((5, 3)))

    def forward(self, x):
        self.x = x
        return x @ self.W.value

    def backward(self, d_out):
        self.W.grad += self.x.T @ d_out
        return d_out @ self.W.value.T


class InWords(Affine):
    def __init__(self):
        self.weights, self.bias = np.ones((5, 3)), np.zeros(3)

    def forward(self, input_tensor):
        self.x = input_tensor
        return input_tensor @ self.weights + self.bias

    def backward(self, error_tensor):
        self.gradient_weights = self.x.T @ error_tensor
        self.gradient_bias = error_tensor.sum(axis=0)
        return error_tensor @ self.weights.T


class Two:
    def __init__(self):
        self.layers = [Affine(5, 4), Affine(4, 3)]

    def forward(self, x):
        self.hidden = np.tanh(self.layers[0].forward(x))
        return self.layers[1].forward(self.hidden)

    def backward(self, dout):
        dhidden = self.layers[1].backward(dout)
        return self.layers[0].backward(dhidden * (1 - self.hidden**2))


def rows(rng):
    return [rng.normal(size=(4, 5))]


@pytest.mark.parametrize(
    ("layer", "count"),
    [(Affine(), 3), (InLists(), 3), (InDictionaries(), 3), (InObjects(), 2), (InWords(), 3), (Two(), 5)],
)
def test_the_gradients_of_parameters_are_found_where_they_lie(layer, count: int):
    report = check_class(layer, rows)
    assert report.ok
    assert len(report.rows) == count
    assert {row.verdict for row in report.rows} == {"right"}


def test_the_line_that_leaves_a_wrong_gradient_is_told():
    class Wrong(InDictionaries):
        def backward(self, dout):
            self.grads["W"] = self.x.T @ dout
            self.grads["b"] = dout.mean(axis=0)
            return dout @ self.params["W"].T

    (row,) = check_class(Wrong(), rows).culprits
    assert row.name == "b"
    assert row.mistake.kind == "scale"
    assert row.lines[0].text == 'self.grads["b"] = dout.mean(axis=0)'


def passed_through(method):
    @functools.wraps(method)
    def called(*args, **options):
        return method(*args, **options)

    return called


def test_a_method_behind_a_decorator_is_told_with_its_line():
    class Shifted:
        def __init__(self):
            self.b = np.zeros(3)

        @passed_through
        def forward(self, x):
            return x + self.b

        @passed_through
        def backward(self, dout):
            self.db = dout.mean(axis=0)
            return dout

    report = check_class(Shifted(), lambda rng: [rng.normal(size=(4, 3))])
    assert [(row.gradient, row.lines[0].text) for row in report.culprits] == [
        ("db", "self.db = dout.mean(axis=0)")
    ]


def test_what_is_right_at_the_first_parameters_alone_is_wrong():
    class Gain:
        def __init__(self):
            self.gamma = np.ones(5)

        def forward(self, x):
            self.x = x
            return x * self.gamma

        def backward(self, dout):
            self.dgamma = (dout * self.x).sum(axis=0)
            return dout  # right at gamma = 1

    (row,) = check_class(Gain(), rows).culprits
    assert row.gradient == "dx"


class SoftmaxWithLoss:
    def forward(self, x, t):
        self.t = t
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.y = e / e.sum(axis=1, keepdims=True)
        return -np.log(self.y[np.arange(len(t)), t] + 1e-7).mean()

    def backward(self, dout=1):
        dx = self.y.copy()
        dx[np.arange(len(self.t)), self.t] -= 1
        return dx * dout / len(self.t)


def test_an_epsilon_within_a_logarithm_is_no_fault_and_is_told():
    report = check_class(SoftmaxWithLoss(), lambda rng: (rng.normal(size=(4, 5)), rng.integers(0, 5, size=4)))
    assert report.ok
    assert any("1e-07" in note for note in report.notes)


def test_a_layer_is_as_it_was_afterwards():
    layer = Affine()
    check_class(layer, rows)
    assert set(vars(layer)) == {"W", "b"}
    assert np.array_equal(layer.W, np.ones((5, 3)))


def test_a_layer_without_gradients_is_refused():
    class Nothing:
        def forward(self, x):
            return 2 * x

        def backward(self, dout):
            self.done = True

    with pytest.raises(CheckError, match="Nothing returns no gradient, and leaves none on itself"):
        check_class(Nothing(), rows)


def test_the_classes_of_a_file_are_made_and_checked(tmp_path: Path):
    file = tmp_path / "layers.py"
    file.write_text("""import numpy as np

class Layer:
    def forward(self, x):
        raise NotImplementedError

    def backward(self, dout):
        raise NotImplementedError

class Tanh(Layer):
    def forward(self, x):
        self.out = np.tanh(x)
        return self.out

    def backward(self, dout):
        return dout * (1 - self.out)

class Linear(Layer):
    def __init__(self, in_features, out_features):
        self.W = np.random.randn(in_features, out_features)

    def forward(self, x):
        self.x = x
        return x @ self.W

    def backward(self, dout):
        self.dW = self.x.T @ dout
        return dout @ self.W.T

class Strange(Layer):
    def __init__(self, recipe):
        self.recipe = recipe["flour"]

    def forward(self, x):
        return x

    def backward(self, dout):
        return dout
""")
    tanh, linear, strange = check_files([file])
    assert (tanh.name, linear.name) == ("Tanh", "Linear")
    assert not tanh.report.ok
    assert linear.report.ok
    assert strange.problem.startswith("how to make Strange(recipe) is not known")


class Called(Affine):
    def __call__(self, x):
        return self.forward(x)

    def backward(self, dLdout):
        self.dLdW = self.x.T @ dLdout
        self.dLdb = dLdout.mean(axis=0)
        return dLdout @ self.W.T


class Hidden(Affine):
    def backward(self, error):
        self._gradient_W = self.x.T @ error
        return error @ self.W.T


class Embedding:
    def __init__(self, W):
        self.params, self.grads = [W], [np.zeros_like(W)]

    def forward(self, x):
        self.x = x
        return x @ self.params[0]

    def backward(self, dout):
        self.grads[0][...] = self.x.T @ dout


class Tied:
    """Two layers of one matrix, each with its part of its gradient."""

    def __init__(self, size=5):
        table = np.ones((size, 3))
        self.first, self.second = Embedding(table), Embedding(table)
        self.layers = [self.first, self.second]

    def forward(self, x, y):
        return self.layers[0].forward(x) * self.layers[1].forward(y)

    def backward(self, dout):
        a, b = (layer.x @ layer.params[0] for layer in self.layers)
        self.layers[0].backward(dout * b)
        self.layers[1].backward(dout * a)


def draw_two(rng):
    return rng.normal(size=(4, 5)), rng.normal(size=(4, 5))


def test_the_parameters_of_a_layer_that_can_be_called_are_judged():
    report = check_class(Called(), rows)
    assert {row.gradient: row.verdict for row in report.rows} == {
        "dLdW": "right",
        "dLdb": "wrong",
        "dx": "right",
    }


def test_a_parameter_without_a_gradient_is_told():
    report = check_class(Hidden(), rows)
    assert report.ok
    assert report["W"].gradient == "_gradient_W"
    assert "not judged, for no gradient of it is found: b" in report.notes


def test_what_two_layers_give_of_a_shared_parameter_is_added():
    report = check_class(Tied(), draw_two)
    assert report.ok
    assert len(report.rows) == 1


def test_a_backward_that_asks_for_more_than_its_upstream_gradient_is_refused():
    class Step(Affine):
        def backward(self, dout, h_t):
            return dout * h_t

    with pytest.raises(CheckError, match=r"Step.backward asks for dout and h_t, but forward gives 1 "):
        check_class(Step(), rows)


class WithPrivateMethods(Affine):
    def forward(self, x):
        self.x = x
        return self.__product(x)

    def __product(self, x):
        return x @ self.W + self.b

    def backward(self, dout):
        self.dW = self.x.T @ dout
        self.db = dout.sum(axis=0)
        dx = self.__handed_on(-dout)
        return dx

    def __handed_on(self, dout):
        return dout @ self.W.T


def test_private_methods_are_called_as_python_calls_them():
    report = check_class(WithPrivateMethods(), rows)
    (culprit,) = report.culprits
    assert culprit.lines[0].text.strip() == "dx = self.__handed_on(-dout)"


class UnaveragedLoss(SoftmaxWithLoss):
    """Its backward leaves out the mean, beside the tiny constant within the logarithm."""

    def backward(self, dout=1):
        dx = self.y.copy()
        dx[np.arange(len(self.t)), self.t] -= 1
        return dx * dout


def test_a_mistake_beside_a_tiny_constant_is_named_without_it():
    def inputs(rng):
        return {"x": rng.normal(size=(5, 3)), "t": rng.integers(0, 3, size=5)}

    report = check_class(UnaveragedLoss(), inputs)
    (culprit,) = report.culprits
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "scale"
    assert "Judged without 1e-07 in the forward" in " ".join(report.notes)


class Gathering:
    """Keeps NumPy on itself, adds at places, takes a range for an index, repeats a float's times."""

    def __init__(self) -> None:
        self.xp = np

    def forward(self, x):
        self.places, self.shape = np.array([0, 1, 0]), x.shape
        picked = self.xp.zeros((3, 4))
        picked[:, range(4)] = x[:, range(4)]
        sums = self.xp.zeros((2, 4))
        np.add.at(sums, self.places, picked)
        return np.repeat(sums, 2.0, axis=0)

    def backward(self, dout):
        dsums = dout.reshape(2, 2, 4).sum(axis=1)
        dx = np.zeros(self.shape)
        dx[:, :4] = dsums[self.places]
        return dx


def test_a_layer_that_holds_numpy_itself_and_adds_at_places_is_followed_by_autograd() -> None:
    report = check_class(Gathering(), lambda rng: {"x": rng.normal(size=(3, 5))})
    assert report.ok
    assert report.truth == "autograd"


class Cell:
    """It is handed again what its forward was given and gave, under the names of a course."""

    def __init__(self, n, h):
        self.W_ih, self.W_hh = np.ones((h, n)), np.ones((h, h))

    def forward(self, x, h_prev_t):
        h_t = np.tanh(x @ self.W_ih.T + h_prev_t @ self.W_hh.T)
        return h_t

    def backward(self, delta, h_t, h_prev_l, h_prev_t):
        dz = delta * (1 - h_t**2)
        self.dW_ih = dz.T @ h_prev_l
        self.dW_hh = dz.T @ h_prev_t
        return dz @ self.W_ih, dz @ self.W_hh


def states(rng):
    return {"x": rng.normal(size=(3, 5)), "h_prev_t": rng.normal(size=(3, 4))}


def test_a_backward_that_is_handed_the_output_and_the_input_under_another_name_is_judged():
    assert check_class(Cell(5, 4), states).ok

    class Wrong(Cell):
        def backward(self, delta, h_t, h_prev_l, h_prev_t):
            dz = delta * (1 - h_t)
            self.dW_ih = dz.T @ h_prev_l
            self.dW_hh = dz.T @ h_prev_t
            return dz @ self.W_ih, dz @ self.W_hh

    report = check_class(Wrong(5, 4), states)
    assert report.culprits[0].lines[0].text == "dz = delta * (1 - h_t)"


def test_a_backward_that_asks_for_outputs_and_inputs_in_their_order_is_given_them():
    class Other(Cell):
        def forward(self, x, h):
            h_new = Cell.forward(self, x, h)
            return h_new

        def backward(self, delta, h, h_below, h_before):
            return Cell.backward(self, delta, h, h_below, h_before)

    class Wrong(Other):
        def backward(self, delta, h, h_below, h_before):
            return Cell.backward(self, delta, h, h_below, h)

    def drawn(rng):
        return dict(zip(("x", "h"), states(rng).values(), strict=True))

    assert [row.verdict for row in check_class(Other(5, 4), drawn).rows] == ["right"] * 4
    assert [row.gradient for row in check_class(Wrong(5, 4), drawn).culprits] == ["dW_hh"]


def test_the_line_in_which_a_backward_ends_is_at_fault_where_it_makes_no_gradient_itself():
    class Masked(Affine):
        def backward(self, dout):
            if self.mask is not None:
                dout = dout * self.mask
            return dout @ self.W.T

    report = check_class(Masked(), rows)
    (row,) = report.culprits
    assert row.lines[0].text == "if self.mask is not None:"
    assert "AttributeError" in row.mistake.message


def test_what_arrives_may_be_called_as_the_input():
    class Gate:
        def forward(self, x):
            self.on = x > 0
            return x * self.on

        def backward(self, x):
            return x * self.on

    class Square:
        """The derivative of each element, which grows with x as well."""

        def forward(self, x):
            return x**2

        def backward(self, x):
            return 2 * x

    class Linear:
        def __init__(self):
            self.W = np.ones((3, 2))

        def forward(self, x):
            self.x = x
            return x @ self.W

        def backward(self, x):
            self.dW = self.x.T @ x
            return 2 * x @ self.W.T

    reports = [check_class(layer(), lambda rng: [rng.normal(size=(4, 3))]) for layer in (Gate, Square)]
    assert all(report.ok for report in reports)
    report = check_class(Linear(), lambda rng: [rng.normal(size=(4, 3))])
    assert {row.gradient: row.verdict for row in report.rows} == {"dx": "wrong", "dW": "right"}


TINY = 1e-8


@pytest.mark.parametrize("where", ["own", "default", "global"])
def test_a_tiny_constant_is_no_fault_wherever_it_stands(where):
    class Inner:
        def __init__(self):
            self.tiny = 1e-8

        def shares(self, weights, tiny=1e-8):
            guard = {"own": self.tiny, "default": tiny, "global": TINY}[where]
            return weights / (weights.sum(axis=1, keepdims=True) + guard)

    class Softmax:
        def __init__(self):
            self.inner = [Inner()]

        def forward(self, x):  # what is taken away has a slope, for the tiny constant is added
            self.p = self.inner[0].shares(np.exp(x - x.max(axis=1, keepdims=True)))
            return self.p

        def backward(self, dout):
            return self.p * (dout - (dout * self.p).sum(axis=1, keepdims=True))

    report = check_class(Softmax(), lambda rng: [rng.normal(size=(4, 5))])
    assert report.ok
    assert any("1e-08" in note for note in report.notes)


class Adding:
    """A step of a recurrence, which adds to what it has."""

    def __init__(self, V, W):
        self.V, self.W = V, W
        self.dV, self.dW = np.zeros_like(V), np.zeros_like(W)

    def forward(self, x, h):
        self.x, self.h, self.out = x, h, np.tanh(x @ self.V + h @ self.W)
        return self.out

    def backward(self, dout):
        da = dout * (1 - self.out**2)
        self.dV += self.x.T @ da
        self.dW += self.h.T @ da
        return da @ self.V.T, da @ self.W.T


def test_a_wrong_factor_of_what_is_added_to_an_object_is_named():
    class Wrong(Adding):
        def backward(self, dout):
            da = dout * (1 - self.out**2)
            self.dV += self.x.T @ da
            self.dW += self.out.T @ da
            return da @ self.V.T, da @ self.W.T

    layer = Wrong(np.ones((3, 3)), np.ones((3, 3)))
    (culprit,) = check_class(layer, lambda rng: [*rng.normal(size=(2, 4, 3))]).culprits
    assert culprit.mistake is not None
    assert "self.out is used where self.h belongs" in culprit.mistake.message


class Through:
    """Cells over time that each make their gradient anew, in float32."""

    def __init__(self):
        self.params = [np.ones((3, 3)), np.ones((3, 3))]
        self.grads = [np.zeros((3, 3)), np.zeros((3, 3))]

    def forward(self, xs):
        hs, self.cells = np.zeros(xs.shape, dtype="f"), []
        h = np.full((len(xs), 3), 0.5)
        for t in range(xs.shape[1]):
            self.cells.append(Adding(*self.params))
            hs[:, t] = h = self.cells[-1].forward(xs[:, t], h)
        return hs

    def backward(self, dhs):
        dxs, dh, grads = np.zeros(dhs.shape, dtype="f"), 0, [0, 0]
        for t in reversed(range(dhs.shape[1])):
            dxs[:, t], dh = self.cells[t].backward(dhs[:, t] + dh)
            for i, grad in enumerate([self.cells[t].dV, self.cells[t].dW]):
                grads[i] += grad
        for i, grad in enumerate(grads):
            self.grads[i][...] = grad
        return dxs


class Overwriting(Through):
    def backward(self, dhs):
        dxs, dh, grads = np.zeros(dhs.shape, dtype="f"), 0, [0, 0]
        for t in reversed(range(dhs.shape[1])):
            dxs[:, t], dh = self.cells[t].backward(dhs[:, t] + dh)
            for i, grad in enumerate([self.cells[t].dV, self.cells[t].dW]):
                grads[i] = grad
        for i, grad in enumerate(grads):
            self.grads[i][...] = grad
        return dxs


class Forgetting:
    """Does not hand back from step to step what comes from the later ones."""

    def __init__(self):
        self.params = [np.ones((5, 3)), np.ones((3, 3))]
        self.grads = [np.zeros((5, 3)), np.zeros((3, 3))]

    def forward(self, xs):
        hs, self.cells, h = np.zeros((*xs.shape[:2], 3)), [], np.zeros((len(xs), 3))
        for t in range(xs.shape[1]):
            self.cells.append(Adding(*self.params))
            h = self.cells[-1].forward(xs[:, t], h)
            hs[:, t] = h
        return hs

    def backward(self, dhs):
        dxs, grads = np.zeros((*dhs.shape[:2], 5)), [0, 0]
        for t in reversed(range(dhs.shape[1])):
            dx, _ = self.cells[t].backward(dhs[:, t])
            dxs[:, t] = dx
            for i, grad in enumerate([self.cells[t].dV, self.cells[t].dW]):
                grads[i] += grad
        for i, grad in enumerate(grads):
            self.grads[i][...] = grad
        return dxs


def steps(rng):
    return [rng.normal(size=(4, 4, 3))]


def test_a_line_of_code_in_float32_is_told_by_its_digits_in_float64():
    assert check_class(Through(), steps).ok
    report = check_class(Overwriting(), steps)
    (culprit,) = report.culprits
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "overwritten"
    assert culprit.lines[0].text.strip() == "grads[i] = grad"
    assert any("float32 it was given float64" in note for note in report.notes)


def test_a_key_that_is_called_as_a_dtype_is_none():
    class Keyed:
        def __init__(self):
            self.W, self.kept = np.ones((3, 3)), {"f": 2.0}

        def forward(self, x):
            self.x = x
            return np.asarray(x @ self.W, dtype="f")

        def backward(self, dout):
            self.dW = self.kept["f"] * self.x.T @ dout  # twice as large
            return dout @ self.W.T

    report = check_class(Keyed(), lambda rng: [rng.normal(size=(4, 3))])
    assert report.raised is None
    assert [row.gradient for row in report.culprits] == ["dW"]


def test_what_a_line_fills_is_not_what_belongs_there():
    report = check_class(Forgetting(), lambda rng: [rng.normal(size=(3, 4, 5))])
    messages = [row.mistake.message for row in report.culprits if row.mistake]
    assert messages
    assert not any("self.grads[0] belongs" in message for message in messages)


def test_a_constant_of_few_digits_is_told_as_that():
    class Gelu:
        def forward(self, x):
            self.x = x
            self.t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
            return 0.5 * x * (1 + self.t)

        def backward(self, dout):
            inner = 0.797885 + 0.107032 * self.x**2
            return dout * (0.5 * (1 + self.t) + 0.5 * self.x * (1 - self.t**2) * inner)

    (culprit,) = check_class(Gelu(), rows).culprits
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "dtype"
    assert "a constant has few digits" in culprit.mistake.message


def test_gradients_in_a_dictionary_belong_to_weights_and_bias_by_other_names():
    class Linear:
        def __init__(self):
            self.weights, self.bias, self.gradients = np.ones((3, 2)), np.ones(2), {}

        def forward(self, x):
            self.x = x
            return x @ self.weights + self.bias

        def backward(self, dout):
            self.gradients["dLdW"] = self.x.T @ dout
            self.gradients["dLdb"] = dout.mean(axis=0)
            return dout @ self.weights.T

    report = check_class(Linear(), lambda rng: [rng.normal(size=(4, 3))])
    assert {row.gradient: row.verdict for row in report.rows} == {
        "dx": "right",
        "dLdW": "right",
        "dLdb": "wrong",
    }


def test_what_a_call_leaves_on_another_object_is_not_said_to_read_nothing():
    class Product:
        def __init__(self):
            self.W = np.ones((3, 3))

        def forward(self, x):
            self.x = x
            return x @ self.W

        def backward(self, dout):
            self.dW = self.x.T @ dout
            return np.sin(dout) @ self.W  # wrong

    class Block:
        def __init__(self):
            self.first, self.second = Product(), Product()

        def forward(self, x):
            return self.second.forward(np.tanh(self.first.forward(x)))

        def backward(self, dout):
            return self.first.backward(self.second.backward(dout))

    culprits = check_class(Block(), lambda rng: [rng.normal(size=(4, 3))]).culprits
    assert culprits
    assert not any("is not used" in row.mistake.message for row in culprits if row.mistake)


FUSED = """
import numpy as np

class Softmax:
    def forward(self, x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.out = e / e.sum(axis=1, keepdims=True)
        return self.out

    def backward(self, dout):
        return dout

class CrossEntropy:
    def forward(self, probs, y):
        self.probs, self.y = probs, y
        return -np.log(probs[np.arange(len(y)), y]).mean()

    def backward(self):
        d = self.probs.copy()
        d[np.arange(len(self.y)), self.y] -= 1
        return d / len(self.y)

class Net:
    def __init__(self, size=5, classes=4):
        self.params = {"W": np.random.randn(size, classes)}
        self.softmax, self.entropy = Softmax(), CrossEntropy()

    def loss(self, X, y):
        loss = self.entropy.forward(self.softmax.forward(X @ self.params["W"]), y)
        return loss, {"W": X.T @ self.softmax.backward(self.entropy.backward())}
"""


def test_a_softmax_and_its_loss_that_share_a_derivative_say_so():
    found = {layer.name: layer.check() for layer in layers_of(from_text(FUSED))}
    assert found["Net"].ok
    assert any("dx is dout as it came: right only beside a loss" in note for note in found["Softmax"].notes)
    assert any("dprobs is probabilities minus labels" in note for note in found["CrossEntropy"].notes)


def test_another_wrong_softmax_says_nothing_of_a_loss():
    square = "((probs - np.eye(probs.shape[1])[y]) ** 2).mean()"
    wrong = FUSED.replace("return dout", "return dout * self.out")
    wrong = wrong.replace("-np.log(probs[np.arange(len(y)), y]).mean()", square)
    found = {layer.name: layer.check() for layer in layers_of(from_text(wrong))}
    assert not any("only beside" in note for report in found.values() for note in report.notes)


def test_a_class_is_made_by_its_defaults_or_it_is_said_what_is_missing():
    class Scale:
        def __init__(self, size=3):
            self.gain = np.ones(size)

        def forward(self, x):
            self.x = x
            return x * self.gain

        def backward(self, dout):
            self.dgain = (dout * self.x).sum(axis=0)
            return dout * self.gain

    class Sized(Scale):
        def __init__(self, size):
            super().__init__(size)

    inputs = {"x": np.random.default_rng(0).normal(size=(4, 3))}
    assert check_class(Scale, inputs).ok
    with pytest.raises(CheckError, match=r"Sized\(\) raised TypeError: .*'size': give check_class a Sized"):
        check_class(Sized, inputs)
