"""Pairs over NumPy: what is judged, against which truth, and which line is told."""

import ast
import functools
import linecache
from collections.abc import Callable

import numpy as np
import pytest
from numpy import add
from numpy.lib.stride_tricks import sliding_window_view
from torch import get_num_threads, set_num_threads

import backhand
from altered import from_text
from backhand import CheckError, check_pair
from backhand.checking.running.program import source_of
from backhand.checking.running.slicing import feeding


def affine_forward(x, w, b):
    rows = x.reshape(x.shape[0], -1)
    return rows @ w + b, (x, w)


def affine_backward(dout, cache):
    x, w = cache
    dx = (dout @ w.T).reshape(x.shape)
    dw = x.reshape(x.shape[0], -1).T @ dout
    db = np.sum(dout, axis=0)
    return dx, dw, db


def affine_inputs(rng):
    return rng.normal(size=(4, 2, 3)), rng.normal(size=(6, 5)), rng.normal(size=5)


def norm_forward(x, gamma, beta):
    mean = np.mean(x, axis=0)
    centred = x - mean
    std = np.sqrt(np.mean(centred**2, axis=0) + 1e-5)
    hat = centred / std
    return gamma * hat + beta, (hat, centred, std, gamma)


def norm_inputs(rng):
    return rng.normal(size=(6, 4)), rng.normal(size=4), rng.normal(size=4)


def test_a_right_pair_is_right_and_the_report_names_its_truth():
    report = check_pair(affine_forward, affine_backward, affine_inputs)
    assert report.ok
    assert report.truth == "autograd"
    assert [(row.gradient, row.shape) for row in report.rows] == [
        ("dx", (4, 2, 3)),
        ("dw", (6, 5)),
        ("db", (5,)),
    ]
    assert "3 gradients agree with autograd" in str(report)


def test_the_line_that_spoils_a_gradient_further_down_is_told():
    def backward(dout, cache):
        hat, centred, std, gamma = cache
        n = len(dout)
        dbeta = dout.sum(axis=0)
        dgamma = (dout * hat).sum(axis=0)
        dhat = dout * gamma
        dstd = np.sum(dhat * centred, axis=0) / std**2
        dvar = 0.5 * dstd / std
        dcentred = dhat / std + 2 / n * centred * dvar
        dx = dcentred - dcentred.mean(axis=0)
        return dx, dgamma, dbeta

    report = check_pair(norm_forward, backward, norm_inputs)
    assert [row.gradient for row in report.culprits] == ["dx"]
    assert "dstd = " in report["dx"].lines[0].text
    assert report["dx"].mistake.kind == "sign"


@pytest.mark.parametrize(
    ("gradient", "kind"),
    [
        (lambda dout: dout.sum(axis=0, keepdims=True), "shape"),
        (lambda dout: dout.mean(axis=0), "scale"),
        (lambda dout: -dout.sum(axis=0), "sign"),
        (lambda dout: None, "zero"),
    ],
)
def test_a_wrong_bias_is_told_by_its_kind(gradient: Callable, kind: str):
    def backward(dout, cache):
        dx, dw, db = affine_backward(dout, cache)
        db = gradient(dout)
        return dx, dw, db

    report = check_pair(affine_forward, backward, affine_inputs)
    assert [(row.gradient, row.mistake.kind) for row in report.culprits] == [("db", kind)]


def test_a_lost_axis_is_told_in_words_of_numpy():
    def forward(x):
        total = x.sum(axis=1, keepdims=True)
        return x / total, (x, total)

    def backward(dout, cache):
        x, total = cache
        dtotal = -(dout * x).sum(axis=1) / total[:, 0] ** 2
        dx = dout / total + dtotal[:, None].sum(axis=0)
        return dx

    report = check_pair(forward, backward, lambda rng: [rng.uniform(1, 2, size=(4, 3))])
    assert not report.ok
    assert "keepdim " not in str(report)


