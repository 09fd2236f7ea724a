"""What a backward puts into another array than the gradient's, and what it returns that is none."""

import numpy as np

import backhand
from altered import from_text
from backhand.checking.sources.layers import layers_of


def clip_forward(x):
    return np.maximum(x, 0.25), x


def inputs(rng):
    return {"x": rng.normal(size=(4, 3))}


def test_elements_that_are_cleared_in_another_array_are_told_on_their_line():
    def clip_backward(dy, cache):
        x = cache
        dx = dy.copy()
        dy[x <= 0.25] = 0
        return dx

    (row,) = backhand.check_pair(clip_forward, clip_backward, inputs).culprits
    assert row.lines[0].text == "dy[x <= 0.25] = 0"
    assert "`dy[x <= 0.25]` stands where `dx[x <= 0.25]` belongs" in row.mistake.message
    assert row.mistake.hint == "Nothing reads dy after that line."


def test_an_array_that_is_read_later_is_not_said_to_be_another_one():
    def clip_backward(dy, cache):
        x = cache
        dx = dy * (x <= 0.25)  # the wrong half
        dy[x <= 0.25] = 0
        return dx + 0.0 * dy

    (row,) = backhand.check_pair(clip_forward, clip_backward, inputs).culprits
    assert row.lines[0].text.startswith("dx = dy * (x <= 0.25)")


def test_a_term_that_is_added_to_another_sum_is_told_on_its_line():
    def pair_forward(x):
        return x * x.sum(axis=0), x

    def pair_backward(dy, cache):
        x = cache
        total = np.zeros(x.shape[1])
        dx = dy * x.sum(axis=0)
        total += (dy * x).sum(axis=0)
        return dx

    (row,) = backhand.check_pair(pair_forward, pair_backward, inputs).culprits
    assert row.lines[0].text == "total += (dy * x).sum(axis=0)"


def test_a_size_that_is_returned_for_a_gradient_is_told_at_the_return():
    def power_forward(x):
        return np.mean(x**2), x

    def power_backward(dloss, cache):
        n = cache.size
        dx = 3 * dloss * cache / n
        return n

    (row,) = backhand.check_pair(power_forward, power_backward, inputs).culprits
    assert row.lines[0].text == "return n"
    assert "the number 12 is returned for the gradient of x" in row.mistake.message


TWO_AT_ONCE = """
import numpy as np


def dense_forward(x, w, b):
    return x @ w + b, (x, w)


def dense_backward(dout, cache):
    x, w = cache
    dx, dw, db = dout @ w.T, x.T @ dout, dout.sum(axis=0)
    return dx, db, dw


def dense_tanh_forward(x, w, b):
    a, dense = dense_forward(x, w, b)
    out = np.tanh(a)
    return out, (dense, out)


def dense_tanh_backward(dout, cache):
    dense, out = cache
    da = dout * (1 - out**2)
    dx, dw, db = dense_backward(da, dense)
    return dx, dw, db
"""


def test_gradients_that_are_taken_in_another_order_than_a_call_gives_them_are_told_there():
    right, outer = layers_of(from_text(TWO_AT_ONCE))
    assert right.check().ok  # its own names tell which is which
    (row,) = outer.check().culprits
    told = [line.text for line in row.lines[:2]]
    assert told == ["dx, dw, db = dense_backward(da, dense)", "return dx, db, dw"]
    assert row.mistake is not None
    assert (row.mistake.kind, "takes them in another order" in row.mistake.message) == ("swapped", True)


def test_a_mask_that_nothing_reads_is_told_to_belong_where_its_values_stand():
    def top_forward(x):
        return np.stack([row.max() for row in x]), x

    def top_backward(dy, cache):
        x = cache
        dx = np.zeros_like(x)
        for i in range(len(x)):
            row = x[i]
            mask = row == row.max()
            dx[i] += row * dy[i]
        return dx

    (row,) = backhand.check_pair(top_forward, top_backward, inputs).culprits
    assert row.lines[0].text == "dx[i] += row * dy[i]"
    assert "row is used where mask belongs" in row.mistake.message


def test_an_item_that_is_set_where_something_is_to_be_taken_from_it_is_told_so():
    def less_forward(x):
        y = x.sum(axis=0)
        return y - 3 * x[0], x

    def less_backward(dy, cache):
        dx = np.zeros_like(cache)
        dx[:] = dy
        dx[0] = 3 * dy
        return dx

    (row,) = backhand.check_pair(less_forward, less_backward, inputs).culprits
    assert row.lines[0].text == "dx[0] = 3 * dy"
    assert "`=` stands where `-=` belongs" in row.mistake.message


def test_a_factor_of_three_is_the_size_that_was_forgotten():
    def mean_forward(x):
        return x.mean(axis=1), x

    def mean_backward(dy, cache):
        return dy[:, None] * np.ones_like(cache)

    (row,) = backhand.check_pair(mean_forward, mean_backward, inputs).culprits
    assert "times 3; 3 is the size of x along axis 1" in row.mistake.message
