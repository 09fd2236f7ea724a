"""What is kept together and taken again in another order, or in another number; what a loss is made of."""

import ast

import numpy as np
import pytest
import torch
from torch.autograd import Function

import backhand
from backhand.checking.mistakes.edits import places_of


def gate_forward(x, s, w):
    z = x * np.tanh(s)
    return z @ w, (x, s, w, z)


def gate_inputs(rng):
    return {"x": rng.normal(size=(4, 3)), "s": rng.normal(size=(4, 3)), "w": rng.normal(size=(3, 3))}


def test_two_that_are_taken_in_each_others_place_are_one_mistake_of_that_line():
    def gate_backward(dy, cache):
        s, x, w, z = cache
        dz = dy @ w.T
        dx = dz * np.tanh(s)
        ds = dz * x * (1 - np.tanh(s) ** 2)
        return dx, ds, z.T @ dy

    report = backhand.check_pair(gate_forward, gate_backward, gate_inputs)
    (row,) = report.culprits
    assert row.lines[0].text == "s, x, w, z = cache"
    assert "s and x are taken in each other's place" in row.mistake.message
    assert "in the order in which it was put there" in row.mistake.hint
    assert [r.name for r in report.rows if r.verdict == "follows"] == ["s"]


def test_that_line_is_told_too_where_another_one_raises_for_it():
    def affine_forward(x, w, b):
        return x @ w + b, (x, w, b)

    def affine_backward(dy, cache):
        b, x, w = cache
        return dy @ w.T, x.T @ dy, dy.sum(axis=0) + 0 * b

    shapes = {"x": (4, 3), "w": (3, 2), "b": (2,)}
    report = backhand.check_pair(
        affine_forward, affine_backward, lambda rng: {n: rng.normal(size=s) for n, s in shapes.items()}
    )
    (row,) = report.culprits
    assert row.lines[0].text == "b, x, w = cache"
    assert "they are kept in the order x, w, b" in row.mistake.message


def test_what_a_function_has_saved_may_be_taken_in_another_order():
    class Gate(Function):
        @staticmethod
        def forward(ctx, g, u):
            s = torch.sigmoid(g)
            ctx.save_for_backward(g, u, s)
            return g * s * u

        @staticmethod
        def backward(ctx, dy):
            u, g, s = ctx.saved_tensors
            return dy * u * (s + g * s * (1 - s)), dy * g * s

    report = backhand.check_function(
        Gate, lambda g, u: torch.nn.functional.silu(g) * u, {"g": torch.randn(4, 3), "u": torch.randn(4, 3)}
    )
    (row,) = report.culprits
    assert row.lines[0].text == "u, g, s = ctx.saved_tensors"


def test_a_wrong_name_in_a_line_is_told_there_if_the_order_is_that_of_the_forward():
    def gate_backward(dy, cache):
        x, s, w, z = cache
        dz = dy @ w.T
        dx = dz * np.tanh(x)
        ds = dz * x * (1 - np.tanh(s) ** 2)
        return dx, ds, z.T @ dy

    (row,) = backhand.check_pair(gate_forward, gate_backward, gate_inputs).culprits
    assert row.lines[0].text == "dx = dz * np.tanh(x)"


def test_more_or_fewer_names_than_are_kept_are_one_mistake_of_that_line():
    def gate_backward(dy, cache):
        x, s, w = cache
        dz = dy @ w.T
        dx = dz * np.tanh(s)
        ds = dz * x * (1 - np.tanh(s) ** 2)
        dw = (x * np.tanh(s)).T @ dy
        return dx, ds, dw

    report = backhand.check_pair(gate_forward, gate_backward, gate_inputs)
    (row,) = report.culprits
    assert row.lines[0].text == "x, s, w = cache"
    assert "the line raises ValueError: too many values to unpack" in row.mistake.message
    assert {r.verdict for r in report.rows} == {"wrong", "follows"}


def test_a_line_is_not_taken_for_another_where_what_it_takes_cannot_be_that():
    def swish_forward(x):
        s = 1 / (1 + np.exp(-x))
        return x * s, (x, s)

    def swish_backward(dy, cache):
        x, s = cache
        ds = -(dy * x)
        dx = dy * s
        dx += ds * s * (1 - s)
        return dx

    (row,) = backhand.check_pair(
        swish_forward, swish_backward, lambda rng: {"x": rng.normal(size=(4, 3))}
    ).culprits
    assert {line.text for line in row.lines[:2]} == {"ds = -(dy * x)", "dx += ds * s * (1 - s)"}