def test_a_tensor_of_three_axes_that_is_transposed_as_it_is_is_told():
    def backward(dout, cache):
        x, w = cache
        return (dout @ w.T).reshape(x.shape), x.T @ dout, dout.sum(axis=0)

    (row,) = check_pair(affine_forward, backward, affine_inputs).culprits
    assert (row.gradient, row.mistake.kind) == ("dw", "transposed")
    assert row.mistake.detail["order"] == [1, 0, 2]
    assert "in another order, in shape (3, 2, 5), not (6, 5)" in row.mistake.message


def test_gradients_are_told_apart_by_their_names_whatever_their_order():
    def backward(dout, cache):
        dx, dw, db = affine_backward(dout, cache)
        return db, dw, dx

    assert check_pair(affine_forward, backward, affine_inputs).ok


def test_gradients_without_names_belong_to_the_inputs_in_order():
    def backward(dout, cache):
        return affine_backward(dout, cache)[0], cache[0].reshape(4, -1).T @ dout, dout.sum(0)

    assert check_pair(affine_forward, backward, affine_inputs).ok


def test_inner_names_are_no_contract():
    def backward(dout, cache):
        hat, _, std, gamma = cache
        dgamma = (dout * hat).sum(0)
        dbeta = dout.sum(0)
        dcentred = -dout * gamma / std  # the sign is taken back below
        dx = -(dcentred - dcentred.mean(0) - hat * (dcentred * hat).mean(0))
        return dx, dgamma, dbeta

    def forward(x, gamma, beta):  # without an epsilon the short formula is exact
        centred = x - x.mean(0)
        std = np.sqrt((centred**2).mean(0))
        return gamma * centred / std + beta, (centred / std, centred, std, gamma)

    assert check_pair(forward, backward, norm_inputs).ok


def test_an_upstream_gradient_that_is_changed_in_place_is_no_fault():
    def backward(dout, cache):
        dx = dout
        dx[cache <= 0] = 0
        return dx

    def forward(x):
        cache = x.copy()
        x[x < 0] = 0  # changes its input
        return x, cache

    x = np.random.default_rng(1).normal(size=(3, 5))
    before = x.copy()
    assert check_pair(forward, backward, {"x": x}).ok
    assert np.array_equal(x, before)


def test_several_outputs_have_an_upstream_gradient_each():
    def forward(x, h, w):
        new = np.tanh(x @ w + h)
        return new, 2 * new, (x, w, new)

    def right(dnew, dtwice, cache):
        x, w, new = cache
        dh = (dnew + 2 * dtwice) * (1 - new**2)
        return dh @ w.T, dh, x.T @ dh

    def wrong(dnew, dtwice, cache):
        x, w, new = cache
        dh = (dnew + dtwice) * (1 - new**2)
        return dh @ w.T, dh, x.T @ dh

    def inputs(rng):
        return rng.normal(size=(3, 4)), rng.normal(size=(3, 5)), rng.normal(size=(4, 5))

    assert check_pair(forward, right, inputs).ok
    assert not check_pair(forward, wrong, inputs).ok


def softmax_loss(x, y):
    n = len(x)
    probs = np.exp(x - x.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    loss = -np.log(probs[np.arange(n), y]).mean()
    dx = probs.copy()
    dx[np.arange(n), y] -= 1
    dx /= n
    return loss, dx


def scores(rng):
    return rng.normal(size=(4, 5)), rng.integers(0, 5, size=4)


def test_a_loss_that_returns_its_gradient_is_a_pair_by_itself():
    assert check_pair(softmax_loss, None, scores).ok


def test_a_mean_that_is_forgotten_is_told():
    def loss_of(x, y):
        loss, dx = softmax_loss(x, y)
        dx = dx * len(x)
        return loss, dx

    (row,) = check_pair(loss_of, None, scores).culprits
    assert row.mistake.kind == "scale"


def test_what_torchs_layer_does_not_know_is_judged_by_differences():
    def forward(x):
        return np.vectorize(np.arctan)(x), x

    def right(dout, cache):
        return dout / (1 + cache**2)

    def wrong(dout, cache):
        return dout / (1 + cache)

    def inputs(rng):
        return [rng.uniform(0.5, 2, size=(3, 4))]

    report = check_pair(forward, right, inputs)
    assert report.ok
    assert report.truth == "central differences"
    assert "agrees with central differences" in str(report)
    assert not check_pair(forward, wrong, inputs).ok


def test_float32_within_a_forward_is_judged_in_float32():
    def forward(x, w):
        out = np.zeros((x.shape[0], w.shape[1]), dtype=np.float32)
        out[...] = x @ w
        return out, (x, w)

    def backward(dout, cache):
        x, w = cache
        return dout @ w.T, x.T @ dout

    report = check_pair(forward, backward, lambda rng: (rng.normal(size=(3, 4)), rng.normal(size=(4, 5))))
    assert report.ok
    assert report.precision == "float32"


def test_random_masks_are_the_same_in_both():
    def forward(x):
        mask = (np.random.rand(*x.shape) < 0.5) / 0.5
        return x * mask, mask

    report = check_pair(forward, lambda dout, cache: dout * cache, lambda rng: [rng.normal(size=(4, 5))])
    assert report.ok


def test_inputs_at_a_kink_are_moved_off_it():
    def forward(x):
        return np.maximum(x, 0), x

    def backward(dout, cache):
        return dout * (cache >= 0)  # at zero autograd says something else, and so may anyone

    report = check_pair(forward, backward, {"x": np.array([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]])})
    assert report.ok
    assert any("kink" in note for note in report.notes)


