"""Pairs in other forms: over torch with a cache, held by a class, with a context."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from backhand import CheckError, check_files, check_pair
from backhand.checking.sources.batches import Options
from backhand.checking.sources.declaring import declared
from backhand.checking.sources.files import opened
from backhand.checking.sources.watching import Watching

LAYERS = """
import torch


class Linear(object):
    @staticmethod
    def forward(x, w, b):
        return x.reshape(x.shape[0], -1).mm(w) + b, (x, w, b)

    @staticmethod
    def backward(dout, cache):
        x, w, b = cache
        dx = dout.mm(w.t()).reshape(x.shape)
        dw = x.reshape(x.shape[0], -1).t().mm(dout)
        db = dout.{db}
        return dx, dw, db


class ReLU(object):
    @staticmethod
    def forward(x):
        out = x.clone()
        out[out < 0] = 0
        return out, x

    @staticmethod
    def backward(dout, cache):
        dx = dout.clone()
        dx[cache < 0] = 0
        return dx


def rnn_step_forward(x, prev_h, Wx, Wh, b):
    next_h = torch.tanh(x.mm(Wx) + prev_h.mm(Wh) + b)
    return next_h, (x, prev_h, Wx, Wh, next_h)


def rnn_step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, next_h = cache
    da = dnext_h * (1 - next_h ** {power})
    return da.mm(Wx.t()), da.mm(Wh.t()), x.t().mm(da), prev_h.t().mm(da), da.sum(0)


def softmax_loss(x, y):
    dx = torch.softmax(x, dim=1)
    loss = -dx[torch.arange(len(y)), y].log().mean()
    dx[torch.arange(len(y)), y] -= 1
    dx /= len(y)
    return loss, dx
"""


def reports(file: Path, text: str) -> dict:
    file.write_text(text)
    with opened(file, Options()) as subjects:
        return {subject.name: subject.check() for subject in subjects}


def test_a_file_over_torch_with_caches_is_judged_layer_by_layer(tmp_path: Path):
    found = reports(tmp_path / "layers.py", LAYERS.format(db="sum(dim=0)", power=2))
    assert {name: report.ok for name, report in found.items()} == dict.fromkeys(
        ("Linear", "ReLU", "rnn_step_backward", "softmax_loss"), True
    )


def test_a_wrong_line_over_torch_is_told_by_name(tmp_path: Path):
    found = reports(tmp_path / "layers.py", LAYERS.format(db="mean(dim=0)", power=1))
    (row,) = found["Linear"].culprits
    assert (row.gradient, row.mistake.kind, row.lines[0].text) == ("db", "scale", "db = dout.mean(dim=0)")
    (row,) = found["rnn_step_backward"].culprits
    assert row.lines[0].text == "da = dnext_h * (1 - next_h ** 1)"


def test_tensors_as_inputs_say_that_a_pair_is_over_torch():
    def forward(a, b):
        return a * b, (a, b)

    def backward(dout, cache):
        _, b = cache
        return dout * b, dout * b

    inputs = {"a": torch.randn(3, 4), "b": torch.randn(3, 4)}
    assert [row.gradient for row in check_pair(forward, backward, inputs).culprits] == ["db"]


class Normalise:
    @staticmethod
    def forward(ctx, x, gamma):
        inv = 1 / np.sqrt(x.var(axis=0) + 1e-5)
        hat = (x - x.mean(axis=0)) * inv
        ctx.save_for_backward(hat, gamma)
        ctx.inv = inv
        return hat * gamma

    @staticmethod
    def backward(ctx, grad_output):
        hat, gamma = ctx.saved_tensors
        dgamma = (grad_output * hat).sum(axis=0)
        dhat = grad_output * gamma
        dx = ctx.inv * (dhat - dhat.mean(axis=0) - hat * (dhat * hat).mean(axis=0))
        return dx, dgamma


def inputs_of_it(rng: np.random.Generator) -> dict:
    return {"x": rng.normal(size=(4, 3)), "gamma": rng.normal(size=3)}


def test_what_is_saved_on_a_context_is_handed_on():
    assert check_pair(Normalise.forward, Normalise.backward, inputs_of_it).ok

    def backward(ctx, grad_output):
        return Normalise.backward(ctx, grad_output)[0], (grad_output * ctx.inv).sum(axis=0)

    report = check_pair(Normalise.forward, backward, inputs_of_it)
    assert [row.gradient for row in report.culprits] == ["dgamma"]


def test_an_input_of_another_name_is_refused_without_the_context():
    with pytest.raises(CheckError, match="has no parameter y: it has x, gamma"):
        check_pair(Normalise.forward, Normalise.backward, {"y": np.ones(3)})


def test_a_pair_that_a_class_holds_is_watched_under_its_name(tmp_path: Path):
    file = tmp_path / "layers.py"
    file.write_text(LAYERS.format(db="sum(dim=1)[0]", power=2))
    space: dict = {"__name__": "__main__"}
    exec(compile(file.read_text(), str(file), "exec"), space)
    before = vars(space["Linear"])["forward"]
    watching = Watching()
    watching.watch(space)
    x = torch.randn(4, 3, requires_grad=True) * 2  # in a graph: nothing that can be copied as it is
    out, cache = space["Linear"].forward(x, torch.randn(3, 5), torch.randn(5))
    space["Linear"].backward(out, cache)
    (seen,) = watching.take()
    assert seen.title == "Linear"
    assert not seen.check().ok
    watching.release(space)
    assert vars(space["Linear"])["forward"] is before


def test_what_hands_no_cache_on_beside_torch_is_something_else():
    function = "import torch\n\nclass F(torch.autograd.Function):\n    def forward(ctx, x): ...\n"
    assert not declared(ast.parse(f"{function}    def backward(ctx, g): ...\n")).layers
    module = "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x): ...\n"
    assert not declared(ast.parse(module)).layers


def test_a_forward_may_keep_a_graph_of_its_own_for_its_backward() -> None:
    def doubled_forward(x):
        leaf = x.detach().requires_grad_()
        out = leaf * 2
        return out, (leaf, out)

    def doubled_backward(dout, cache):
        leaf, out = cache
        out.backward(dout)
        return leaf.grad

    report = check_pair(doubled_forward, doubled_backward, {"x": torch.randn(4, 3)})
    assert report.ok
    assert report.truth == "central differences"


OF_LAYERS = """
import numpy as np


class Scale:
    def forward(self, x):
        return 3 * x

    def backward(self, dout):
        return 3 * dout


class Twice:
    def __init__(self):
        self.inner = Scale()

    def forward(self, x):
        return self.inner.forward(self.inner.forward(x)), {"x": x}

    def backward(self, dout, cache):
        return self.inner.backward(self.inner.backward(dout))


class Empty:
    def forward(self, x):
        self.out = 2 * x
        return self.out

    def cost(self, out, y):
        return np.sum((out - y) ** 2)

    def backward(self, x, y):
        dout = 2 * (self.out - y)
"""


def test_layers_that_call_the_backward_of_others_are_not_over_torch(tmp_path: Path):
    file = tmp_path / "layers.py"
    file.write_text(OF_LAYERS)
    found = {checked.name: checked for checked in check_files([file])}
    assert found["Twice"].report is not None
    assert found["Twice"].report.ok
    assert found["Empty"].problem == "Empty returns no gradient, and leaves none on itself."