def triplet_loss(anchor, positive, negative):
    near, far = anchor - positive, anchor - negative
    margin = np.sum(near**2, axis=1) - np.sum(far**2, axis=1) + 1.0
    active = margin > 0
    count = anchor.shape[0]
    loss = np.sum(margin[active]) / count
    scale = active[:, None] / count
    danchor = scale * (negative - positive)
    return loss, danchor, -scale * near, scale * far


def triplet_inputs(rng):
    return {n: rng.normal(size=(5, 3)) for n in ("anchor", "positive", "negative")}


def test_what_a_loss_is_made_of_is_not_said_to_be_wrong_in_its_gradients():
    (row,) = backhand.check_pair(triplet_loss, None, triplet_inputs).culprits
    assert row.lines[0].text == "scale = active[:, None] / count"
    assert row.mistake.kind == "scale"
    told = {line.text for line in row.lines}
    assert not {"count = anchor.shape[0]", "active = margin > 0"} & told


def test_of_a_loop_that_adds_up_a_loss_and_its_gradient_each_line_may_be_wrong():
    def hinge_loss(w, x):
        loss, dw = 0.0, np.zeros_like(w)
        for i in range(len(x)):
            margin = 1.0 - x[i] @ w
            if margin > 0:
                loss += margin
                dw -= x[i] * margin
        return loss, dw

    (row,) = backhand.check_pair(
        hinge_loss, None, lambda rng: {"w": rng.normal(size=3), "x": rng.normal(size=(5, 3))}
    ).culprits
    assert row.lines[0].text == "dw -= x[i] * margin"
    assert "margin" in row.mistake.message


def test_two_gradients_are_not_explained_by_a_line_that_the_loss_is_made_of():
    def loss(x, y):
        d = x - y
        dx, dy = -d, d * 1.0
        return 0.5 * np.sum(d * d), dx, dy

    rows = backhand.check_pair(loss, None, lambda rng: {n: rng.normal(size=(4, 3)) for n in "xy"}).culprits
    assert rows
    assert "d = x - y" not in {line.text for row in rows for line in row.lines}


def test_what_stands_for_a_gradient_is_told_where_it_is_given_not_where_the_loss_needs_it():
    def softmax_loss(x, t):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        loss = np.mean((p - t) ** 2)
        dx = p
        return loss, dx

    report = backhand.check_pair(
        softmax_loss, None, lambda rng: {"x": rng.normal(size=(4, 3)), "t": rng.normal(size=(4, 3))}
    )
    row = next(r for r in report.culprits if r.name == "x")
    assert row.lines[0].text == "dx = p"


def test_what_is_another_gradient_once_more_is_told_in_the_line_that_makes_it():
    def loss(x, W, b, c):
        hidden = x @ W + b
        out = hidden.sum(axis=1, keepdims=True) + c
        grads = {}
        dhidden = np.repeat(out.sum(axis=1, keepdims=True), 2, axis=1)
        grads["W"] = x.T @ dhidden
        grads["b"] = dhidden.sum(axis=0)
        grads["c"] = dhidden.sum(axis=0)
        return 0.5 * np.sum(out**2), grads

    shapes = {"x": (4, 3), "W": (3, 2), "b": (2,), "c": (5,)}
    report = backhand.check_pair(loss, None, lambda rng: {n: rng.normal(size=s) for n, s in shapes.items()})
    (row,) = report.culprits
    assert row.lines[0].text == 'grads["c"] = dhidden.sum(axis=0)'
    assert "dhidden is used where out belongs" in row.mistake.message


def recurrent_step(x, h, W, U):
    after = np.tanh(x @ W + h @ U)
    return after, (x, h, W, U, after)


def recurrent_step_backward(dafter, cache):
    x, h, W, U, after = cache
    da = dafter * (1 - after**2)
    return da @ W.T, da @ U.T, x.T @ da, h.T @ da