def test_a_backward_that_raises_is_told_with_its_line():
    def backward(dout, cache):
        x, w = cache
        dx = (dout @ w).reshape(x.shape)
        dw = x.reshape(4, -1).T @ dout
        db = dout.sum(axis=0)
        return dx, dw, db

    report = check_pair(affine_forward, backward, affine_inputs)
    assert report.raised is not None
    assert "dx = (dout @ w)" in report.raised.line.text
    assert [row.gradient for row in report.culprits] == ["dx"]
    assert report["dw"].verdict == "follows"


def weighted_forward(x, w):
    return x * w, (x, w)


def weighted_inputs(rng):
    return {"x": rng.normal(size=(4, 5, 3)), "w": rng.normal(size=(5, 3))}


def test_a_gradient_that_a_backward_had_only_begun_when_it_raised_has_that_line():
    def backward(dout, cache):
        x, w = cache
        dw = (x * dout).sum(axis=0)
        dx = np.zeros_like(x)
        for n in range(len(x)):
            part = np.zeros(x.shape[2:])
            for k in range(len(dout) + 3):
                part[k] = (dout[n] * w)[0, k]
            dx[n] = part
        return dx, dw

    (row,) = check_pair(weighted_forward, backward, weighted_inputs).culprits
    assert row.gradient == "dx"
    assert row.lines[0].text == "part[k] = (dout[n] * w)[0, k]"
    assert "IndexError" in row.mistake.message


def test_zeros_that_a_backward_had_not_begun_to_fill_have_the_line_that_raised():
    def backward(dout, cache):
        x, w = cache
        dw = (x * dout).sum(axis=0)
        dx = np.zeros_like(x)
        for n in range(len(x)):
            part = np.zeros(x.shape[2:])
            for k in range(len(dout)):
                part[k + len(dout) + 3] = (dout[n] * w)[0, k]
            dx[n] = part
        return dx, dw

    (row,) = check_pair(weighted_forward, backward, weighted_inputs).culprits
    assert (row.gradient, row.lines[0].text) == ("dx", "part[k + len(dout) + 3] = (dout[n] * w)[0, k]")
    assert "IndexError" in row.mistake.message


def test_an_assertion_that_ends_a_backward_is_shown_first():
    def backward(dout, cache):
        dx, dw, db = None, None, None
        assert False, "to be written"  # noqa: B011, PT015
        return dx, dw, db

    (row, *_) = check_pair(affine_forward, backward, affine_inputs).culprits
    assert row.lines[0].text.startswith('assert False, "to be written"')


def test_what_a_later_line_of_a_loop_makes_for_the_next_turn_is_what_feeds_an_earlier_one():
    def backward(dh, w):
        for _ in range(3):
            da = dh * 2
            dh = da @ w
        da = w + 1
        return dh, da

    source = source_of(backward)
    first, second, after = (s for s in source.simple if isinstance(s, ast.Assign))
    assert second in feeding(source, first)
    assert after not in feeding(source, second)


