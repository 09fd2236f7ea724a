import textwrap
from pathlib import Path

from backhand import check_files
from backhand.checking.sources.making import making


class Windows:
    def __init__(self, in_channels, out_channels, kernel_size):
        self.height, self.width = kernel_size
        self.W = [in_channels, out_channels]


class Heads:
    def __init__(self, d_model=512, num_heads=8, dropout=0.1):
        assert d_model % num_heads == 0
        self.d_model, self.num_heads, self.dropout = d_model, num_heads, dropout


def test_a_constructor_that_takes_heights_and_widths_is_given_both():
    found = next(making(Windows)).layer
    assert (found.height, found.width) == (2, 2)
    assert found.W[0] != found.W[1]


def test_a_large_layer_is_made_small_with_sizes_that_go_into_each_other():
    sizes = [(made.layer.d_model, made.layer.num_heads, made.layer.dropout) for made in making(Heads)]
    assert sizes == [(8, 2, 0.1), (512, 8, 0.1)]


def judged(folder: Path, text: str, name: str = "layers.py"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("import numpy as np\n\n\n" + textwrap.dedent(text))
    return check_files([file])


DENSE = """
    class Dense:
        def __init__(self, units_num, inputs_num=None):
            self.w = np.random.normal(size=(inputs_num, units_num)) / np.sqrt(inputs_num)

        def forward(self, X, keep=False):
            if keep:
                self.kept = X
            return X @ self.w

        def backward(self, error):
            self.grad_w = self.kept.T @ error
            return error @ self.w.T
"""


def test_a_size_that_is_none_by_default_is_given_and_a_switch_that_the_backward_needs_is_on(tmp_path: Path):
    (checked,) = judged(tmp_path, DENSE)
    assert checked.report is not None
    assert checked.report.ok
    assert {row.name for row in checked.report.rows} == {"X", "w"}


POOL = """
    class MaxPool:
        def forward(self, X):
            n, height, width, c = X.shape
            self.X, out = X, np.zeros((n, width // 2, height // 2, c))  # exchanged, as only a square allows
            for i in range(height // 2):
                for j in range(width // 2):
                    out[:, i, j] = X[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max(axis=(1, 2))
            return out

        def backward(self, d_out):
            d_in = np.zeros_like(self.X)
            for i in range(d_out.shape[1]):
                for j in range(d_out.shape[2]):
                    window = self.X[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                    is_largest = window == window.max(axis=(1, 2), keepdims=True)
                    arriving = d_out[:, i : i + 1, j : j + 1]
                    d_in[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += is_largest * arriving
            return d_in
"""


def test_a_layer_that_runs_on_square_images_alone_is_judged_on_them_and_it_is_said(tmp_path: Path):
    (checked,) = judged(tmp_path, POOL)
    assert checked.report is not None
    assert checked.report.ok
    assert any("square" in note for note in checked.report.notes)


EMBEDDING = """
    class Embedding:
        def __init__(self, input_d, output_d):
            self.size, self.weights = input_d, np.random.normal(size=(input_d, output_d))

        def forward(self, inputs):
            self.inputs = np.eye(self.size)[inputs.astype(int)]
            return self.inputs @ self.weights

        def backward(self, dvalues):
            self.dweights = np.einsum("ntv,ntd->vd", self.inputs, dvalues)
            self.dinputs = dvalues @ self.weights.T
            return self.dinputs
"""


def test_what_an_embedding_makes_of_its_whole_numbers_is_no_parameter(tmp_path: Path):
    (checked,) = judged(tmp_path, EMBEDDING)
    assert checked.report is not None
    assert checked.report.ok
    assert [row.name for row in checked.report.rows] == ["weights"]


def test_packages_without_a_file_that_says_so_are_found_where_the_neighbours_import_from_them(tmp_path: Path):
    (tmp_path / "lib/tools").mkdir(parents=True)
    (tmp_path / "lib/nn").mkdir(parents=True)
    (tmp_path / "lib/tools/sums.py").write_text("def rows(x):\n    return x.sum(axis=0)\n")
    (tmp_path / "lib/nn/__init__.py").write_text("from .base import Layer\n")
    (tmp_path / "lib/nn/base.py").write_text("from lib.tools.sums import rows\n\nclass Layer:\n    pass\n")
    text = """
        from .base import Layer, rows

        class Shift(Layer):
            def __init__(self, size):
                self.b = np.zeros(size)

            def forward(self, x):
                return x + self.b

            def backward(self, dout):
                self.db = rows(dout)
                return dout
    """
    (checked,) = judged(tmp_path, text, "lib/nn/shift.py")
    assert checked.report is not None
    assert checked.report.ok


COMMENTED = """
    class Shift:
        def __init__(self, size):
            self.b = np.zeros(size)

        def forward(self, x):
            return x + self.b

        def backward(self, dout):
            '''Give the gradients.

LEFT What is written here begins further left than the method.
            '''
LEFT # as do lines that were taken out: dout = dout / len(dout)
            self.db = dout.mean(axis=0)
            return dout
"""


def test_lines_are_told_where_a_comment_begins_further_left(tmp_path: Path):
    text = textwrap.dedent(COMMENTED.replace("LEFT", "    LEFT")).replace("LEFT ", "")
    (checked,) = judged(tmp_path, text)
    assert checked.report is not None
    (row,) = checked.report.culprits
    assert row.lines[0].text == "self.db = dout.mean(axis=0)"


MIRROR = """
    class Mirror:
        def __init__(self, pad_width):
            self.p = pad_width

        def forward(self, x):
            return np.pad(x, ((0, 0), (self.p, self.p)), "reflect")

        def backward(self, dout):
            p = self.p
            dout[:, p + 1 : 2 * p + 1] += dout[:, p - 1 :: -1]
            dout[:, -1 - 2 * p : -1 - p] += dout[:, : -p - 1 : -1]
            return dout[:, p:-p]
"""


def test_a_padding_is_small_whatever_it_is_called(tmp_path):
    (checked,) = judged(tmp_path, MIRROR)
    assert checked.report is not None
    assert checked.report.ok


ATTENTION = """
    class Attention:
        def __init__(self, dim):
            self.W = np.ones((dim, dim))

        def forward(self, query, key=None, mask=None):
            key = query if key is None else key
            self.query, self.key = query, key
            self.scores = query @ self.W @ np.swapaxes(key, -1, -2)
            return self.scores if mask is None else self.scores * mask

        def backward(self, dout):
            parts = np.swapaxes(self.query, -1, -2) @ dout @ self.key
            self.dW = parts.reshape(-1, *self.W.shape).sum(axis=0)
            dQ = dout @ self.key @ self.W.T
            dK = np.swapaxes(dout, -1, -2) @ self.query @ self.W
            return dQ, dK
"""


def test_an_input_that_may_be_none_is_given_where_its_gradient_is_returned(tmp_path):
    (checked,) = judged(tmp_path, ATTENTION)
    assert checked.report is not None
    assert {row.gradient: row.verdict for row in checked.report.rows} == dict.fromkeys(
        ("dQ", "dK", "dW"), "right"
    )


BUILT = """
    class Layer:
        def __init__(self):
            self.params, self.optimizer = {}, None

        def build(self, input_shape):  # with the batch
            batch, size = input_shape
            self.params = {"W": np.ones((size, self.units)), "b": np.ones(self.units)}


    class Dense(Layer):
        def __init__(self, units):
            super().__init__()
            self.units = units

        def forward(self, x):
            self.x = x
            return x @ self.params["W"] + self.params["b"]

        def backward(self, dout, learning_rate):
            grads = {}
            grads["dW"] = self.x.T @ dout
            grads["db"] = dout.SUM(axis=0)
            self.optimizer.update(self, grads, learning_rate)
            return dout @ self.params["W"].T
"""


def test_what_a_model_hands_its_layers_is_handed_to_one_alone(tmp_path):
    right, wrong = (
        [*judged(tmp_path, BUILT.replace("SUM", how), f"{how}.py")][-1].report for how in ("sum", "mean")
    )
    assert {row.gradient: row.verdict for row in right.rows} == dict.fromkeys(("dx", "dW", "db"), "right")
    assert [(row.gradient, row.mistake.kind) for row in wrong.culprits] == [("db", "scale")]
    assert wrong.culprits[0].lines[0].text.strip().startswith('grads["db"]')


def test_a_norm_is_not_judged_on_a_single_element_nor_a_window_on_a_smaller_image(tmp_path):
    text = """
    class Norm:
        def build(self, input_shape):
            self.gamma = np.ones(input_shape[-1])

        def forward(self, x):
            axes = tuple(range(x.ndim - 1))
            self.hat = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-3)
            return self.gamma * self.hat

        def backward(self, dout):
            axes = tuple(range(dout.ndim - 1))
            self.dgamma = (dout * self.hat).mean(axes)
            return dout * 0 if dout.ndim == 1 else dout


    class Windows2D:
        def __init__(self, filters, kernel_size):
            self.filters, self.size = filters, kernel_size

        def build(self, input_shape):
            batch, height, width, channels = input_shape
            self.W = np.ones((self.size, channels, self.filters))

        def forward(self, x):
            self.x = x
            parts = [x[:, i : x.shape[1] - self.size + 1 + i] @ self.W[i] for i in range(self.size)]
            return sum(parts)

        def backward(self, dout):
            self.dW = np.zeros_like(self.W)
            dx = np.zeros_like(self.x)
            for i in range(self.size):
                rows = slice(i, self.x.shape[1] - self.size + 1 + i)
                self.dW[i] = np.einsum("nhwc,nhwf->cf", self.x[:, rows], dout)
                dx[:, rows] += dout @ self.W[i].T
            return dx
    """
    norm, windows = (checked.report for checked in judged(tmp_path, text))
    assert {row.gradient: row.verdict for row in norm.rows} == {"dx": "wrong", "dgamma": "wrong"}
    assert {row.gradient: row.verdict for row in windows.rows} == {"dx": "right", "dW": "right"}


def test_the_shape_of_a_linear_layer_is_that_of_its_weights(tmp_path):
    text = """
    class Linear:
        def __init__(self, shape):
            self.W = np.ones(shape)

        def forward(self, x):
            self.x = x
            return x @ self.W

        def backward(self, dout):
            self.dW = self.x.T @ dout
            return dout @ self.W.T
    """
    (checked,) = judged(tmp_path, text)
    assert checked.report is not None
    assert checked.report.ok


DRAWN = """
    class Modern:
        def __init__(self, n_in, n_out, rng):
            self.W = rng.normal(size=(n_in, n_out))

        def forward(self, x):
            self.x = x
            return x @ self.W

        def backward(self, dout):
            self.dW = self.x.T @ dout
            return dout @ self.W.T


    class Older(Modern):
        def __init__(self, n_in, n_out, rng):
            self.W = rng.randn(n_in, n_out)


    class Seeded(Modern):
        def __init__(self, n_in, n_out, random_state):
            self.W = np.random.RandomState(random_state).randn(n_in, n_out)


    class Masked:
        def __init__(self, p, rng):
            self.p, self.rng = p, rng

        def forward(self, x):
            self.mask = (self.rng.random(x.shape) > self.p) / (1 - self.p)
            return x * self.mask

        def backward(self, dout):
            return dout * self.mask
"""


def test_a_constructor_is_given_what_it_draws_its_random_numbers_by(tmp_path: Path):
    checked = judged(tmp_path, DRAWN)
    assert [(each.name, each.report is not None and each.report.ok) for each in checked] == [
        ("Modern", True),
        ("Older", True),
        ("Seeded", True),
        ("Masked", True),
    ]
    wrong = judged(tmp_path, DRAWN.replace("return dout * self.mask", "return dout * (self.mask > 0)"))
    assert [each.report is not None and each.report.ok for each in wrong] == [True, True, True, False]


BUILT_LATER = """
    class Sized:
        def __init__(self, units):
            self.units = units

        def init_params(self, input_size):
            self.w = np.random.normal(size=(input_size[-1], self.units))

        def forward(self, x):
            self.x = x
            return x @ self.w

        def backward(self, dout, _):
            self.dw = self.x.T @ dout
            return dout @ self.w.T
"""


def test_a_layer_is_told_its_input_and_given_what_its_backward_never_reads(tmp_path: Path):
    (checked,) = judged(tmp_path, BUILT_LATER)
    assert checked.report is not None
    assert checked.report.ok
    assert {row.name for row in checked.report.rows} == {"x", "w"}
    (checked,) = judged(tmp_path, BUILT_LATER.replace("self.x.T @ dout", "2 * self.x.T @ dout"))
    assert checked.report is not None
    assert [row.name for row in checked.report.culprits] == ["w"]


STATE_HANDED_OVER = """
    class Scores:
        def __init__(self, size, classes):
            self.W = np.random.normal(size=(size, classes))

        def forward(self, x):
            scores = x @ self.W
            probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            state = x
            return probs, state

        def backward(self, deltas, state):
            self.dW = state.T @ deltas
            return deltas @ self.W.T


    class Steps:
        def __init__(self, size):
            self.W = np.random.normal(size=(size, size))

        def forward(self, x):
            a = x @ self.W
            out = np.tanh(a)
            kept = (x, out)
            return out, kept

        def backward(self, deltas, kept):
            x, out = kept
            da = deltas * (1 - out**2)
            self.dW = x.T @ da
            return da @ self.W.T
"""


def test_a_state_that_a_forward_returns_and_a_backward_asks_for_is_no_gradient(tmp_path: Path):
    scores, steps = judged(tmp_path, STATE_HANDED_OVER)
    assert steps.report is not None
    assert steps.report.ok
    assert scores.report is not None  # whose upstream gradient is that of what the softmax takes
    assert not scores.report.ok
    assert any("deltas is taken for the gradient of what the softmax takes" in n for n in scores.report.notes)