def recurrent_forward(x, h0, W, U):
    h, states, caches = h0, [], []
    for t in range(x.shape[1]):
        h, cache = recurrent_step(x[:, t], h, W, U)
        states.append(h)
        caches.append(cache)
    return np.stack(states, axis=1), caches


def recurrent_inputs(rng):
    shapes = {"x": (2, 4, 3), "h0": (2, 3), "W": (3, 3), "U": (3, 3)}
    return {n: rng.normal(size=s) for n, s in shapes.items()}


def test_what_a_call_gives_may_be_taken_in_another_order_in_a_loop():
    def recurrent_backward(dh, caches):
        dx, dW, dU = np.zeros((2, 4, 3)), np.zeros((3, 3)), np.zeros((3, 3))
        dprev = np.zeros((2, 3))
        for t in reversed(range(4)):
            dx[:, t], dprev, du, dw = recurrent_step_backward(dh[:, t] + dprev, caches[t])
            dW += dw
            dU += du
        return dx, dprev, dW, dU

    (row,) = backhand.check_pair(recurrent_forward, recurrent_backward, recurrent_inputs).culprits
    assert row.lines[0].text.startswith("dx[:, t], dprev, du, dw = recurrent_step_backward(")
    assert "du and dw are taken in each other's place" in row.mistake.message
    assert "the function that is called returns" in row.mistake.hint


def test_in_which_order_a_call_gives_things_is_told_though_a_line_raises_for_it():
    def recurrent_backward(dh, caches):
        dx, dW, dU = np.zeros((2, 4, 5)), np.zeros((5, 3)), np.zeros((3, 3))
        dprev = np.zeros((2, 3))
        for t in reversed(range(4)):
            dx[:, t], dprev, du, dw = recurrent_step_backward(dh[:, t] + dprev, caches[t])
            dW += dw
            dU += du
        return dx, dprev, dW, dU

    shapes = {"x": (2, 4, 5), "h0": (2, 3), "W": (5, 3), "U": (3, 3)}
    report = backhand.check_pair(
        recurrent_forward, recurrent_backward, lambda rng: {n: rng.normal(size=s) for n, s in shapes.items()}
    )
    (row,) = report.culprits
    assert "du and dw are taken in each other's place" in row.mistake.message


@pytest.mark.seconds
def test_the_last_of_a_list_for_that_of_the_turn_is_one_mistake():
    def recurrent_backward(dh, caches):
        dx, dW, dU = np.zeros((2, 4, 3)), np.zeros((3, 3)), np.zeros((3, 3))
        dprev = np.zeros((2, 3))
        for t in reversed(range(4)):
            dx[:, t], dprev, dw, du = recurrent_step_backward(dh[:, t] + dprev, caches[-1])
            dW += dw
            dU += du
        return dx, dprev, dW, dU

    (row,) = backhand.check_pair(recurrent_forward, recurrent_backward, recurrent_inputs).culprits
    assert "`caches[-1]` stands where `caches[t]` belongs" in row.mistake.message


def test_two_of_a_row_that_stand_in_each_others_place_are_named():
    def gates_forward(x, W):
        a = x @ W
        i, o = np.tanh(a[:, :3]), np.exp(a[:, 3:])
        return i * o, (x, W, i, o)

    def gates_backward(dy, cache):
        x, W, i, o = cache
        di, do = dy * o, dy * i
        da = np.concatenate([do * o, di * (1 - i**2)], axis=1)
        return da @ W.T, x.T @ da

    shapes = {"x": (4, 3), "W": (3, 6)}
    report = backhand.check_pair(
        gates_forward, gates_backward, lambda rng: {n: rng.normal(size=s) for n, s in shapes.items()}
    )
    (row,) = report.culprits
    assert "`do * o` and `di * (1 - i ** 2)` stand in each other's place" in row.mistake.message


def test_the_right_gradient_beside_a_dictionary_is_told_where_another_is_put_into_it():
    def loss(x, W, b):
        hidden = x @ W + b
        dhidden = hidden
        dW = x.T @ dhidden
        db = dhidden.sum(axis=0)
        grads = {"W": dW, "b": dhidden[0]}
        return 0.5 * np.sum(hidden**2), grads

    shapes = {"x": (4, 3), "W": (3, 2), "b": (2,)}
    report = backhand.check_pair(loss, None, lambda rng: {n: rng.normal(size=s) for n, s in shapes.items()})
    (row,) = report.culprits
    assert row.lines[0].text == 'grads = {"W": dW, "b": dhidden[0]}'