def test_what_a_later_line_puts_under_a_name_is_not_shown_beside_the_line_that_read_it_before():
    def forward(x, gamma):
        hat = x**2
        return gamma * hat, (x, gamma, hat)

    def backward(dout, cache):
        x, gamma, hat = cache
        dgamma = np.sum(dout * hat, axis=0, keepdims=True)
        hat = np.reshape(hat, (4, 3, 2))
        dx = dout * gamma * 2 * x
        return dx, dgamma

    def inputs(rng):
        return {"x": rng.normal(size=(4, 6)), "gamma": rng.normal(size=6)}

    (row,) = check_pair(forward, backward, inputs).culprits
    assert [line.text for line in row.lines] == ["dgamma = np.sum(dout * hat, axis=0, keepdims=True)"]


def test_what_is_not_written_yet_is_refused_in_one_line():
    def blank(dout, cache):
        dx, dw, db = None, None, None
        return dx, dw, db

    with pytest.raises(CheckError, match="blank returns None: it is not written yet"):
        check_pair(affine_forward, blank, affine_inputs)
    with pytest.raises(CheckError, match="gives NoneType, no array"):
        check_pair(lambda x: (None, None), lambda dout, cache: dout, [np.ones(3)])


def test_an_input_without_a_returned_gradient_is_named():
    def backward(dout, cache):
        x, _ = cache
        dw = x.reshape(4, -1).T @ dout
        return dw

    report = check_pair(affine_forward, backward, affine_inputs)
    assert report.ok
    assert any("x, b" in note for note in report.notes)


def test_the_users_modules_are_as_they_were_afterwards():
    before = dict(globals())
    check_pair(affine_forward, affine_backward, affine_inputs)
    assert {k: v for k, v in globals().items() if v is not before.get(k)} == {}
    assert backhand.check_pair is check_pair


def loop_relu_forward(x):
    return np.array([[max(v, 0.0) for v in row] for row in x.tolist()]), x  # autograd does not follow it


def loop_relu_backward(dout, cache):
    return dout * (cache > 0)


@pytest.mark.parametrize("near", [0.004, -0.0007])
def test_differences_do_not_step_over_a_kink_near_an_input(near: float) -> None:
    x = np.array([[1.3, near, -0.8], [0.4, -1.1, 2.0]])
    report = backhand.check_pair(loop_relu_forward, loop_relu_backward, {"x": x}, draws=1)
    assert report.truth == "central differences"
    assert report.ok, report


SCALE = """
def scale_forward(x, w):
    return x * w, (x, w)


def scale_backward(dout, cache):
    x, w = cache
    return dout * w, dout * x
"""


def test_a_wrapper_of_a_function_of_c_beside_a_pair_is_no_obstacle() -> None:
    """As IPython's own `open` is, which stands in the namespace of every notebook."""
    space: dict[str, object] = {"__name__": "cells", "np": np, "open": functools.wraps(open)(lambda *_: None)}
    exec(SCALE, space)
    inputs = {"x": np.arange(3.0) + 1, "w": np.arange(3.0) + 2}
    assert backhand.check_pair(space["scale_forward"], space["scale_backward"], inputs).ok


def test_windows_and_sums_without_nan_are_followed_by_autograd():
    def smooth_forward(x):
        windows = sliding_window_view(x, (2, 3), axis=(0, 1))
        return np.nansum(windows**2, axis=(2, 3)), x

    def smooth_backward(dout, x):
        dx = np.zeros_like(x)
        for i in range(2):
            for j in range(3):
                dx[i : i + dout.shape[0], j : j + dout.shape[1]] += dout
        return 2 * x * dx

    report = check_pair(smooth_forward, smooth_backward, lambda rng: [rng.normal(size=(5, 6))])
    assert report.ok
    assert report.truth == "autograd"


def test_what_an_array_is_asked_besides_is_followed_by_autograd():
    """Views in memory, memory that is not begun, whole numbers as indices, and what is only looked at."""

    def pairs_forward(x):
        assert x.dtype == np.float64
        assert len(x) == int(np.array(6))
        rows = np.lib.stride_tricks.as_strided(x, (5, 2), (x.strides[0], x.strides[0]))
        out = np.empty((5,))
        out.fill(f"{x[0]}".count("never"))
        for i in range(len(rows)):
            out[i] += rows[i].prod() if x[0] else 0.0
        return add(out.ravel(), 0.0), x

    def pairs_backward(dout, x):
        dx = np.zeros_like(x)
        dx[:-1] += dout * x[1:]
        dx[1:] += dout * x[:-1]
        return dx

    report = check_pair(pairs_forward, pairs_backward, lambda rng: [rng.normal(size=6)])
    assert report.ok
    assert report.truth == "autograd"


def test_a_loss_that_is_made_a_plain_number_is_followed_by_autograd():
    def mean_square(x, y):
        d = np.asarray(x, dtype=float) - y.astype(float)
        assert isinstance(1.0, float)
        dx = 2 * d / d.size
        return float(np.mean(d**2, dtype=float)), dx

    report = check_pair(
        mean_square, None, lambda rng: [rng.normal(size=(3, 4)), rng.integers(3, size=(3, 4))]
    )
    assert report.ok
    assert report.truth == "autograd"
    assert "float" not in globals()


def test_an_upstream_gradient_called_delta_is_that_of_the_output():
    def twice_forward(x):
        return np.exp(x) + x, x

    def twice_backward(delta, x):
        return delta * np.exp(x) - delta

    report = check_pair(twice_forward, twice_backward, lambda rng: [rng.normal(size=(3, 4))])
    assert "elta is" not in str(report).replace("delta", "")
    assert report["x"].mistake is not None
    assert "elta" not in report["x"].mistake.message.replace("delta", "")


def rows_normed_forward(x, gain):
    centred = x - x.mean(-1, keepdims=True)
    scale = ((centred**2).mean(-1, keepdims=True) + 1e-5) ** -0.5
    return centred * scale * gain, (centred * scale, scale, gain)


def rows_normed_backward(dout, cache):
    hat, scale, gain = cache
    dhat = dout * gain
    dx = dhat - dhat.mean(-1, keepdims=True)
    return dx * scale, (dout * hat).sum(0)


def test_a_norm_without_its_variance_term_lacks_a_path() -> None:
    """A factor of ones for the centred tensor gives the same numbers: a mean takes away what it adds."""
    report = backhand.check_pair(
        rows_normed_forward,
        rows_normed_backward,
        lambda rng: {"x": rng.normal(size=(4, 5)), "gain": rng.normal(size=5)},
    )
    assert [row.gradient for row in report.culprits] == ["dx"]
    assert report["x"].mistake.kind == "missing_branch"


def test_a_loss_that_moves_its_weights_itself_is_judged_on_what_they_were() -> None:
    def fit(x, w, y):
        error = x @ w - y
        loss = (error**2).sum()
        dw = 2 * x.T @ error
        w -= 0.01 * dw
        return loss, dw

    report = check_pair(fit, None, lambda rng: [rng.normal(size=s) for s in ((5, 3), (3, 2), (5, 2))])
    assert report.ok