@pytest.mark.seconds
def test_a_wrong_line_in_nested_loops_is_told_by_what_belongs_in_each_turn():
    def pool_forward(x):
        out = np.zeros((2, 2, 3))
        for n in range(2):
            for i in range(2):
                for j in range(3):
                    out[n, i, j] = np.max(x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2])
        return out, x

    def pool_backward(dy, x):
        dx = np.zeros_like(x)
        for n in range(2):
            for i in range(2):
                for j in range(3):
                    window = x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                    share = np.exp(window - window.max())
                    dx[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += share / share.sum() * dy[n, i, j]
        return dx

    (row,) = backhand.check_pair(
        pool_forward, pool_backward, lambda rng: {"x": rng.normal(size=(2, 4, 6))}
    ).culprits
    assert row.lines[0].text.startswith("dx[n, 2 * i")
    assert "should give" in row.mistake.message


class Convolution:
    def __init__(self, pad=1):
        self.w, self.b, self.pad = np.random.default_rng(0).normal(size=(3, 2, 3, 3)), np.zeros(3), pad

    def forward(self, x):
        p = self.pad
        self.xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
        out = np.zeros((x.shape[0], 3, *x.shape[2:]))
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                patch = self.xp[:, :, i : i + 3, j : j + 3]
                out[:, :, i, j] = np.tensordot(patch, self.w, axes=([1, 2, 3], [1, 2, 3])) + self.b
        return out


def image(rng):
    return {"x": rng.normal(size=(2, 2, 4, 5))}


def test_what_one_try_puts_on_an_object_is_not_there_for_the_next():
    class Overwriting(Convolution):
        def backward(self, dout):
            p = self.pad
            dxp = np.zeros_like(self.xp)
            self.dw = np.zeros_like(self.w)
            self.db = dout.sum(axis=(0, 2, 3))
            for i in range(dout.shape[2]):
                for j in range(dout.shape[3]):
                    patch, d = self.xp[:, :, i : i + 3, j : j + 3], dout[:, :, i, j]
                    self.dw += np.tensordot(d, patch, axes=([0], [0]))
                    dxp[:, :, i : i + 3, j : j + 3] = np.tensordot(d, self.w, axes=([1], [0]))
            return dxp[:, :, p:-p, p:-p]

    (row,) = backhand.check_class(Overwriting, image).culprits
    assert row.mistake.kind == "overwritten"
    assert row.lines[0].text.startswith("dxp[:, :, i : i + 3, j : j + 3] = ")


def test_what_is_padded_and_not_cut_away_is_told_at_the_return_and_axes_by_all_of_them():
    class Uncut(Convolution):
        def backward(self, dout):
            dxp = np.zeros_like(self.xp)
            self.dw = np.zeros_like(self.w)
            self.db = dout.sum(axis=(0, 1))
            for i in range(dout.shape[2]):
                for j in range(dout.shape[3]):
                    patch, d = self.xp[:, :, i : i + 3, j : j + 3], dout[:, :, i, j]
                    self.dw += np.tensordot(d, patch, axes=([0], [0]))
                    dxp[:, :, i : i + 3, j : j + 3] += np.tensordot(d, self.w, axes=([1], [0]))
            return dxp

    rows = {row.name: row for row in backhand.check_class(Uncut, image).culprits}
    assert rows["x"].lines[0].text == "return dxp"
    assert "the right values are its part [:, :, 1:-1, 1:-1]" in rows["x"].mistake.message
    assert "not over (0, 2, 3)" in rows["b"].mistake.message


def test_the_axes_of_a_sum_are_no_numbers_whose_sign_may_be_wrong():
    (statement,) = ast.parse("y = x.sum(axis=(0, 2)) + z.mean((1, 2))").body
    numbers = [place for place in places_of(statement) if isinstance(place.node, ast.Constant)]
    assert [(place.node.value, place.role) for place in numbers] == [(n, "axis") for n in (0, 2, 1, 2)]