def pool(image, f=2):
    n, size, _ = image.shape
    out = np.zeros((n, size // f, size // f))
    for i in range(size // f):
        for j in range(size // f):
            out[:, i, j] = image[:, i * f : i * f + f, j * f : j * f + f].max(axis=(1, 2))
    return out


def poolBackward(dpool, orig, f):  # noqa: N802  (as it is written)
    dout = np.zeros_like(orig)
    for i in range(dpool.shape[1]):
        for j in range(dpool.shape[2]):
            window = orig[:, i * f : i * f + f, j * f : j * f + f]
            is_largest = window == window.max(axis=(1, 2), keepdims=True)
            dout[:, i * f : i * f + f, j * f : j * f + f] = is_largest * dpool[:, i : i + 1, j : j + 1]
    return dout


def test_a_backward_without_a_cache_is_handed_the_input_and_the_options_of_its_forward():
    report = check_pair(pool, poolBackward, lambda rng: [rng.normal(size=(2, 6, 6))])
    assert report.ok
    assert [row.name for row in report.rows] == ["image"]


def test_a_right_gradient_that_is_not_returned_is_told_at_the_return_alone():
    def forward(x, w):
        h = x @ w
        return h**2, (x, w, h)

    def backward(dout, cache):
        x, w, h = cache
        dh = dout * 2 * h
        dw = x.T @ dh
        dx = dh @ w.T
        return dh, dw

    def inputs(rng):
        return {"x": rng.normal(size=(4, 5)), "w": rng.normal(size=(5, 5))}

    report = check_pair(forward, backward, inputs)
    (row,) = report.culprits
    assert (row.name, row.mistake.kind, row.mistake.detail["with"]) == ("x", "swapped", "dx")
    assert row.lines[0].text == "return dh, dw"
    assert "`dx`, which nothing reads" in row.mistake.message
    assert report["w"].verdict == "right"


@pytest.mark.parametrize("other", ["W", "x"])
def test_a_gradient_that_a_scatter_makes_and_that_is_not_returned_is_told(other: str):
    def backward(dout, cache):
        x, W = cache
        dW = np.zeros_like(W)
        np.add.at(dW, x, dout)
        return W if other == "W" else x

    inputs = {"x": np.random.randint(0, 7, size=(3, 4)), "W": np.random.randn(7, 5)}
    (row,) = check_pair(lambda x, W: (W[x], (x, W)), backward, inputs).culprits
    assert (row.mistake.kind, row.mistake.detail["with"]) == ("swapped", "dW")


def test_a_value_that_another_one_is_made_of_is_not_what_should_be_returned():
    def backward(dout, cache):
        x, _w, _b = cache
        dx = dout * x
        scaled = dx * 2
        return scaled

    (row,) = check_pair(
        lambda x: (x**2 / 2, (x, None, None)), backward, {"x": np.random.randn(3, 4)}
    ).culprits
    assert row.mistake.kind == "scale"


@pytest.mark.parametrize("line", ["dout * p * (1 - p)", "dout * (p * (1.0 - p))", "(1 - p) * p * dout"])
def test_a_softmax_whose_elements_are_taken_alone_lacks_their_coupling(line: str):
    space = {"np": np}
    exec(
        "def soft_forward(x):\n"
        "    e = np.exp(x - x.max(axis=1, keepdims=True))\n"
        "    p = e / e.sum(axis=1, keepdims=True)\n"
        "    return p, p\n",
        space,
    )
    source = f"def soft_backward(dout, p):\n    dx = {line}\n    return dx\n"
    name = f"<soft {line}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), space)
    x = np.random.default_rng(0).normal(size=(4, 5))
    (row,) = backhand.check_pair(space["soft_forward"], space["soft_backward"], {"x": x}).culprits
    assert row.mistake.kind == "missing_branch"
    assert "takes each element of a softmax for itself" in row.mistake.message


def test_small_arrays_are_left_to_one_thread_from_the_first_call():
    seen = []

    def forward(x, w):
        seen.append(get_num_threads())
        return x * w, (x, w)

    def backward(dout, cache):
        return dout * cache[1], (dout * cache[0]).sum(axis=0)

    before = get_num_threads()
    set_num_threads(2)
    try:
        assert check_pair(forward, backward, weighted_inputs).ok
        assert {*seen} == {1}
        assert get_num_threads() == 2
    finally:
        set_num_threads(before)


def half_written_backward(dout, cache):
    x, w = cache
    dx, dw, db = None, None, None
    dx = (dout @ w).reshape(x.shape) if w.shape[0] == w.shape[1] else (2 * dout @ w.T).reshape(x.shape)
    return dx, dw, db


def test_what_is_still_the_none_of_the_stub_is_yet_to_be_written():
    report = check_pair(affine_forward, half_written_backward, affine_inputs)
    assert {row.name: row.verdict for row in report.rows} == {"x": "wrong", "w": "todo", "b": "todo"}
    assert report["x"].mistake.kind == "scale"
    assert not report.ok


@pytest.mark.parametrize(
    "returned", ["out, xhat, s", "out, (xhat, s)", "out, {'s': s, 'xhat': xhat}", "out, x / s, s"]
)
def test_a_backward_may_take_what_was_kept_one_by_one(returned: str) -> None:
    text = f"""
import numpy as np

def norm_forward(x, gain):
    s = np.sqrt((x * x).mean(axis=1, keepdims=True))
    xhat = x / s
    out = xhat * gain
    return {returned}

def norm_backward(dout, xhat, s, gain):
    dxhat = dout * gain
    inner = (dxhat * xhat).mean(axis=1, keepdims=True)
    return (dxhat - xhat * inner) / s, (dout * xhat).sum(axis=0)
"""
    module = from_text(text)
    inputs = {"x": np.random.default_rng(0).normal(size=(3, 5)), "gain": np.arange(1.0, 6.0)}
    report = backhand.check_pair(module.norm_forward, module.norm_backward, inputs)
    assert [row.verdict for row in report.rows] == ["right", "right"]


@pytest.mark.seconds
@pytest.mark.parametrize("gradient", ["dw", "db"])
def test_what_is_written_over_in_a_loop_is_told_without_a_search(gradient: str) -> None:
    text = """
import numpy as np

runs = []

def conv_forward(x, w, b):
    n, width, size = len(x), x.shape[1] - w.shape[1] + 1, w.shape[1]
    out = np.zeros((n, len(w), width))
    for i in range(n):
        for f in range(len(w)):
            for j in range(width):
                out[i, f, j] = np.sum(x[i, j : j + size] * w[f]) + b[f]
    return out, (x, w, b)

def conv_backward(dout, cache):
    runs.append(1)
    x, w, b = cache
    size = w.shape[1]
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros_like(b)
    for i in range(len(x)):
        for f in range(len(w)):
            for j in range(dout.shape[2]):
                db[f] += dout[i, f, j]
                dw[f] += dout[i, f, j] * x[i, j : j + size]
                dx[i, j : j + size] += dout[i, f, j] * w[f]
    return dx, dw, db
"""
    module = from_text(text.replace(f"{gradient}[f] += ", f"{gradient}[f] = "))
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(2, 6)), "w": rng.normal(size=(3, 2)), "b": rng.normal(size=3)}
    (row,) = backhand.check_pair(module.conv_forward, module.conv_backward, inputs).culprits
    assert row.mistake is not None
    assert (row.gradient, row.mistake.kind) == (gradient, "overwritten")
    assert row.lines[0].text.startswith(f"{gradient}[f] = ")
    assert len(module.runs) < 60


def test_differences_are_taken_once_for_all_upstream_gradients() -> None:
    text = """
import numpy as np

runs = []

def scaled_forward(x, w):
    runs.append(1)
    h = np.apply_along_axis(np.square, 0, x)  # which autograd does not follow
    out = h @ w
    return out, (x, h, w)

def scaled_backward(dout, cache):
    x, h, w = cache
    dh = dout @ w.T
    return dh * x, h.T @ dout
"""
    module = from_text(text)
    inputs = {
        "x": np.random.default_rng(0).normal(size=(3, 4)),
        "w": np.random.default_rng(1).normal(size=(4, 5)),
    }
    report = backhand.check_pair(module.scaled_forward, module.scaled_backward, inputs)
    assert report.truth == "central differences"
    (row,) = report.culprits
    assert row.lines[0].text == "return dh * x, h.T @ dout"
    assert len(module.runs) < 1500


def by_its_mode_forward(x, param):
    mask = np.where(x > 0, 2.0, 0.5)
    return x * mask if param["mode"] == "train" else x, (mask, param)


def by_its_mode_backward(dout, cache):
    mask, param = cache
    dx = dout
    if param["mode"] == "train":
        dx = dout * mask
    if param["mode"] == "test":
        dx = 3 * dout
    return dx


@pytest.mark.parametrize(("mode", "ok"), [("train", True), ("test", False)])
def test_a_branch_that_was_not_taken_is_said_not_to_be_judged(mode: str, ok: bool):
    inputs = {"x": np.random.default_rng(0).normal(size=(3, 4)), "param": {"mode": mode}}
    report = check_pair(by_its_mode_forward, by_its_mode_backward, inputs)
    assert report.ok == ok, str(report)
    first = by_its_mode_backward.__code__.co_firstlineno
    unseen = first + (6 if mode == "train" else 4)
    assert f"Not run with these inputs, and so not judged: line {unseen} of the backward." in report.notes
